"""Frames: length, type, body; and the chunks of the bulk connection.

Both decoders are incremental and decide from the header alone whether a frame is too large, before
any byte of its body is stored.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from attrs import define, field, frozen

from dispy_trio.errors import ProtocolError

__all__ = [
    "CHUNK_HEADER",
    "CHUNK_LIMIT",
    "FRAME_HEADER",
    "FRAME_LIMIT",
    "ChunkHeader",
    "FrameDecoder",
    "encode_chunk_header",
    "parse_chunk_header",
]

FRAME_HEADER = struct.Struct("<IB")
"""Length of the body, type of the message."""

FRAME_LIMIT = 4 * 1024 * 1024
"""Bytes of a body. Batches are cut at half a MiB, and output is limited to a MiB each way."""

CHUNK_HEADER = struct.Struct("<QQQI")
"""Blob, total size of the blob, offset of the chunk, length of the chunk."""

CHUNK_LIMIT = 1024 * 1024


@define(eq=False)
class FrameDecoder:
    """Cuts a byte stream into frames."""

    peer: str
    """For error texts."""
    limits: Mapping[int, int] | None = None
    """Type to bytes of a body; a type that is not listed has none. None: `FRAME_LIMIT` for all."""
    _buffer: bytearray = field(factory=bytearray)
    """The beginning of a frame that is not complete."""
    _needed: int = 0
    """There is nothing to decide before that many bytes are in the buffer."""

    def receive_data(self, data: bytes | memoryview) -> list[tuple[int, memoryview]]:
        """Take bytes; return the frames they complete as (type, body).

        The bodies are views, of `data` itself where possible: use them before it is overwritten.

        Raises:
            ProtocolError: a header announces more than the limit.
        """
        if not self._buffer:
            view = memoryview(data)
        else:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            view = memoryview(self._buffer)
        frames: list[tuple[int, memoryview]] = []
        position = 0
        end = len(view)
        self._needed = FRAME_HEADER.size
        while end - position >= FRAME_HEADER.size:
            length, kind = FRAME_HEADER.unpack_from(view, position)
            self._check(length, kind)
            start = position + FRAME_HEADER.size
            if end - start < length:
                self._needed = FRAME_HEADER.size + length
                break
            position = start + length
            frames.append((kind, view[start:position]))
        # A new one, because the views still look at the old one.
        self._buffer = bytearray(view[position:])
        return frames

    def _check(self, length: int, kind: int) -> None:
        limit = FRAME_LIMIT if self.limits is None else self.limits.get(kind, 0)
        if length > limit:
            raise ProtocolError(
                f"{self.peer} announces a frame of {length} bytes of type {kind};"
                f" the limit is {limit}"
            )


@frozen
class ChunkHeader:
    """What comes before each chunk of a blob."""

    blob: int
    total: int
    offset: int
    length: int


def encode_chunk_header(blob: int, total: int, offset: int, length: int) -> bytes:
    return CHUNK_HEADER.pack(blob, total, offset, length)


def parse_chunk_header(data: bytes | memoryview, peer: str) -> ChunkHeader:
    """Read a header.

    Raises:
        ProtocolError: the chunk is too long or lies outside of its blob.
    """
    header = ChunkHeader(*CHUNK_HEADER.unpack(data))
    if header.length > CHUNK_LIMIT or header.offset + header.length > header.total:
        raise ProtocolError(f"{peer} announces an impossible chunk: {header}")
    return header
