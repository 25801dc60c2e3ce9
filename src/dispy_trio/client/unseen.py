"""The failed jobs of a cluster that nobody has looked at: who closes the cluster is told of them.

Jobs that finish have no part in this. Of a failed one only the number is kept, and of the first ones
a line: whoever lets go of a job gives its memory back, and the job is still one that failed unseen.
"""

from __future__ import annotations

import os
import reprlib
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from attrs import define, field

from dispy_trio.compute.packaging import exception_line
from dispy_trio.logs import log
from dispy_trio.models import JobStatus, Outcome
from dispy_trio.texts import NOTE_LIMIT

if TYPE_CHECKING:
    from dispy_trio.client.jobs import UserJob

__all__ = ["FAILED", "Unseen", "failure_line", "has_failed", "look_at"]

FAILED = frozenset({JobStatus.Terminated, JobStatus.Abandoned})
_CANCELLED = frozenset({Outcome.CANCELLED, Outcome.INTERRUPTED})
MOST_LINES = 100
"""Failed jobs of which more than the number is kept."""

_owners: weakref.WeakKeyDictionary[UserJob[Any], Unseen | None] = weakref.WeakKeyDictionary()
"""Failed jobs; None for those that somebody has looked at."""
_lock = threading.Lock()


def _renew_lock() -> None:
    """Somebody may have held it at the moment of the fork."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@define(eq=False)
class Unseen:
    """Those of one cluster."""

    wanted: bool = True
    """False when there are callbacks, which are told of each."""
    _numbers: set[int] = field(factory=set)
    _lines: dict[int, str] = field(factory=dict)

    def add(self, jobs: Iterable[UserJob[Any]]) -> None:
        """They have ended; those count that have failed by themselves and were not looked at since."""
        if not self.wanted:
            return
        for job in jobs:
            if not has_failed(job):
                continue
            line = ""
            if len(self._lines) < MOST_LINES:
                # An id may be anything, and so may its repr.
                line = f"job {reprlib.repr(job.id)}, {failure_line(job)}"[:NOTE_LIMIT]
            with _lock:
                if job in _owners:
                    continue
                _owners[job] = self
                self._numbers.add(job.number)
                if line:
                    self._lines[job.number] = line

    def forget(self, number: int) -> None:
        self._numbers.discard(number)
        self._lines.pop(number, None)

    def tell(self, name: str, total: int) -> None:
        """Say how many there are, once.

        Args:
            name: of the computation.
            total: jobs of the cluster that have ended.
        """
        with _lock:
            count, lines = len(self._numbers), self._lines
            self._numbers, self._lines = set(), {}
        if count:
            first = f" first: {lines[min(lines)]};" if lines else ""
            log.warning(
                "cluster %s: %d of %d jobs failed;%s see job.exception", name, count, total, first
            )


def has_failed(job: UserJob[Any]) -> bool:
    """Has it ended without a result, and not because somebody has cancelled it?"""
    return job.state in FAILED and not (job.cancelling or job.outcome in _CANCELLED)


def look_at(job: UserJob[Any]) -> None:
    """Somebody looks at a job that has failed: at its status, its exception, or all that is shown of it.

    That its result is None tells nothing, and who reads no more than that is told at the end.
    """
    with _lock:
        owner = _owners.get(job)
        _owners[job] = None
        if owner is not None:
            owner.forget(job.number)


def failure_line(job: UserJob[Any]) -> str:
    """What went wrong with a failed job, in a line; nothing of the user's is unpickled for it."""
    if job.outcome == Outcome.RAISED:
        return exception_line(job.reply)
    told = job.reply if isinstance(job.reply, bytes) else b"".join(job.reply or ())
    return told.decode(errors="replace").partition("\n")[0]
