"""Facts that users see, and the record of one job.

The numbers of `JobStatus` are those of dispy 4.15: programs compare and sort them.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

from attrs import define, field, frozen
from msgspec import Meta

from dispy_trio.texts import NAME_LIMIT

__all__ = [
    "CONDITIONS_OF_MOST",
    "GRACE",
    "KILL_SECONDS",
    "MOST_RESOURCES",
    "MOST_SLOTS",
    "OPTIONS_OF_MOST",
    "Conditions",
    "Job",
    "JobExtras",
    "JobFile",
    "JobOptions",
    "JobStatus",
    "Outcome",
    "Seconds",
    "SlotHolder",
    "Slots",
]

Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
"""A duration: no timer breaks by it."""
GRACE = 5.0
"""Seconds that a job which is stopped has from its interrupt to its SIGTERM, if nobody says more."""
KILL_SECONDS = 2.0
"""From its SIGTERM to its SIGKILL."""
MOST_SLOTS = 1_000_000
MOST_RESOURCES = 100
Slots = Annotated[int, Meta(ge=0, le=MOST_SLOTS)]


class JobStatus(IntEnum):
    """Where a job is in its life."""

    Created = 5
    Running = 6
    ProvisionalResult = 7
    Cancelled = 8
    Terminated = 9
    Abandoned = 10
    Finished = 11


class Outcome(IntEnum):
    """How a job ended, as the node tells it; it says what the payload is."""

    RETURNED = 0
    """The pickled result."""
    RAISED = 1
    """Pickled ``(type name, message, traceback text, pickled exception or None)``."""
    UNPICKLABLE = 2
    """The job returned something that can't be pickled; UTF-8 text."""
    EXITED = 3
    """The job called `sys.exit`; UTF-8 text with its traceback."""
    DIED = 4
    """The worker process ended under the job; UTF-8 text that says how."""
    CANCELLED = 5
    """Cancelled before it started; UTF-8 text."""
    REFUSED = 6
    """Never started: its arguments can't be unpickled there, say; UTF-8 text."""
    INTERRUPTED = 7
    """Cancelled while it ran; UTF-8 text."""
    TIMED_OUT = 8
    """It ran longer than its timeout, or its deadline passed; UTF-8 text."""


@frozen
class Conditions:
    """What a job asks of the node that runs it."""

    timeout: Seconds = 0.0
    """Seconds that one try may run; 0 for no limit."""
    cpus: Annotated[int, Meta(ge=1, le=MOST_SLOTS)] = 1
    """Slots it takes."""
    gpus: Slots = 0
    resources: Annotated[
        dict[Annotated[str, Meta(max_length=NAME_LIMIT)], Annotated[int, Meta(ge=0, le=2**62)]],
        Meta(max_length=MOST_RESOURCES),
    ] = field(factory=dict)
    """Amounts of named resources it takes."""
    isolated: bool = False
    """It has a worker process of its own, forked for it."""
    max_jobs: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Jobs after which its worker is replaced; 0 for no limit."""
    memory: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Bytes of memory its process may use; 0 for no limit."""
    grace: Seconds | None = None
    """Seconds that it has after its interrupt; None for as many as its computation gives."""


CONDITIONS_OF_MOST = Conditions()


@frozen
class JobOptions:
    """How one job is to be run; see `JobCluster.options`."""

    conditions: Conditions = CONDITIONS_OF_MOST
    priority: int = 0
    """Higher ones go first; 0 is everybody's."""
    deadline: float | None = None
    """Seconds after its submission."""
    retries: int = 0
    """How often it is tried again after it failed."""
    retry_delay: float = 1.0
    """Seconds before the first new try; doubled each time."""


OPTIONS_OF_MOST = JobOptions()


class JobFile(NamedTuple):
    """A file to be put where a job or a computation runs."""

    source: str
    """Path at the client."""
    target: str
    """Relative path on the node."""


@frozen
class SlotHolder:
    """A client that takes slots of a node."""

    client: Annotated[str, Meta(max_length=NAME_LIMIT)]
    """``host:port``"""
    slots: Slots
    away: Seconds | None
    """Seconds since its connection ended; None while it is there."""

    def __str__(self) -> str:
        slots = f"{self.slots} slot" + ("" if self.slots == 1 else "s")
        away = "" if self.away is None else f", away for {_spell(self.away)}"
        return f"{self.client} ({slots}{away})"


def _spell(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@define(eq=False)
class JobExtras:
    """What only few jobs have."""

    options: JobOptions = JobOptions()
    files: tuple[JobFile, ...] = ()
    """To be put into its directory before it starts."""
    pinned: str | None = None
    """The node it must run on, by its key."""
    tries: int = 0
    """New tries made, of `options.retries`."""
    late: bool = False
    """Its deadline has passed."""
    provisional: Any = None
    """The pickled result it has sent last, before its end."""
    progress: tuple[float, str] | None = None
    """What it told of itself: a fraction of 1, and a text."""
    due: float = math.inf
    """When it has to have ended, by the client's clock."""
    why: str = ""
    """Why it was cancelled, if anybody said so."""


@define(eq=False)
class Job:
    """The record of one job, shared by the scheduling core and the handle users hold.

    One object per job and no other: a million queued jobs are a million of these.
    """

    number: int
    payload: Any
    """The pickled arguments, or `compute.packaging.Parts` for large ones; None once ended."""
    state: JobStatus = JobStatus.Created
    attempt: int = 0
    outcome: int = -1
    reply: Any = None
    """The payload of the result, still pickled; buffers when it came in parts."""
    started_at: float | None = None
    ended_at: float | None = None
    computation: int = 1
    size: int = 0
    """Bytes of a large payload that is not ``bytes``."""
    node_key: str | None = None
    """The roster's key of the node it was sent to last."""
    cancelling: bool = False
    output: tuple[bytes | memoryview | None, bytes | memoryview | None] | None = None
    """What it wrote to stdout and stderr; None for what the user has dropped."""
    extras: JobExtras | None = None
