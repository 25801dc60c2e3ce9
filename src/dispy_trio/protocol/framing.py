"""Frames: length, type, body; and the chunks of the bulk connection.

Both decoders are incremental and decide from the header alone whether a frame is too large, before
any byte of its body is stored.
"""

from __future__ import annotations

import struct

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
    limit: int = FRAME_LIMIT
    _buffer: bytearray = field(factory=bytearray)

    def receive_data(self, data: bytes | memoryview) -> list[tuple[int, memoryview]]:
        """Take bytes; return the frames they complete as (type, body).

        The bodies are views that stay valid, whatever is received later.

        Raises:
            ProtocolError: a header announces more than the limit.
        """
        buffer = self._buffer
        if not buffer:
            # The common case: whole frames, no copy but the one that makes them last.
            view = memoryview(bytes(data))
        else:
            buffer += data
            if len(buffer) < FRAME_HEADER.size:
                return []
            length, _ = FRAME_HEADER.unpack_from(buffer)
            if length <= self.limit and len(buffer) < FRAME_HEADER.size + length:
                return []
            view = memoryview(bytes(buffer))
            buffer.clear()
        frames: list[tuple[int, memoryview]] = []
        position = 0
        end = len(view)
        while end - position >= FRAME_HEADER.size:
            length, kind = FRAME_HEADER.unpack_from(view, position)
            if length > self.limit:
                raise ProtocolError(
                    f"{self.peer} announces a frame of {length} bytes of type {kind};"
                    f" the limit is {self.limit}"
                )
            start = position + FRAME_HEADER.size
            if end - start < length:
                break
            position = start + length
            frames.append((kind, view[start:position]))
        buffer += view[position:]
        return frames


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
