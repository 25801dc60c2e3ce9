"""Messages to frames and back: msgpack of the attrs class that the frame's type selects."""

from __future__ import annotations

import msgspec

from dispy_trio import messages
from dispy_trio.errors import LocalError, ProtocolError
from dispy_trio.messages import MESSAGE_TYPES, Message
from dispy_trio.protocol.framing import FRAME_HEADER, FRAME_LIMIT

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
    messages.RunJobs: ("numbers", "attempts", "payloads"),
    messages.CancelJobs: ("numbers", "attempts"),
    messages.JobsStarted: ("numbers", "attempts", "starts"),
    messages.JobsFinished: ("numbers", "attempts", "outcomes", "starts", "ends", "payloads"),
}
"""Fields that are columns of one table, and so of one length."""

_HEADER_SIZE = FRAME_HEADER.size
_encoder = msgspec.msgpack.Encoder()
_numbers = {message_type: number for number, message_type in MESSAGE_TYPES.items()}
_decoders = {
    number: msgspec.msgpack.Decoder(message_type) for number, message_type in MESSAGE_TYPES.items()
}


def encode(message: Message) -> bytearray:
    """A whole frame, header included.

    Raises:
        LocalError: the message is larger than any receiver takes.
    """
    frame = bytearray(_HEADER_SIZE)
    _encoder.encode_into(message, frame, _HEADER_SIZE)
    length = len(frame) - _HEADER_SIZE
    number = _numbers[type(message)]
    if length > FRAME_LIMITS[number]:
        raise LocalError(
            f"a {type(message).__name__} of {length} bytes is over the limit of"
            f" {FRAME_LIMITS[number]}"
        )
    FRAME_HEADER.pack_into(frame, 0, length, number)
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
        lengths = [len(getattr(message, column)) for column in columns]
        if lengths.count(lengths[0]) != len(lengths):
            name = MESSAGE_TYPES[kind].__name__
            raise ProtocolError(
                f"{peer} sent a malformed {name}: {', '.join(columns)} have {lengths} items"
            )
    return message
