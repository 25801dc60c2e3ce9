"""What machines want done. Imperative, because nothing has happened yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from dispy_trio import messages
from dispy_trio.models import Job

__all__ = [
    "AnnounceEnded",
    "AnnounceFailed",
    "AnnounceNode",
    "AnnounceStarted",
    "CloseComplete",
    "CloseTemplate",
    "ClusterCommand",
    "InterruptJob",
    "KillWorker",
    "LingerAtSession",
    "LingerAtWorker",
    "NodeCommand",
    "OpenTemplate",
    "PollWorker",
    "RecallWorker",
    "ReleaseSegment",
    "Send",
    "SendBulkJob",
    "SendJobsToWorker",
    "SendResults",
    "SendStarted",
    "StartWorker",
    "StartedJob",
    "TerminateJob",
]


@frozen(eq=False)
class Send:
    """Send a message to a node, or from a node to a session."""

    target: str
    message: messages.Message


# --- of a ClusterMachine -----------------------------------------------------------------------
@frozen(eq=False)
class SendBulkJob:
    """Send a job whose arguments go over the bulk connection."""

    node: str
    computation: int
    job: Job


@frozen(eq=False)
class AnnounceEnded:
    """Wake whoever waits for these jobs: they have their final status."""

    jobs: Sequence[Job]
    again: bool = False
    """They had ended as abandoned before, and their results came after all."""


@frozen(eq=False)
class AnnounceStarted:
    """These jobs run by now."""

    jobs: Sequence[Job]


@frozen
class AnnounceNode:
    """A node became usable for a computation, or ceased to be."""

    node: str
    computation: int
    usable: bool
    reason: str


@frozen
class AnnounceFailed:
    """No node can run the computation; its waiting jobs have ended with this text."""

    computation: int
    reason: str


@frozen
class CloseComplete:
    """Nothing of the computation is left on any node that can be reached."""

    computation: int


ClusterCommand = (
    Send
    | SendBulkJob
    | AnnounceEnded
    | AnnounceStarted
    | AnnounceNode
    | AnnounceFailed
    | CloseComplete
)


# --- of a NodeMachine --------------------------------------------------------------------------
@frozen(eq=False)
class OpenTemplate:
    """Start a template process for a session's computation."""

    session: str
    computation: int
    name: str
    bundle: Any
    options: dict[str, Any]


@frozen
class CloseTemplate:
    """Kill what is left of the computation's processes; `TemplateClosed` follows."""

    session: str
    computation: int


@frozen
class StartWorker:
    session: str
    computation: int
    worker: int


@frozen
class PollWorker:
    """Look for results the worker has not announced."""

    session: str
    computation: int
    worker: int


@frozen
class LingerAtWorker:
    """Wait for the worker's result right here, blocking, for at most that many seconds."""

    session: str
    computation: int
    worker: int
    seconds: float


@frozen
class LingerAtSession:
    """Look for the client's next message, without sleeping, for at most that many seconds."""

    session: str
    seconds: float


@frozen
class RecallWorker:
    """Take back what the worker has not started."""

    session: str
    computation: int
    worker: int


@frozen
class InterruptJob:
    """First rung of the cancel ladder: KeyboardInterrupt in the job."""

    session: str
    computation: int
    worker: int
    sequence: int


@frozen
class TerminateJob:
    """Second rung: SIGTERM."""

    session: str
    computation: int
    worker: int
    sequence: int


@frozen
class KillWorker:
    """Third rung: SIGKILL to the process group."""

    session: str
    computation: int
    worker: int


@frozen(eq=False)
class SendJobsToWorker:
    session: str
    computation: int
    worker: int
    first_sequence: int
    jobs: Sequence[Any]
    """`core.node.NodeJob` records, in order."""


@frozen
class StartedJob:
    """A job at the head of a worker's queue for long enough to be told of."""

    computation: int
    worker: int
    sequence: int
    number: int
    attempt: int


@frozen(eq=False)
class SendStarted:
    """Tell a client which of its jobs run by now."""

    session: str
    jobs: Sequence[StartedJob]


@define(eq=False)
class SendResults:
    """Send ends of jobs to their client, with the segments of the large ones."""

    session: str
    message: messages.JobsFinished
    segments: dict[int, int] = field(factory=dict)
    """Blob to memfd, for the results in ``message.blobs``. The shell sends either the blob, or,
    to a client on this machine, the memfd."""


@frozen
class ReleaseSegment:
    """A large argument or result is not needed any more."""

    segment: int


NodeCommand = (
    Send
    | OpenTemplate
    | CloseTemplate
    | StartWorker
    | PollWorker
    | LingerAtWorker
    | LingerAtSession
    | RecallWorker
    | InterruptJob
    | TerminateJob
    | KillWorker
    | SendJobsToWorker
    | SendResults
    | SendStarted
    | ReleaseSegment
)
