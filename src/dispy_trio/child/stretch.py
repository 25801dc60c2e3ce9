"""What is too long for memory: a stretch of a file, copied from file to file by the kernel."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from dispy_trio.child.parts import new_segment, padded

__all__ = [
    "ON_DISK",
    "SHORT",
    "Stretch",
    "Written",
    "append_outputs",
    "cut",
    "join",
    "new_file",
    "size_of",
    "write_parts",
]

SHORT = 64 * 1024
"""Bytes up to which a stretch is simply read."""
ON_DISK = 8 * 1024 * 1024
"""Bytes of output from which a segment is a file on disk rather than memory."""
_AT_ONCE = 1024 * 1024 * 1024


class Stretch(NamedTuple):
    """Some bytes of a file."""

    descriptor: int
    offset: int
    size: int


Written = bytes | Sequence[bytes | Stretch]
"""What was written to one stream: the bytes themselves when it is short, else piece by piece."""


def cut(descriptor: int, start: int, end: int, limit: int) -> Written:
    """The bytes of a file from `start` to `end`; without the middle when they are more than `limit`.

    Args:
        limit: 0 for none.
    """
    size = end - start
    if size <= 0:
        return b""
    if not limit or size <= limit:
        if size <= SHORT:
            return os.pread(descriptor, size, start)
        return (Stretch(descriptor, start, size),)
    half = limit // 2
    mark = b"\n[... %d bytes cut out: max_output is %d ...]\n" % (size - 2 * half, limit)
    pieces = (Stretch(descriptor, start, half), mark, Stretch(descriptor, end - half, half))
    return pieces if limit > SHORT else join(pieces)


def size_of(written: Written) -> int:
    """Bytes of all of it."""
    if isinstance(written, bytes):
        return len(written)
    return sum(piece.size if isinstance(piece, Stretch) else len(piece) for piece in written)


def join(written: Written) -> bytes:
    """All of it in memory."""
    if isinstance(written, bytes):
        return written
    return b"".join(
        os.pread(p.descriptor, p.size, p.offset) if isinstance(p, Stretch) else p for p in written
    )


def new_file(directory: str, name: str, flags: int = 0) -> int:
    """An unnamed file in a directory; in memory where the file system knows no such files."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except OSError:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        if flags:
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        return descriptor


def write_parts(
    pieces: Sequence[memoryview | bytes], outputs: Sequence[Written], directory: str
) -> tuple[int, list[int]]:
    """A new segment of the pieces, a part each, and of the outputs behind them; and all their sizes.

    It lies in `directory` when the outputs are long, else in memory.
    """
    sizes = [len(piece) for piece in pieces] + [size_of(output) for output in outputs]
    if sum(sizes[len(pieces) :]) > ON_DISK:
        try:
            return _fill(new_file(directory, "dispy-trio"), pieces, outputs), sizes
        except OSError:
            pass  # The disk is full. Memory may have room.
    return _fill(new_segment(), pieces, outputs), sizes


def _fill(segment: int, pieces: Sequence[memoryview | bytes], outputs: Sequence[Written]) -> int:
    try:
        append_outputs(segment, _write(segment, padded(pieces), 0), outputs)
    except BaseException:
        os.close(segment)
        raise
    return segment


def append_outputs(segment: int, offset: int, outputs: Sequence[Written]) -> list[int]:
    """Make them the last parts of a segment, from there on; their sizes."""
    for output in outputs:
        offset = _copy(output, segment, offset)
        # Parts begin where `parts.split` looks for them.
        offset += -offset % 64
    os.ftruncate(segment, offset)
    return [size_of(output) for output in outputs]


def _write(segment: int, views: Sequence[memoryview | bytes], offset: int) -> int:
    for view in views:
        rest = memoryview(view)
        while rest:
            count = os.pwrite(segment, rest, offset)
            offset += count
            rest = rest[count:]
    return offset


def _copy(written: Written, segment: int, offset: int) -> int:
    """Copy them to a file, from `offset` on; where they end.

    A file that somebody shortens meanwhile is filled up with zeros: lengths were told before. What
    was never written, in a file that was made longer than the disk is, takes no room in the copy.
    """
    for piece in (written,) if isinstance(written, bytes) else written:
        if not isinstance(piece, Stretch):
            offset = _write(segment, [piece], offset)
            continue
        begin, end = piece.offset, piece.offset + piece.size
        while (begin := _next(os.SEEK_DATA, piece.descriptor, begin)) < end:
            hole = min(end, begin + _AT_ONCE, _next(os.SEEK_HOLE, piece.descriptor, begin))
            os.lseek(segment, offset + begin - piece.offset, os.SEEK_SET)
            begin += os.sendfile(segment, piece.descriptor, begin, hole - begin)
        offset += piece.size
    return offset


def _next(what: int, descriptor: int, offset: int) -> int:
    """Where there is data or a hole, from there on; beyond all files when there is none."""
    try:
        return os.lseek(descriptor, offset, what)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return sys.maxsize
