"""The time that a Trio program's jobs have: until the deadlines of its cancel scopes, and once nobody
wants them any more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from dispy_trio.models import KILL_SECONDS, JobExtras, JobOptions

if TYPE_CHECKING:
    from dispy_trio.client.engine import Engine
    from dispy_trio.client.handles import JobHandle

__all__ = ["ANSWER_SECONDS", "extras_in_scope", "extras_until", "most_seconds", "stop", "why"]

ANSWER_SECONDS = 3.0
"""How much later than it kills a job a node has told so, if it answers at all."""


def extras_in_scope(options: JobOptions | None, of_all: JobOptions) -> JobExtras | None:
    """The extras of a job that is submitted here and now, under the cancel scopes of this task.

    Args:
        options: the job's own; None when it has none.
        of_all: those of the cluster's jobs.
    """
    return extras_until(trio.current_effective_deadline(), options, of_all)


def extras_until(
    deadline: float, options: JobOptions | None, of_all: JobOptions
) -> JobExtras | None:
    """The same where the deadline is known, by Trio's clock; infinity for none."""
    if deadline == math.inf:
        return None if options is None else JobExtras(options)
    return JobExtras(options or of_all, due=deadline)


def most_seconds(engine: Engine, job: JobHandle[Any]) -> float:
    """How long a job may take to end that is stopped: its grace, until it is killed, and the answer."""
    grace = engine.work.opening.options.grace
    if job.extras is not None and (own := job.extras.options.conditions.grace) is not None:
        grace = own
    return grace + KILL_SECONDS + ANSWER_SECONDS


async def stop(engine: Engine, job: JobHandle[Any], reason: str) -> None:
    """Stop a job, and wait until it has ended. Bounded, and not to be cancelled.

    A job whose node does not tell of its end for `most_seconds` ends as Abandoned.
    """
    engine.cancel(job, reason)
    seconds = most_seconds(engine, job)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
        await job.wait_ended()
    if not job.ended:
        engine.give_up_job(
            job,
            f"it did not tell within {seconds:g} s that this job has ended, which was cancelled",
        )


def why(exc: BaseException) -> str:
    """Why a wait was given up, if that was said: newer Trio knows it."""
    if isinstance(exc, KeyboardInterrupt):
        return "KeyboardInterrupt"
    if reason := getattr(exc, "reason", None):
        return str(reason)
    return "a deadline has passed" if getattr(exc, "source", None) == "deadline" else ""
