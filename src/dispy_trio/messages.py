"""Every message of the job plane, with the bounds of what may be said in it.

What is not within them is no message: whoever decodes it refuses it, and so nothing behind that has
to expect a negative size or a time that is no number. Whoever makes a message need not cut texts:
the classes do.

Batches are columns, not lists of objects: a thousand jobs are three lists of a thousand, which
costs no object per job on either side.

Direction is told by the comment above each group. ``client`` is whoever gives work (a program or
a scheduler), ``node`` is whoever runs it.
"""

from __future__ import annotations

from typing import Annotated

from attrs import astuple, field, fields, frozen
from msgspec import Meta

from dispy_trio.models import GRACE, Conditions, Outcome, Seconds, SlotHolder, Slots
from dispy_trio.texts import (
    NAME_LIMIT,
    NOTE_LIMIT,
    TEXT_LIMIT,
    FilePath,
    fit_name,
    fit_note,
    fit_text,
)

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

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An identity, or a count of such."""
Size = Annotated[int, Meta(ge=0, le=2**50)]
"""Bytes; a sum of many still fits into 64 bits."""
Moment = Annotated[float, Meta(ge=-1e18, le=1e18)]
"""Seconds since the epoch: whatever clocks and file systems say, but a number."""
Reading = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""The same where it comes out of a job's own process: sums of them are numbers too."""
Amount = Annotated[int, Meta(ge=0, le=2**62)]
Descriptor = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Mode = Annotated[int, Meta(ge=0, le=0o7777)]
Percent = Annotated[float, Meta(ge=0.0, le=1e6)]
Name = Annotated[str, Meta(max_length=NAME_LIMIT)]
Note = Annotated[str, Meta(max_length=NOTE_LIMIT)]
Text = Annotated[str, Meta(max_length=TEXT_LIMIT)]
Digits = Annotated[str, Meta(pattern=r"\A[0-9a-f]{0,64}\Z")]
"""Of a digest, or of a token."""


@frozen(eq=False, repr=False)
class _Told:
    """Compared and shown by its fields.

    Once for all: compiled by attrs for each class, both were half of what importing this costs.
    """

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        named = zip(fields(type(self)), self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{f.name}={value!r}' for f, value in named)})"

    def _values(self) -> tuple[object, ...]:
        return astuple(self, recurse=False)


# Both ways.
@frozen(eq=False, repr=False)
class Ping(_Told):
    """Are you there? Sent every pulse interval; answered by `Pong` with the same token."""

    token: Number


@frozen(eq=False, repr=False)
class Pong(_Told):
    """I am."""

    token: Number


@frozen(eq=False, repr=False)
class Goodbye(_Told):
    """I close this session on purpose; do not wait for me."""

    reason: Note = field(converter=fit_note)


# Node to client, first thing after the handshake.
@frozen(eq=False, repr=False)
class SessionState(_Told):
    """What the node still knows of this session: empty on a first contact.

    After a reconnect the client compares: what it believes to be on the node and is not listed
    here never arrived, so it may be sent elsewhere without being run twice.
    """

    name: Name = field(converter=fit_name)
    cpus: Slots
    platform: Name = field(converter=fit_name)
    numbers: list[Number]
    """Numbers of the jobs waiting, running, or ended and not yet acknowledged."""
    attempts: list[Number]
    """Which try of each of them it is: a later one never arrived either."""
    computations: list[Number]
    resources: dict[str, Amount] = field(factory=dict)
    """Amounts of what jobs may ask for beside slots; GPUs under ``gpus``."""
    more: bool = False
    """Another of these follows, with further numbers."""
    forgotten: bool = False
    """It was here before and was forgotten while it was away: what it had here has ended, and what
    is not listed may have run."""


@frozen(eq=False, repr=False)
class NodeStatus(_Told):
    """What is free on the node and its machine, for who watches it."""

    cpu: Percent
    """Percent of all processors together that is idle."""
    memory: Amount
    """Bytes that programs may still use."""
    disk: Amount
    """Bytes, where computations have their files."""
    swap: Percent
    """Percent that is free."""
    holders: list[SlotHolder] = field(factory=list)
    """Other clients that take slots, those that are away first; the first few of them."""


@frozen(eq=False, repr=False)
class NodeCpus(_Told):
    """The node has that many slots from now on; with none it takes no new jobs."""

    cpus: Slots


# Client to node.
@frozen(eq=False, repr=False)
class WatchNode(_Told):
    """Send me `NodeStatus` every so many seconds."""

    interval: Seconds
    now: bool
    """The first one at once: I need it to decide whether to use the node."""


@frozen(eq=False, repr=False)
class ComputationOptions(_Told):
    """How a node runs one computation."""

    dest_path: FilePath = field(default=FilePath(""), converter=FilePath)
    """Directory that lasts from one computation to the next, below the client's own; empty for a
    fresh one."""
    keep_files: bool = False
    """Leave the files there at the end."""
    arguments: bytes = b""
    """Pickled arguments of setup and cleanup, for this node."""
    setup_timeout: Seconds = 0.0
    """Seconds; 0 for no limit."""
    cpus: Slots = 0
    """Slots it may use; 0 for all."""
    live_output: bool = False
    """Send what jobs write while they run."""
    has_cleanup: bool = False
    """There is a function to call at the end."""
    output_limit: Size = 0
    """Bytes kept of each of a job's stdout and stderr; 0 for all."""
    grace: Seconds = GRACE
    """Seconds that a job which is stopped has from its interrupt to its SIGTERM."""


@frozen(eq=False, repr=False)
class OpenComputation(_Told):
    """Here is a computation; make a template process for it."""

    computation: Number
    name: Name = field(converter=fit_name)
    digest: Digits
    """SHA-256 of the bundle, hex."""
    bundle: bytes
    """Empty when it comes over the bulk connection as `blob`."""
    blob: Number
    """Identity of the blob that carries the bundle; 0 when it is inline."""
    options: ComputationOptions = ComputationOptions()
    arguments_size: Size = 0
    """Bytes at the end of the blob that are `options.arguments`."""


@frozen(eq=False, repr=False)
class SetCpus(_Told):
    """Use that many slots for the computation from now on."""

    computation: Number
    cpus: Slots


@frozen(eq=False, repr=False)
class RunJobs(_Told):
    """Small jobs, by columns, and acknowledgements that ride along."""

    computation: Number
    numbers: list[Number]
    attempts: list[Number]
    payloads: list[bytes]
    acknowledged: list[Number]
    """As `AckResults`."""
    conditions: Conditions | None = None
    """Of each of these jobs; None for those that ask for nothing."""
    left: list[Seconds] | None = None
    """Seconds that each of them has left, another column; None for jobs without a deadline."""


@frozen(eq=False, repr=False)
class RunBulkJob(_Told):
    """One job whose argument comes over the bulk connection."""

    computation: Number
    number: Number
    attempt: Number
    blob: Number
    """0 when the argument is a segment of the client's that the node can open."""
    sizes: list[Size]
    """Bytes of each part of the blob: the pickle first, then its out-of-band buffers."""
    segment: Annotated[int, Meta(ge=-1, le=2**31 - 1)]
    """Descriptor in the client's process; -1 when the argument comes as a blob."""
    conditions: Conditions | None = None
    left: Seconds | None = None
    """Seconds that it has left; None without a deadline."""


@frozen(eq=False, repr=False)
class CancelJobs(_Told):
    """Stop these, waiting or running. Each still ends with a result."""

    numbers: list[Number]
    attempts: list[Annotated[int, Meta(ge=-1, le=2**63 - 1)]]
    reason: Note = field(default="", converter=fit_note)
    """For the node's log; empty when nobody gave one."""


@frozen(eq=False, repr=False)
class OfferSegments(_Told):
    """If you can open this descriptor of my process and find the token there, we share a machine,
    and large arguments and results need not be copied through the network."""

    process: Descriptor
    descriptor: Descriptor
    token: Annotated[bytes, Meta(min_length=16, max_length=64)]


@frozen(eq=False, repr=False)
class AnswerSegments(_Told):
    """The answer of the node; its `process` is 0 when it can't."""

    process: Descriptor


@frozen(eq=False, repr=False)
class RecallJobs(_Told):
    """Give back up to `count` jobs of this computation that have not started, newest first."""

    computation: Number
    count: Number


@frozen(eq=False, repr=False)
class AckResults(_Told):
    """These results are safe with me; forget them."""

    numbers: list[Number]


@frozen(eq=False, repr=False)
class CloseComputation(_Told):
    """End the computation: kill what runs when `terminate`, else let it finish first."""

    computation: Number
    terminate: bool
    release: bool = True
    """False when it is opened again at once: its files stay."""


@frozen(eq=False, repr=False)
class AckProvisional(_Told):
    """A provisional result has arrived; `taken` says whether anybody wants it."""

    request: Number
    taken: bool


@frozen(eq=False, repr=False)
class FileAnswer(_Told):
    """What became of a `FileOffered`."""

    request: Number
    text: Note = field(converter=fit_note)
    """Empty when it is stored; else why not."""


# Node to client.
@frozen(eq=False, repr=False)
class ComputationReady(_Told):
    """The template has loaded the bundle and run its setup."""

    computation: Number


@frozen(eq=False, repr=False)
class ComputationFailed(_Told):
    """The template could not load the bundle, or setup failed, or it died."""

    computation: Number
    text: Text = field(converter=fit_text)
    again: bool = False
    """It had been ready and then died: opened once more, it may work."""


@frozen(eq=False, repr=False)
class ComputationClosed(_Told):
    """Nothing of the computation is left on the node."""

    computation: Number


@frozen(eq=False, repr=False)
class JobsStarted(_Told):
    """These run by now. Jobs that end within milliseconds may never be listed."""

    numbers: list[Number]
    attempts: list[Number]
    starts: list[Reading]


@frozen(eq=False, repr=False)
class JobsReturned(_Told):
    """These had not started and will not run here."""

    computation: Number
    numbers: list[Number]


@frozen(eq=False, repr=False)
class JobsFinished(_Told):
    """Ends of jobs, by columns."""

    numbers: list[Number]
    attempts: list[Number]
    outcomes: list[Annotated[int, Meta(ge=0, le=max(Outcome).value)]]
    """Values of `models.Outcome`."""
    starts: list[Reading]
    """Seconds since the epoch, by the node's clock."""
    ends: list[Reading]
    payloads: list[bytes]
    """The pickled result, or the pickled account of what was raised, or a UTF-8 text. Empty when it
    comes as the first parts of a blob or segment."""
    outputs: dict[int, tuple[bytes, bytes]]
    """Number to (stdout, stderr), for the jobs that wrote anything, if it is not in a blob or
    segment."""
    blobs: dict[int, tuple[Number, list[Size]]]
    """Number to (blob, sizes), for what comes over the bulk connection: the parts of the payload
    and, as the last two, stdout and stderr."""
    segments: dict[int, tuple[Descriptor, list[Size]]]
    """Number to (descriptor in the node's process, sizes), for the same on one machine."""


@frozen(eq=False, repr=False)
class JobProvisional(_Told):
    """What a running job wants known before its end; answered by `AckProvisional`."""

    number: Number
    attempt: Number
    request: Number
    payload: bytes
    """The pickled result; empty when it comes as `blob`."""
    blob: Number


@frozen(eq=False, repr=False)
class JobProgress(_Told):
    """How far a running job says it is."""

    number: Number
    attempt: Number
    fraction: Annotated[float, Meta(ge=0.0, le=1.0)]
    text: Note = field(converter=fit_note)


@frozen(eq=False, repr=False)
class JobOutput(_Told):
    """What a running job has written since the last of these."""

    number: Number
    attempt: Number
    stdout: bytes
    stderr: bytes


@frozen(eq=False, repr=False)
class FileOffered(_Told):
    """A running job wants you to have a file: fetch it, and say with `FileAnswer` when it is safe."""

    request: Number
    file: Digits
    """As in `FetchFile`."""
    path: FilePath = field(converter=FilePath)
    """Relative to the directory of the computation."""
    size: Size
    mode: Mode
    modified: Moment
    """Seconds since the epoch."""


# Over a connection for files. A client to a node: files that computations and jobs need.
@frozen(eq=False, repr=False)
class PutFile(_Told):
    """I have a file for a computation; answered by `FileWanted`, `FileStored` or `FileMissing`."""

    request: Number
    computation: Number
    job: Number
    """The job it is for; 0 when it is for all of them."""
    dest_path: FilePath = field(converter=FilePath)
    """As in `ComputationOptions`."""
    path: FilePath = field(converter=FilePath)
    """Relative to the directory of the computation or the job."""
    size: Size
    digest: Digits
    """SHA-256 of the content, hex."""
    mode: Mode
    modified: Moment
    """Seconds since the epoch."""


@frozen(eq=False, repr=False)
class FileWanted(_Told):
    """Send its bytes, right behind this frame's answer."""

    request: Number


@frozen(eq=False, repr=False)
class FileStored(_Told):
    """It is there, whole and verified."""

    request: Number


# Node to node, or client to node: files that jobs left on the node that made them.
@frozen(eq=False, repr=False)
class FetchFile(_Told):
    """Send me a file you keep."""

    request: Number
    file: Digits
    """32 hex digits, unguessable: to know it is to be allowed to read it."""


@frozen(eq=False, repr=False)
class FileFollows(_Told):
    """Its bytes come right behind this frame."""

    request: Number
    size: Size


@frozen(eq=False, repr=False)
class FileMissing(_Told):
    """It is not here, or not any more."""

    request: Number
    text: Note = field(converter=fit_note)


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
