"""Jobs, nodes and clusters in a line, for prompts and logs, and as HTML for notebooks.

What a job was given and what it returned may be large, and its `repr` the user's own code: shown is
little of it, and nothing is unpickled that is not small.
"""

from __future__ import annotations

import html
import reprlib
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dispy_trio.client.tables import size_text
from dispy_trio.client.unseen import FAILED, failure_line
from dispy_trio.errors import ResultUnpicklable
from dispy_trio.models import JobStatus

if TYPE_CHECKING:
    from dispy_trio.client.jobs import UserJob
    from dispy_trio.client.nodes import DispyNode

__all__ = ["cluster_html", "cluster_text", "job_html", "job_text", "node_html", "node_text"]

SHOWN = 80
"""Characters of a result or an error."""
SMALL = 2000
"""Bytes of a result that is unpickled to be shown."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = SHOWN
_short.maxlevel = 3


def _fit(text: str) -> str:
    text = " ".join(text.splitlines())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _spell(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


# --- jobs ------------------------------------------------------------------------------------------
def _facts(job: UserJob[Any]) -> list[tuple[str, str]]:
    """What there is to tell of a job, each under its name."""
    status = job.status  # Of a program's own job, whatever it has set.
    facts = [
        ("job", _fit(_short.repr(job.id))),
        ("status", str(getattr(status, "name", None) or status)),
    ]
    if job.node is not None:
        facts.append(("node", job.node))
    if job.start_time is not None and job.state is not JobStatus.Created:
        # The node's clock, which may differ from ours.
        end = time.time() if job.end_time is None else job.end_time
        facts.append(("time", _spell(max(0.0, end - job.start_time))))
    if job.state is JobStatus.Finished:
        facts.append(("result", _result_text(job)))
    elif job.state in FAILED:
        facts.append(("error", _fit(failure_line(job))))
    return facts


def _result_text(job: UserJob[Any]) -> str:
    reply = job.reply  # None once somebody has looked at the result.
    size = len(reply) if isinstance(reply, bytes) else sum(map(len, reply or ()))
    if size > SMALL:
        return f"{size_text(size)}, not looked at yet"
    try:
        return _fit(_short.repr(job.result))
    except ResultUnpicklable as exc:
        return _fit(str(exc))
    except Exception as exc:
        return f"its repr raises {type(exc).__name__}"


def job_text(name: str, job: UserJob[Any]) -> str:
    """A job in a line."""
    facts = dict(_facts(job))
    text = f"<{name} {facts['job']} {facts['status']}"
    if "node" in facts:
        text += f" on {facts['node']}"
    if "time" in facts:
        text += f", {facts['time']}"
    told = facts.get("result") or facts.get("error")
    return f"{text}: {told}>" if told else f"{text}>"


def job_html(job: UserJob[Any]) -> str:
    """A job as a small table."""
    return _table([], _facts(job))


# --- nodes and clusters ----------------------------------------------------------------------------
def node_text(node: DispyNode) -> str:
    """A node in a line."""
    state = "" if node.connected else ", not connected"
    return (
        f"<DispyNode {node.address} ({node.name}){state}, {node.busy} jobs at {node.cpus} slots,"
        f" {node.jobs_done} done>"
    )


def cluster_text(name: str, computation: str, state: str, nodes: Sequence[DispyNode]) -> str:
    """A cluster in a line.

    Args:
        name: of its class.
        computation: that it runs.
        state: of the cluster and its jobs.
        nodes: that it has found.
    """
    there = [node for node in nodes if node.connected]
    slots = sum(node.cpus for node in there)
    count = f"{len(there)} node{'' if len(there) == 1 else 's'}"
    return f"<{name} {computation!r}, {state}, {count} with {slots} slots>"


_COLUMNS = ("node", "name", "slots", "jobs there", "jobs done", "sec/job", "state")


def _row(node: DispyNode) -> tuple[str, ...]:
    mean = node.cpu_time / node.jobs_done if node.jobs_done else 0.0
    state = node.error or ("connected" if node.connected else "not connected")
    numbers = (node.cpus, node.busy, node.jobs_done, f"{mean:.3g}")
    return (node.address, node.name, *map(str, numbers), _fit(state.rstrip().rpartition("\n")[2]))


def node_html(node: DispyNode) -> str:
    """A node as a table of one row."""
    return _table(_COLUMNS, [_row(node)])


def cluster_html(text: str, nodes: Iterable[DispyNode]) -> str:
    """A line about a cluster, and the table of its nodes."""
    return f"<p>{html.escape(text)}</p>{_table(_COLUMNS, map(_row, nodes))}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cells(kind: str, row: Sequence[str]) -> str:
        inner = "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in row)
        return f"<tr>{inner}</tr>"

    body = (cells("th", head) if head else "") + "".join(cells("td", row) for row in rows)
    return f"<table>{body}</table>"
