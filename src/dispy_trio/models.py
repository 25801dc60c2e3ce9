"""Facts that users see, and the record of one job.

The numbers of `JobStatus` are those of dispy 4.15: programs compare and sort them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, NamedTuple

from attrs import define, field, frozen
from msgspec import Meta

__all__ = [
    "CONDITIONS_OF_MOST",
    "Conditions",
    "Job",
    "JobExtras",
    "JobFile",
    "JobOptions",
    "JobStatus",
    "Outcome",
    "Seconds",
    "Slots",
]

Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
"""A duration: no timer breaks by it."""
Slots = Annotated[int, Meta(ge=0, le=1_000_000)]


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
    cpus: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Slots it takes."""
    gpus: Slots = 0
    resources: Annotated[
        dict[Annotated[str, Meta(max_length=250)], Annotated[int, Meta(ge=0, le=2**62)]],
        Meta(max_length=100),
    ] = field(factory=dict)
    """Amounts of named resources it takes."""
    isolated: bool = False
    """It has a worker process of its own, forked for it."""
    max_jobs: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Jobs after which its worker is replaced; 0 for no limit."""
    memory: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Bytes of memory its process may use; 0 for no limit."""


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


class JobFile(NamedTuple):
    """A file to be put where a job or a computation runs."""

    source: str
    """Path at the client."""
    target: str
    """Relative path on the node."""


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


@define(eq=False)
class Job:
    """The record of one job, shared by the scheduling core and the handle users hold.

    One object per job and no other: a million queued jobs are a million of these.
    """

    number: int
    payload: Any
    """The pickled arguments, or `compute.packaging.Parts` for large ones; None once ended."""
    status: JobStatus = JobStatus.Created
    attempt: int = 0
    outcome: int = -1
    reply: Any = None
    """The payload of the result, still pickled; buffers when it came in parts."""
    start_time: float | None = None
    end_time: float | None = None
    computation: int = 1
    size: int = 0
    """Bytes of a large payload that is not ``bytes``."""
    node: str | None = None
    """The roster's key of the node it was sent to last."""
    cancelling: bool = False
    output: tuple[bytes | memoryview, bytes | memoryview] | None = None
    """What it wrote to stdout and stderr."""
    extras: JobExtras | None = None
