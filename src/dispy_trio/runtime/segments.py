"""Memory files that two processes of one machine share instead of sending their content.

A process opens the other's descriptor below ``/proc``; the kernel allows it to the same user only.
Whether it works is tried once per session, with a token, rather than guessed.
"""

from __future__ import annotations

import fcntl
import hmac
import mmap
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from dispy_trio.child.parts import span
from dispy_trio.errors import ConnectionLost, ProtocolError

__all__ = [
    "Content",
    "can_open",
    "check_parts",
    "content_of",
    "map_segment",
    "offer",
    "open_segment",
]


class Content(Protocol):
    """Bytes that are taken slice by slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, piece: slice, /) -> memoryview | bytes: ...


def map_segment(segment: int) -> memoryview:
    """Map a whole memory file; the mapping lives as long as the view and its slices do."""
    size = os.fstat(segment).st_size
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(segment, size))


class _File:
    """What others can shorten is read: who maps it dies of a page that is gone."""

    def __init__(self, segment: int) -> None:
        self._descriptor = os.dup(segment)
        self._size = os.fstat(segment).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice, /) -> bytes:
        start, stop, _ = piece.indices(self._size)
        found = os.pread(self._descriptor, stop - start, start)
        # How much comes was told before.
        return found + bytes(stop - start - len(found))

    def __del__(self) -> None:
        os.close(self._descriptor)


def content_of(segment: int) -> Content:
    """All that is in a segment that a job has made, and may still have; it outlives the descriptor."""
    try:
        stays = fcntl.fcntl(segment, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        stays = 0  # A file in a directory, which knows no seals.
    return map_segment(segment) if stays else _File(segment)


def open_segment(process: int, descriptor: int) -> int:
    """Open a memory file of another process.

    Raises:
        ConnectionLost: it is not there: the process is gone, or not on this machine.
    """
    try:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(f"/proc/{process:d}/fd/{descriptor:d}", flags)
    except OSError as exc:
        raise ConnectionLost(f"a segment of process {process} is gone: {exc.strerror}") from exc


def check_parts(segment: int, sizes: Sequence[int], peer: str) -> None:
    """See that a segment is a file that holds parts of these sizes.

    Raises:
        ProtocolError: it is not; names the peer who said so.
    """
    status = os.fstat(segment)
    if not sizes or not stat.S_ISREG(status.st_mode) or status.st_size < span(sizes):
        raise ProtocolError(
            f"{peer} promised parts of {sum(sizes)} bytes in a segment that has {status.st_size}"
        )


def offer(token: bytes) -> int:
    """A memory file that holds the token; the caller closes it."""
    descriptor = os.memfd_create("dispy-trio-offer", os.MFD_CLOEXEC)
    os.write(descriptor, token)
    return descriptor


def can_open(process: int, descriptor: int, token: bytes) -> bool:
    """Is the token there? Then that process is on this machine and trusts us with its memory."""
    try:
        found = open_segment(process, descriptor)
    except ConnectionLost:
        return False
    try:
        return hmac.compare_digest(os.pread(found, len(token) + 1, 0), token)
    except OSError:
        return False
    finally:
        os.close(found)
