"""The life of a job, as a table.

`MOVES` is the whole of it: what is not listed can't happen. The picture in the documentation is
drawn from it (see `draw`).

A job that was reported `Abandoned` may still become `Finished` or `Terminated`, once, when the
node that was thought lost comes back with that same attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from dispy_trio.errors import IllegalMove
from dispy_trio.models import Job, JobStatus, Outcome

__all__ = ["ENDED", "MOVES", "draw", "has_ended", "has_run", "move", "status_of", "try_again"]

S = TypeVar("S", bound=Enum)

_S = JobStatus

MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    _S.Created: frozenset(
        {_S.Running, _S.ProvisionalResult, _S.Cancelled, _S.Terminated, _S.Abandoned, _S.Finished}
    ),
    _S.Running: frozenset(
        {_S.Created, _S.ProvisionalResult, _S.Cancelled, _S.Terminated, _S.Abandoned, _S.Finished}
    ),
    _S.ProvisionalResult: frozenset(
        {
            _S.Created,
            _S.ProvisionalResult,
            _S.Cancelled,
            _S.Terminated,
            _S.Abandoned,
            _S.Finished,
        }
    ),
    _S.Abandoned: frozenset({_S.Terminated, _S.Finished}),
    _S.Cancelled: frozenset(),
    _S.Terminated: frozenset(),
    _S.Finished: frozenset(),
}

ENDED = frozenset({_S.Cancelled, _S.Terminated, _S.Abandoned, _S.Finished})


def has_ended(job: Job) -> bool:
    return job.state in ENDED


def move(job: Job, status: JobStatus) -> None:
    """Change a job's status; last of all, for other threads that see it look at the rest.

    Raises:
        IllegalMove: the table does not hold that move; the text tells the job's story.
    """
    if status not in MOVES[job.state]:
        raise IllegalMove(
            f"job {job.number} (attempt {job.attempt}, node {job.node_key}) can't go from"
            f" {job.state.name} to {status.name}"
        )
    job.state = status


def try_again(job: Job) -> None:
    """Back to the queue: frames about the try that ends here are stale from now on."""
    if job.state is not JobStatus.Created:
        move(job, JobStatus.Created)
    job.attempt += 1
    job.node_key = None


def status_of(outcome: int) -> JobStatus:
    """The status users see for an outcome a node reports.

    A job cancelled before it ran is Cancelled; one cancelled while it ran is Terminated, as in
    dispy.
    """
    if outcome == Outcome.RETURNED:
        return _S.Finished
    if outcome == Outcome.CANCELLED:
        return _S.Cancelled
    return _S.Terminated


def draw(moves: Mapping[S, frozenset[S]]) -> str:
    """A table of moves as a Mermaid state diagram; its first state is where life begins."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(moves)).name}"]
    for source, targets in moves.items():
        ordered = sorted(targets, key=lambda state: list(moves).index(state))
        lines += [f"    {source.name} --> {target.name}" for target in ordered]
        if not targets:
            lines.append(f"    {source.name} --> [*]")
    return "\n".join(lines)


def has_run(job: Job) -> bool:
    """Did a job that has ended run before, and not only wait?"""
    if job.started_at is None or job.outcome in (Outcome.CANCELLED, Outcome.REFUSED):
        return False
    return job.state in (JobStatus.Finished, JobStatus.Terminated)
