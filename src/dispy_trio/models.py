"""Facts that users see, and the record of one job.

The numbers of `JobStatus` are those of dispy 4.15: programs compare and sort them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from attrs import define, frozen

__all__ = ["ClusterStatus", "Job", "JobStatus", "NodeInfo", "Outcome"]


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


@frozen
class NodeInfo:
    """A node as a cluster sees it."""

    name: str
    address: str
    """``host:port``"""
    cpus: int
    busy: int
    """Jobs sent there that have not ended."""
    jobs_done: int
    cpu_time: float
    """Seconds of wall time its jobs took, summed."""
    connected: bool


class ClusterStatus(NamedTuple):
    """What `JobCluster.status` returns; a named tuple, as in dispy."""

    nodes: list[NodeInfo]
    jobs_pending: int
    """Jobs submitted that have not ended."""


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
    output: tuple[bytes, bytes] | None = None
    """What it wrote to stdout and stderr."""
