"""Every message of the job plane. This module knows no codec.

Batches are columns, not lists of objects: a thousand jobs are three lists of a thousand, which
costs no object per job on either side.

Direction is told by the comment above each group. ``client`` is whoever gives work (a program or
a scheduler), ``node`` is whoever runs it.
"""

from __future__ import annotations

from attrs import field, frozen

from dispy_trio.models import Conditions

__all__ = [
    "BULK_THRESHOLD",
    "MESSAGE_TYPES",
    "AckProvisional",
    "AckResults",
    "AnswerSegments",
    "CancelJobs",
    "CloseComputation",
    "ComputationClosed",
    "ComputationFailed",
    "ComputationOptions",
    "ComputationReady",
    "FetchFile",
    "FileAnswer",
    "FileFollows",
    "FileMissing",
    "FileOffered",
    "FileStored",
    "FileWanted",
    "Goodbye",
    "JobOutput",
    "JobProgress",
    "JobProvisional",
    "JobsFinished",
    "JobsReturned",
    "JobsStarted",
    "Message",
    "NodeCpus",
    "NodeStatus",
    "OfferSegments",
    "OpenComputation",
    "Ping",
    "Pong",
    "PutFile",
    "RecallJobs",
    "RunBulkJob",
    "RunJobs",
    "SessionState",
    "SetCpus",
    "WatchNode",
]

BULK_THRESHOLD = 256 * 1024
"""Bytes. A payload larger than this travels over the bulk connection."""


# Both ways.
@frozen
class Ping:
    """Are you there? Sent every pulse interval; answered by `Pong` with the same token."""

    token: int


@frozen
class Pong:
    """I am."""

    token: int


@frozen
class Goodbye:
    """I close this session on purpose; do not wait for me."""

    reason: str


# Node to client, first thing after the handshake.
@frozen
class SessionState:
    """What the node still knows of this session: empty on a first contact.

    After a reconnect the client compares: what it believes to be on the node and is not listed
    here never arrived, so it may be sent elsewhere without being run twice.
    """

    name: str
    cpus: int
    platform: str
    numbers: list[int]
    """Numbers of the jobs waiting, running, or ended and not yet acknowledged."""
    computations: list[int]
    resources: dict[str, int] = field(factory=dict)
    """Amounts of what jobs may ask for beside slots; GPUs under ``gpus``."""


@frozen
class NodeStatus:
    """What is free on the node's machine, for who watches it."""

    cpu: float
    """Percent of all processors together that is idle."""
    memory: int
    """Bytes that programs may still use."""
    disk: int
    """Bytes, where computations have their files."""
    swap: float
    """Percent that is free."""


@frozen
class NodeCpus:
    """The node has that many slots from now on; with none it takes no new jobs."""

    cpus: int


# Client to node.
@frozen
class WatchNode:
    """Send me `NodeStatus` every so many seconds."""

    interval: float
    now: bool
    """The first one at once: I need it to decide whether to use the node."""


@frozen
class ComputationOptions:
    """How a node runs one computation."""

    dest_path: str = ""
    """Directory that lasts from one computation to the next, below the client's own; empty for a
    fresh one."""
    keep_files: bool = False
    """Leave the files there at the end."""
    arguments: bytes = b""
    """Pickled arguments of setup and cleanup, for this node."""
    setup_timeout: float = 0.0
    """Seconds; 0 for no limit."""
    cpus: int = 0
    """Slots it may use; 0 for all."""
    live_output: bool = False
    """Send what jobs write while they run."""
    has_cleanup: bool = False
    """There is a function to call at the end."""


@frozen
class OpenComputation:
    """Here is a computation; make a template process for it."""

    computation: int
    name: str
    digest: str
    """SHA-256 of the bundle, hex."""
    bundle: bytes
    """Empty when it comes over the bulk connection as `blob`."""
    blob: int
    """Identity of the blob that carries the bundle; 0 when it is inline."""
    options: ComputationOptions = ComputationOptions()


@frozen
class SetCpus:
    """Use that many slots for the computation from now on."""

    computation: int
    cpus: int


@frozen
class RunJobs:
    """Small jobs, by columns, and acknowledgements that ride along."""

    computation: int
    numbers: list[int]
    attempts: list[int]
    payloads: list[bytes]
    acknowledged: list[int]
    """As `AckResults`."""
    conditions: Conditions | None = None
    """Of each of these jobs; None for those that ask for nothing."""


@frozen
class RunBulkJob:
    """One job whose argument comes over the bulk connection."""

    computation: int
    number: int
    attempt: int
    blob: int
    """0 when the argument is a segment of the client's that the node can open."""
    sizes: list[int]
    """Bytes of each part of the blob: the pickle first, then its out-of-band buffers."""
    segment: int
    """Descriptor in the client's process; -1 when the argument comes as a blob."""
    conditions: Conditions | None = None


@frozen
class CancelJobs:
    """Stop these, waiting or running. Each still ends with a result."""

    numbers: list[int]
    attempts: list[int]


@frozen
class OfferSegments:
    """If you can open this descriptor of my process and find the token there, we share a machine,
    and large arguments and results need not be copied through the network."""

    process: int
    descriptor: int
    token: bytes


@frozen
class AnswerSegments:
    """The answer of the node; its `process` is 0 when it can't."""

    process: int


@frozen
class RecallJobs:
    """Give back up to `count` jobs of this computation that have not started, newest first."""

    computation: int
    count: int


@frozen
class AckResults:
    """These results are safe with me; forget them."""

    numbers: list[int]


@frozen
class CloseComputation:
    """End the computation: kill what runs when `terminate`, else let it finish first."""

    computation: int
    terminate: bool
    release: bool = True
    """False when it is opened again at once: its files stay."""


@frozen
class AckProvisional:
    """A provisional result has arrived; `taken` says whether anybody wants it."""

    request: int
    taken: bool


@frozen
class FileAnswer:
    """What became of a `FileOffered`."""

    request: int
    text: str
    """Empty when it is stored; else why not."""


# Node to client.
@frozen
class ComputationReady:
    """The template has loaded the bundle and run its setup."""

    computation: int


@frozen
class ComputationFailed:
    """The template could not load the bundle, or setup failed, or it died."""

    computation: int
    text: str
    again: bool = False
    """It had been ready and then died: opened once more, it may work."""


@frozen
class ComputationClosed:
    """Nothing of the computation is left on the node."""

    computation: int


@frozen
class JobsStarted:
    """These run by now. Jobs that end within milliseconds may never be listed."""

    numbers: list[int]
    attempts: list[int]
    starts: list[float]


@frozen
class JobsReturned:
    """These had not started and will not run here."""

    computation: int
    numbers: list[int]


@frozen
class JobsFinished:
    """Ends of jobs, by columns."""

    numbers: list[int]
    attempts: list[int]
    outcomes: list[int]
    """Values of `models.Outcome`."""
    starts: list[float]
    """Seconds since the epoch, by the node's clock."""
    ends: list[float]
    payloads: list[bytes]
    """The pickled result, or the pickled account of what was raised, or a UTF-8 text."""
    outputs: dict[int, tuple[bytes, bytes]]
    """Number to (stdout, stderr), for the jobs that wrote anything."""
    blobs: dict[int, tuple[int, list[int]]]
    """Number to (blob, sizes), for the results that come over the bulk connection."""
    segments: dict[int, tuple[int, list[int]]]
    """Number to (descriptor in the node's process, sizes), on one machine."""


@frozen
class JobProvisional:
    """What a running job wants known before its end; answered by `AckProvisional`."""

    number: int
    attempt: int
    request: int
    payload: bytes
    """The pickled result; empty when it comes as `blob`."""
    blob: int


@frozen
class JobProgress:
    """How far a running job says it is."""

    number: int
    attempt: int
    fraction: float
    text: str


@frozen
class JobOutput:
    """What a running job has written since the last of these."""

    number: int
    attempt: int
    stdout: bytes
    stderr: bytes


@frozen
class FileOffered:
    """A running job wants you to have a file: fetch it, and say with `FileAnswer` when it is safe."""

    request: int
    file: str
    """As in `FetchFile`."""
    path: str
    """Relative to the directory of the computation."""
    size: int
    mode: int
    modified: float
    """Seconds since the epoch."""


# Over a connection for files. A client to a node: files that computations and jobs need.
@frozen
class PutFile:
    """I have a file for a computation; answered by `FileWanted`, `FileStored` or `FileMissing`."""

    request: int
    computation: int
    job: int
    """The job it is for; 0 when it is for all of them."""
    dest_path: str
    """As in `ComputationOptions`."""
    path: str
    """Relative to the directory of the computation or the job."""
    size: int
    digest: str
    """SHA-256 of the content, hex."""
    mode: int
    modified: float
    """Seconds since the epoch."""


@frozen
class FileWanted:
    """Send its bytes, right behind this frame's answer."""

    request: int


@frozen
class FileStored:
    """It is there, whole and verified."""

    request: int


# Node to node, or client to node: files that jobs left on the node that made them.
@frozen
class FetchFile:
    """Send me a file you keep."""

    request: int
    file: str
    """32 hex digits, unguessable: to know it is to be allowed to read it."""


@frozen
class FileFollows:
    """Its bytes come right behind this frame."""

    request: int
    size: int


@frozen
class FileMissing:
    """It is not here, or not any more."""

    request: int
    text: str


Message = (
    Ping
    | Pong
    | Goodbye
    | SessionState
    | NodeStatus
    | OpenComputation
    | RunJobs
    | RunBulkJob
    | CancelJobs
    | RecallJobs
    | AckResults
    | CloseComputation
    | OfferSegments
    | AnswerSegments
    | ComputationReady
    | ComputationFailed
    | ComputationClosed
    | JobsStarted
    | JobsReturned
    | JobsFinished
    | FetchFile
    | FileFollows
    | FileMissing
    | WatchNode
    | SetCpus
    | AckProvisional
    | FileAnswer
    | NodeCpus
    | JobProvisional
    | JobProgress
    | JobOutput
    | FileOffered
    | PutFile
    | FileWanted
    | FileStored
)

MESSAGE_TYPES: dict[int, type[Message]] = {
    1: Ping,
    2: Pong,
    3: Goodbye,
    4: SessionState,
    5: NodeStatus,
    10: OpenComputation,
    11: RunJobs,
    12: RunBulkJob,
    13: CancelJobs,
    14: RecallJobs,
    15: AckResults,
    16: CloseComputation,
    17: OfferSegments,
    36: AnswerSegments,
    30: ComputationReady,
    31: ComputationFailed,
    32: ComputationClosed,
    33: JobsStarted,
    34: JobsReturned,
    35: JobsFinished,
    50: FetchFile,
    51: FileFollows,
    52: FileMissing,
    18: WatchNode,
    19: SetCpus,
    20: AckProvisional,
    21: FileAnswer,
    37: NodeCpus,
    38: JobProvisional,
    39: JobProgress,
    40: JobOutput,
    41: FileOffered,
    53: PutFile,
    54: FileWanted,
    55: FileStored,
}
"""The number in a frame's header that tells its type. Numbers are never reused."""
