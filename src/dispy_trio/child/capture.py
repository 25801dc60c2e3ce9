"""What a worker's jobs write, caught at the descriptors, so that child programs are caught too."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["Capture", "read_cut"]


def read_cut(descriptor: int, size: int, limit: int) -> bytes:
    """The first `size` bytes of a file, without the middle when that is more than `limit`."""
    if size <= limit:
        return os.pread(descriptor, size, 0)
    half = limit // 2
    mark = b"\n[... %d bytes cut out ...]\n" % (size - 2 * half)
    return os.pread(descriptor, half, 0) + mark + os.pread(descriptor, half, size - half)


class Capture:
    """Two memory files in the places of stdout and stderr.

    They are opened for appending, so that everybody who inherited them writes at the end. A
    program that a job leaves running writes into the output of whichever job runs then.
    """

    def __init__(self, stdout: int, stderr: int, limit: int) -> None:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        # Kept beside 1 and 2, which a job may close or lead elsewhere.
        self._stdout = stdout
        self._stderr = stderr
        self._limit = limit
        self._texts = (self._text(1), self._text(2))
        sys.stdout, sys.stderr = self._texts

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
        texts = self._texts
        if (sys.stdout, sys.stderr) != texts or texts[0].closed or texts[1].closed:
            self._restore()
        out = os.lseek(self._stdout, 0, os.SEEK_END)
        err = os.lseek(self._stderr, 0, os.SEEK_END)
        if not out and not err:
            return b"", b""
        return self._read(self._stdout, out), self._read(self._stderr, err)

    def _restore(self) -> None:
        """Where one job led its output is not where the next one's goes."""
        os.dup2(self._stdout, 1)
        os.dup2(self._stderr, 2)
        self._texts = (self._text(1), self._text(2))
        sys.stdout, sys.stderr = self._texts

    def _read(self, descriptor: int, size: int) -> bytes:
        if not size:
            return b""
        data = read_cut(descriptor, size, self._limit)
        os.ftruncate(descriptor, 0)
        return data
