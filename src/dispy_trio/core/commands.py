"""What machines want done. Imperative, because nothing has happened yet.

They are neither compared nor shown, as events are not.
"""

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
    "AnnounceOutput",
    "AnnounceProvisional",
    "AnnounceRequeued",
    "AnnounceStarted",
    "AnnounceStatus",
    "AnnounceWaiting",
    "CloseComplete",
    "CloseTemplate",
    "ClusterCommand",
    "ForgetClient",
    "GiveUp",
    "InterruptJob",
    "KillWorker",
    "LingerAtSession",
    "LingerAtWorker",
    "NodeCommand",
    "NodeFinished",
    "OpenTemplate",
    "PollWorker",
    "PrepareNode",
    "RecallWorker",
    "ReleaseSegment",
    "Send",
    "SendBulkJob",
    "SendJobWithFiles",
    "SendJobsToWorker",
    "SendOutput",
    "SendResults",
    "SendStarted",
    "StartWorker",
    "StartedJob",
    "StopWorker",
    "TerminateJob",
]


@frozen(eq=False, repr=False)
class Send:
    """Send a message to a node, or from a node to a session."""

    target: str
    message: messages.Message


# --- of a ClusterMachine -----------------------------------------------------------------------
@frozen(eq=False, repr=False)
class SendBulkJob:
    """Send a job whose arguments go over the bulk connection."""

    node: str
    computation: int
    job: Job


@frozen(eq=False, repr=False)
class SendJobWithFiles:
    """Put the job's files onto the node, then send it; `events.JobWithheld` if that fails."""

    node: str
    computation: int
    job: Job
    attempt: int


@frozen(eq=False, repr=False)
class PrepareNode:
    """Find out whether and how to use the node, and put the files there that it needs:
    `events.NodePrepared` or `events.NodeRefused` follows."""

    node: str
    computation: int
    incarnation: str


@frozen(eq=False, repr=False)
class AnnounceEnded:
    """Wake whoever waits for these jobs: they have their final status."""

    jobs: Sequence[Job]
    again: bool = False
    """They had ended as abandoned before, and their results came after all."""
    failed: Sequence[Job] | None = None
    """Those that did not return; None when any of them may be such."""


@frozen(eq=False, repr=False)
class AnnounceStarted:
    """These jobs run by now."""

    jobs: Sequence[Job]


@frozen(eq=False, repr=False)
class AnnounceRequeued:
    """These jobs were lost with their node, and wait for another one."""

    node: str
    jobs: Sequence[Job]


@frozen(eq=False, repr=False)
class AnnounceProvisional:
    """A running job has sent a provisional result; it is in its extras."""

    job: Job


@frozen(eq=False, repr=False)
class AnnounceOutput:
    """A running job has written something."""

    job: Job
    stdout: bytes
    stderr: bytes


@frozen(eq=False, repr=False)
class AnnounceStatus:
    """A node has told what is free on it."""

    node: str
    status: messages.NodeStatus


@frozen(eq=False, repr=False)
class AnnounceNode:
    """A node became usable for a computation, or ceased to be."""

    node: str
    computation: int
    usable: bool
    reason: str


@frozen(eq=False, repr=False)
class AnnounceFailed:
    """No node can run the computation; its waiting jobs have ended with this text."""

    computation: int
    reason: str


@frozen(eq=False, repr=False)
class AnnounceWaiting:
    """Jobs wait for something that may not come by itself; the text says for what."""

    text: str


@frozen(eq=False, repr=False)
class CloseComplete:
    """Nothing of the computation is left on any node that can be reached."""

    computation: int


ClusterCommand = (
    Send
    | SendBulkJob
    | SendJobWithFiles
    | PrepareNode
    | AnnounceEnded
    | AnnounceStarted
    | AnnounceRequeued
    | AnnounceProvisional
    | AnnounceOutput
    | AnnounceStatus
    | AnnounceNode
    | AnnounceFailed
    | AnnounceWaiting
    | CloseComplete
)


# --- of a NodeMachine --------------------------------------------------------------------------
@frozen(eq=False, repr=False)
class OpenTemplate:
    """Start a template process for a session's computation."""

    session: str
    computation: int
    name: str
    bundle: Any
    options: messages.ComputationOptions


@frozen(eq=False, repr=False)
class CloseTemplate:
    """Have cleanup run, kill what is left of the computation's processes, and remove its files;
    `TemplateClosed` follows."""

    session: str
    computation: int
    release: bool
    """False when it is opened again at once: its directory stays."""


@frozen(eq=False, repr=False)
class GiveUp:
    """End a computation of which the machine itself can't make sense: `TemplateDied` follows."""

    session: str
    computation: int
    error: Exception


@frozen(eq=False, repr=False)
class StartWorker:
    session: str
    computation: int
    worker: int


@frozen(eq=False, repr=False)
class StopWorker:
    """Let an idle worker exit: it is not to run anything more."""

    session: str
    computation: int
    worker: int


@frozen(eq=False, repr=False)
class SendOutput:
    """Send the client what the job at the head of the worker's queue has written since."""

    session: str
    computation: int
    worker: int
    sequence: int
    number: int
    attempt: int


@frozen(eq=False, repr=False)
class NodeFinished:
    """What `events.LeaveRequested` waits for has come."""


@frozen(eq=False, repr=False)
class PollWorker:
    """Look for results the worker has not announced."""

    session: str
    computation: int
    worker: int


@frozen(eq=False, repr=False)
class LingerAtWorker:
    """Wait for the worker's result right here, blocking, for at most that many seconds."""

    session: str
    computation: int
    worker: int
    seconds: float


@frozen(eq=False, repr=False)
class LingerAtSession:
    """Look for the client's next message, without sleeping, for at most that many seconds."""

    session: str
    seconds: float


@frozen(eq=False, repr=False)
class RecallWorker:
    """Take back what the worker has not started."""

    session: str
    computation: int
    worker: int


@frozen(eq=False, repr=False)
class InterruptJob:
    """First rung of the cancel ladder: KeyboardInterrupt in the job."""

    session: str
    computation: int
    worker: int
    sequence: int


@frozen(eq=False, repr=False)
class TerminateJob:
    """Second rung: SIGTERM."""

    session: str
    computation: int
    worker: int
    sequence: int


@frozen(eq=False, repr=False)
class KillWorker:
    """Third rung: SIGKILL to the process group."""

    session: str
    computation: int
    worker: int


@frozen(eq=False, repr=False)
class SendJobsToWorker:
    session: str
    computation: int
    worker: int
    jobs: Sequence[Any]
    """`core.node.NodeJob` records, in order."""


@frozen(eq=False, repr=False)
class StartedJob:
    """A job at the head of a worker's queue for long enough to be told of."""

    computation: int
    worker: int
    sequence: int
    number: int
    attempt: int


@frozen(eq=False, repr=False)
class SendStarted:
    """Tell a client which of its jobs run by now."""

    session: str
    jobs: Sequence[StartedJob]


@define(eq=False, repr=False)
class SendResults:
    """Send ends of jobs to their client, with the segments of the large ones."""

    session: str
    message: messages.JobsFinished
    segments: dict[int, int] = field(factory=dict)
    """Blob to memfd, for the results in ``message.blobs``. The shell sends either the blob, or,
    to a client on this machine, the memfd."""


@frozen(eq=False, repr=False)
class ReleaseSegment:
    """A large argument or result is not needed any more."""

    segment: int


@frozen(eq=False, repr=False)
class ForgetClient:
    """Nobody waits for this client any more: say so, and remove what came for it."""

    session: str
    text: str


NodeCommand = (
    ForgetClient
    | Send
    | OpenTemplate
    | CloseTemplate
    | GiveUp
    | StartWorker
    | StopWorker
    | SendOutput
    | NodeFinished
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
