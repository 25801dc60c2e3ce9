"""Messages to frames and back: msgpack of the attrs class that the frame's type selects."""

from __future__ import annotations

import msgspec

from dispy_trio import messages
from dispy_trio.errors import LocalError, ProtocolError
from dispy_trio.messages import MESSAGE_TYPES, Message
from dispy_trio.protocol.framing import FRAME_HEADER, FRAME_LIMIT
from dispy_trio.texts import FilePath

__all__ = ["FRAME_LIMITS", "decode", "encode"]

SMALL_LIMIT = 16 * 1024
"""Bytes of a message that holds no list and no payload; a path may be 4096 of them."""

_SMALL = {
    messages.Ping,
    messages.Pong,
    messages.Goodbye,
    messages.NodeStatus,
    messages.RecallJobs,
    messages.CloseComputation,
    messages.ComputationReady,
    messages.ComputationClosed,
    messages.FetchFile,
    messages.FileFollows,
    messages.FileMissing,
    messages.WatchNode,
    messages.SetCpus,
    messages.AckProvisional,
    messages.FileAnswer,
    messages.NodeCpus,
    messages.JobProgress,
    messages.FileOffered,
    messages.PutFile,
    messages.FileWanted,
    messages.FileStored,
}

FRAME_LIMITS = {
    number: SMALL_LIMIT if message_type in _SMALL else FRAME_LIMIT
    for number, message_type in MESSAGE_TYPES.items()
}
"""Type to the bytes that a body of it may have."""

_COLUMNS: dict[type[Message], tuple[str, ...]] = {
    messages.SessionState: ("numbers", "attempts"),
    messages.RunJobs: ("numbers", "attempts", "payloads"),
    messages.CancelJobs: ("numbers", "attempts"),
    messages.JobsStarted: ("numbers", "attempts", "starts"),
    messages.JobsFinished: ("numbers", "attempts", "outcomes", "starts", "ends", "payloads"),
}
"""Fields that are columns of one table, and so of one length."""

_UNCHECKED: frozenset[type[Message]] = frozenset(
    {
        messages.Ping,
        messages.Pong,
        messages.RunJobs,
        messages.CancelJobs,
        messages.AckResults,
        messages.JobsStarted,
        messages.JobsReturned,
        messages.JobsFinished,
        messages.JobOutput,
    }
)
"""The frequent and the long ones, of which nothing but conditions is of a user's choice, and a reason,
which is made to fit."""

_HEADER_SIZE = FRAME_HEADER.size


def _to_wire(value: object) -> bytes:
    """msgspec asks for types that it does not know itself."""
    if isinstance(value, FilePath):
        return value.to_wire()
    raise TypeError(f"{type(value).__name__} is nothing that travels")


def _from_wire(_type: type, value: object) -> FilePath:
    return FilePath.from_wire(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_wire)
_numbers = {message_type: number for number, message_type in MESSAGE_TYPES.items()}
_decoders = {
    number: msgspec.msgpack.Decoder(message_type, dec_hook=_from_wire)
    for number, message_type in MESSAGE_TYPES.items()
}


def encode(message: Message) -> bytearray:
    """A whole frame, header included.

    Raises:
        LocalError: no receiver takes that message: it is too large, or a field of it can't be
            encoded or is out of bounds. The text says which, for people.
    """
    frame = bytearray(_HEADER_SIZE)
    kind = type(message)
    try:
        _encoder.encode_into(message, frame, _HEADER_SIZE)
    except (ValueError, OverflowError, TypeError) as exc:
        raise LocalError(f"a {kind.__name__} can't be encoded: {exc}") from exc
    length = len(frame) - _HEADER_SIZE
    number = _numbers[kind]
    if length > FRAME_LIMITS[number]:
        raise LocalError(
            f"a {kind.__name__} of {length} bytes is over the limit of {FRAME_LIMITS[number]}"
        )
    FRAME_HEADER.pack_into(frame, 0, length, number)
    if kind not in _UNCHECKED or (kind is messages.RunJobs and message.conditions is not None):  # type: ignore[union-attr]
        # Better not sent than refused there, which costs the session.
        try:
            _decoders[number].decode(memoryview(frame)[_HEADER_SIZE:])
        except (msgspec.DecodeError, ValueError) as exc:
            raise LocalError(f"a {kind.__name__} can't be sent: {exc}") from exc
    return frame


def decode(kind: int, body: bytes | memoryview, peer: str) -> Message:
    """The message in a frame.

    Raises:
        ProtocolError: the type is unknown, a field is not what its class says, or columns differ
            in length; names the peer.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        raise ProtocolError(f"{peer} sent a message of the unknown type {kind}")
    try:
        message: Message = decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        name = MESSAGE_TYPES[kind].__name__
        raise ProtocolError(f"{peer} sent a malformed {name}: {exc}") from exc
    columns = _COLUMNS.get(type(message))
    if columns is not None:
        if type(message) is messages.RunJobs and message.left is not None:
            columns = (*columns, "left")
        lengths = [len(getattr(message, column)) for column in columns]
        if lengths.count(lengths[0]) != len(lengths):
            name = MESSAGE_TYPES[kind].__name__
            raise ProtocolError(
                f"{peer} sent a malformed {name}: {', '.join(columns)} have {lengths} items"
            )
    return message
