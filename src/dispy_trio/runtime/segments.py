"""Memory files that two processes of one machine share instead of sending their content.

A process opens the other's descriptor below ``/proc``; the kernel allows it to the same user only.
Whether it works is tried once per session, with a token, rather than guessed.
"""

from __future__ import annotations

import hmac
import mmap
import os
import stat
from collections.abc import Sequence

from dispy_trio.child.parts import span
from dispy_trio.errors import ConnectionLost, ProtocolError

__all__ = ["can_open", "check_parts", "map_segment", "offer", "open_segment"]


def map_segment(segment: int) -> memoryview:
    """Map a whole memory file; the mapping lives as long as the view and its slices do."""
    size = os.fstat(segment).st_size
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(segment, size))


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
