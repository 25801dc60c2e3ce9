"""Messages to frames and back: msgpack of the attrs class that the frame's type selects."""

from __future__ import annotations

import msgspec

from dispy_trio.errors import ProtocolError
from dispy_trio.messages import MESSAGE_TYPES, Message
from dispy_trio.protocol.framing import FRAME_HEADER

__all__ = ["decode", "encode"]

_HEADER_SIZE = FRAME_HEADER.size
_encoder = msgspec.msgpack.Encoder()
_numbers = {message_type: number for number, message_type in MESSAGE_TYPES.items()}
_decoders = {
    number: msgspec.msgpack.Decoder(message_type) for number, message_type in MESSAGE_TYPES.items()
}


def encode(message: Message) -> bytearray:
    """A whole frame, header included."""
    frame = bytearray(_HEADER_SIZE)
    _encoder.encode_into(message, frame, _HEADER_SIZE)
    FRAME_HEADER.pack_into(frame, 0, len(frame) - _HEADER_SIZE, _numbers[type(message)])
    return frame


def decode(kind: int, body: bytes | memoryview, peer: str) -> Message:
    """The message in a frame.

    Raises:
        ProtocolError: the type is unknown or a field is not what its class says; names the peer.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        raise ProtocolError(f"{peer} sent a message of the unknown type {kind}")
    try:
        message: Message = decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        name = MESSAGE_TYPES[kind].__name__
        raise ProtocolError(f"{peer} sent a malformed {name}: {exc}") from exc
    return message
