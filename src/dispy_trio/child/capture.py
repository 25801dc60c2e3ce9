"""What a worker's jobs write, caught at the descriptors, so that child programs are caught too."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["Capture", "cut"]


def cut(data: bytes, limit: int) -> bytes:
    """The data, with the middle taken out when it is longer than `limit` bytes."""
    if len(data) <= limit:
        return data
    half = limit // 2
    gone = len(data) - 2 * half
    return data[:half] + b"\n[... %d bytes cut out ...]\n" % gone + data[-half:]


class Capture:
    """Two memory files in the places of stdout and stderr.

    They are opened for appending, so that everybody who inherited them writes at the end. A
    program that a job leaves running writes into the output of whichever job runs then.
    """

    def __init__(self, stdout: int, stderr: int, limit: int) -> None:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        self._limit = limit
        sys.stdout = self._text(1)
        sys.stderr = self._text(2)

    @staticmethod
    def _text(descriptor: int) -> io.TextIOWrapper:
        return io.TextIOWrapper(
            io.FileIO(descriptor, "w", closefd=False),
            encoding="utf-8",
            errors="backslashreplace",
            # Unbuffered: what a child program writes comes in between where it belongs, and
            # what was printed before a crash is not lost.
            write_through=True,
        )

    def take(self) -> tuple[bytes, bytes]:
        """What was written since the last time."""
        out = os.lseek(1, 0, os.SEEK_END)
        err = os.lseek(2, 0, os.SEEK_END)
        if not out and not err:
            return b"", b""
        return self._read(1, out), self._read(2, err)

    def _read(self, descriptor: int, size: int) -> bytes:
        if not size:
            return b""
        limit = self._limit
        if size <= limit:
            data = os.pread(descriptor, size, 0)
        else:
            half = limit // 2
            head = os.pread(descriptor, half, 0)
            tail = os.pread(descriptor, half, size - half)
            data = head + b"\n[... %d bytes cut out ...]\n" % (size - 2 * half) + tail
        os.ftruncate(descriptor, 0)
        return data
