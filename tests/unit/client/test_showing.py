"""Jobs, nodes and clusters in a line and as HTML: little of what users made, and never a payload."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dispy_trio.client.handles import JobHandle
from dispy_trio.client.jobs import SubmittedJob, snapshot
from dispy_trio.client.nodes import DispyNode
from dispy_trio.client.showing import cluster_html, cluster_text
from dispy_trio.core.nodes import NodeRecord, NodeState
from dispy_trio.models import JobStatus, Outcome

NODE = "10.0.0.2:9701"


def finished(result: Any, **changes: Any) -> SubmittedJob[Any]:
    facts: dict[str, Any] = {
        "state": JobStatus.Finished,
        "outcome": Outcome.RETURNED,
        "reply": pickle.dumps(result),
        "node_key": NODE,
        "started_at": 100.0,
        "ended_at": 100.25,
    }
    return SubmittedJob(7, None, id=7, **{**facts, **changes})


def failed(outcome: Outcome, reply: bytes) -> SubmittedJob[Any]:
    return finished(None, state=JobStatus.Terminated, outcome=outcome, reply=reply)


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Wordy:
    def __repr__(self) -> str:
        return "first line\n" + 10**6 * "y"


RAISED = pickle.dumps(("ZeroDivisionError", "by\nzero", "Traceback …\nand a note", None))
LINES = [
    (SubmittedJob(7, b"x" * 120_000, id=7), "<DispyJob 7 Created>"),
    (SubmittedJob(7, b"x", id="a" * 500), None),
    (JobHandle(7, b"x", id=7), "<JobHandle 7 Created>"),
    (finished(49), f"<DispyJob 7 Finished on {NODE}, 250 ms: 49>"),
    (finished(None, ended_at=111.5), f"<DispyJob 7 Finished on {NODE}, 11.5 s: None>"),
    (
        finished("x" * 120_000),
        f"<DispyJob 7 Finished on {NODE}, 250 ms: 117.2 K, not looked at yet>",
    ),
    (
        finished(list(range(500))),
        f"<DispyJob 7 Finished on {NODE}, 250 ms: [0, 1, 2, 3, 4, 5, ...]>",
    ),
    (finished(Wordy()), None),
    (finished(Shy()), None),
    (
        finished(0, reply=b"no pickle"),
        None,
    ),
    (
        failed(Outcome.RAISED, RAISED),
        f"<DispyJob 7 Terminated on {NODE}, 250 ms: ZeroDivisionError: by zero>",
    ),
    (
        failed(Outcome.DIED, b"killed by SIGSEGV (11), on node n\nFatal"),
        f"<DispyJob 7 Terminated on {NODE}, 250 ms: killed by SIGSEGV (11), on node n>",
    ),
    (snapshot(finished(49), JobStatus.Created), f"<DispyJob 7 Created on {NODE}>"),
]


@pytest.mark.parametrize(("job", "line"), LINES)
def test_a_job_is_a_line(job: Any, line: str | None) -> None:
    shown = repr(job)
    assert line in (None, shown)
    assert len(shown) < 300
    assert "\n" not in shown


def test_a_result_that_was_looked_at_is_shown_in_short() -> None:
    job = finished("x" * 120_000)
    assert len(job.result) == 120_000
    assert "'xxxx" in repr(job)
    assert len(repr(job)) < 300


def test_a_job_in_a_notebook() -> None:
    html = finished("<b>&")._repr_html_()
    cells = {"job": "7", "status": "Finished", "node": NODE, "time": "250 ms"}
    for name, text in {**cells, "result": "&#x27;&lt;b&gt;&amp;&#x27;"}.items():
        assert f"<tr><td>{name}</td><td>{text}</td></tr>" in html


def node(state: NodeState = NodeState.CONNECTED, error: str | None = None) -> DispyNode:
    record = NodeRecord(NODE, "i", "n<1>", 4, state=state, jobs_done=2, cpu_time=5.0, error=error)
    return DispyNode(NODE, {NODE: record}.get)


def test_a_node_is_a_line() -> None:
    assert repr(node()) == f"<DispyNode {NODE} (n<1>), 0 jobs at 4 slots, 2 done>"
    lost = f"<DispyNode {NODE} (n<1>), not connected, 0 jobs at 4 slots, 2 done>"
    assert repr(node(NodeState.LOST)) == lost


def test_a_cluster_is_a_line_and_its_nodes_a_table() -> None:
    nodes = [node(), node(NodeState.LOST), node(error="Traceback\n  setup\nOSError: gone")]
    text = cluster_text("JobCluster", "compute", "100 jobs, 3 pending", nodes)
    assert text == "<JobCluster 'compute', 100 jobs, 3 pending, 2 nodes with 8 slots>"
    html = cluster_html(text, nodes)
    assert html.startswith("<p>&lt;JobCluster &#x27;compute&#x27;, 100 jobs")
    assert html.count("<tr>") == 4
    assert f"<td>{NODE}</td><td>n&lt;1&gt;</td><td>4</td><td>0</td><td>2</td><td>2.5</td>" in html
    for state in ("connected", "not connected", "OSError: gone"):
        assert f"<td>{state}</td></tr>" in html
    assert nodes[0]._repr_html_().count("<tr>") == 2
