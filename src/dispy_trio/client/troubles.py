"""Why nodes can't be used now: each reason is told once, when it comes up."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field

from dispy_trio.errors import AuthenticationError, DispyError, PythonMismatch, VersionMismatch
from dispy_trio.logs import log

__all__ = ["Troubles", "is_for_good"]

MOST_REASONS = 20
"""Reasons of one node that are told before it is usable; some texts are the node's own."""
NODES_SHOWN = 4


def is_for_good(error: DispyError) -> bool:
    """Is it a refusal that no waiting changes: another secret, certificate, Python or protocol?"""
    return isinstance(error, (AuthenticationError, VersionMismatch, PythonMismatch))


@define(eq=False)
class Troubles:
    """The nodes of one cluster that can't be used now, with the reason."""

    _reasons: dict[str, str] = field(factory=dict)
    _told: dict[str, set[str]] = field(factory=dict)
    """What was said of a node since it worked last."""

    def note(self, key: str, reason: str, *, retried: bool = True) -> None:
        """A node can't be used; say so, unless it was said since the node worked last."""
        reason = self._reasons[key] = _without_name(reason, key)
        told = self._told.setdefault(key, set())
        if reason not in told and len(told) < MOST_REASONS:
            told.add(reason)
            end = " (retrying)" if retried else ""
            log.warning("node %s is not usable: %s%s", key, reason, end)

    def mend(self, key: str) -> None:
        """There is a session with it again; how long it lasts is another question."""
        self._reasons.pop(key, None)

    def works(self, key: str) -> None:
        """It can run jobs: what goes wrong from now on is news."""
        self._reasons.pop(key, None)
        if self._told.pop(key, None):
            log.info("node %s is usable", key)

    def forget(self, key: str) -> None:
        """It worked for a while, or nobody will use it any more."""
        self._reasons.pop(key, None)
        self._told.pop(key, None)

    def describe(self, keys: Iterable[str], states: dict[str, str]) -> str:
        """What is the matter with each of these nodes.

        Args:
            keys: of the nodes.
            states: what is to be said of those that have no trouble.
        """
        texts = []
        for key in keys:
            text = self._reasons.get(key) or states.get(key) or "no answer yet"
            # Of a traceback, the line that tells.
            line = text.rstrip().rpartition("\n")[2]
            texts.append(f"{key}: {line}")
        more = len(texts) - NODES_SHOWN
        return "; ".join(texts[:NODES_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _without_name(reason: str, key: str) -> str:
    """The reason, where the node was named already."""
    for name in (key, f"node {key}"):
        if reason.startswith(f"{name}: "):
            return reason.removeprefix(f"{name}: ")
        if reason.startswith(f"{name} "):
            return f"it {reason.removeprefix(name).lstrip()}"
    return reason
