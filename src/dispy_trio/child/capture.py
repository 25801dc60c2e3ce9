"""What a worker's jobs write, caught at the descriptors, so that child programs are caught too.

Each stream is a file that only grows, with a mark in memory shared with the supervisor: what lies
behind the mark was written by the job that runs. To see that a job has written nothing, and that 1
and 2 still lead to the files, takes one `lseek` on each: they begin with some bytes, a random number
of them, so that no other file is as long by accident.

What was taken is given back by a hole in the file rather than by cutting it: whoever else writes
meanwhile, a program that a job left, loses nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import sys
from typing import TextIO

from dispy_trio.child import stretch
from dispy_trio.child.stretch import Pieces

__all__ = ["Capture"]

_PAGE = 4096
_HEAD = 64
"""Bytes at the beginning of a file by which it is known that nobody emptied it."""
_RELEASE = 1024 * 1024
"""Bytes after which what was taken is given back."""
_PUNCH_HOLE = 3
"""``FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE``"""
_UNBUFFERED = 2
"""``_IONBF``"""
_NOTHING: tuple[Pieces, Pieces] = ((), ())


class _Stream:
    """The file in the place of one descriptor."""

    __slots__ = (
        "_emptied",
        "_file",
        "_given_back",
        "_head",
        "_index",
        "_marks",
        "end",
        "kept",
        "number",
    )

    def __init__(self, number: int, kept: int, marks: memoryview) -> None:
        self.number = number
        self.kept = kept
        """Beside 1 or 2, which a job may close or lead elsewhere."""
        self._file = _identity(kept)
        self._index = number - 1
        self._marks = marks
        self._head = os.urandom(_HEAD)
        self._emptied = False
        self._given_back = _PAGE
        filling = int.from_bytes(os.urandom(2), "little") % (_PAGE - _HEAD)
        os.write(kept, self._head + bytes(filling))
        self.end = os.lseek(kept, 0, os.SEEK_END)
        marks[self._index] = self.end
        os.dup2(kept, number)

    def put_back(self) -> None:
        """Have the descriptor lead to the file again, and append to it."""
        if _identity(self.number) != self._file:
            os.dup2(self.kept, self.number)
        fcntl.fcntl(self.kept, fcntl.F_SETFL, os.O_APPEND)

    def written(self, limit: int) -> Pieces:
        """What was written behind the mark."""
        self.end = os.lseek(self.kept, 0, os.SEEK_END)
        start: int = self._marks[self._index]
        if self.end == start:
            return ()
        # A program that opens /dev/stdout anew, as shells do for `>`, empties the file.
        self._emptied = os.pread(self.kept, _HEAD, 0) != self._head
        return stretch.cut(self.kept, 0 if self._emptied else start, self.end, limit)

    def move_mark(self) -> None:
        """What was read is safe elsewhere."""
        if self._emptied:
            self._emptied = False
            self._given_back = _PAGE
            # Not by our own descriptor, which appends wherever it is told to write.
            again = os.open(f"/proc/self/fd/{self.kept}", os.O_RDWR | os.O_CLOEXEC)
            os.pwrite(again, self._head, 0)
            os.close(again)
            self.end = max(self.end, _HEAD)
        self._marks[self._index] = self.end
        if self.end - self._given_back > _RELEASE:
            end = self.end - self.end % _PAGE
            length = end - self._given_back
            # Where the file system can't, the file stays as long as it is.
            _punch(self.kept, self._given_back, length)
            self._given_back = end


class Capture:
    """Two files in the places of stdout and stderr.

    They are opened for appending, so that everybody who inherited them writes at the end. What a
    program that a job left running writes while another job runs can't be told from that one's.
    """

    def __init__(self, stdout: int, stderr: int, limit: int, marks: memoryview) -> None:
        self._limit = limit
        self._out = _Stream(1, stdout, marks)
        self._err = _Stream(2, stderr, marks)
        # The first ones of this process: what a module took at its import still works.
        assert sys.__stdout__ is not None
        assert sys.__stderr__ is not None
        self._texts: tuple[TextIO, TextIO] = (sys.__stdout__, sys.__stderr__)
        for text in self._texts:
            text.reconfigure(
                encoding="utf-8",
                errors="backslashreplace",
                # What a child program writes comes in between where it belongs, and what was
                # printed before a crash is not lost. The layer below has no buffer: `python -u`.
                write_through=True,
            )
        sys.stdout, sys.stderr = self._texts
        _unbuffer_c()

    def take(self) -> tuple[Pieces, Pieces]:
        """What was written since the last time; `release` when it is safe."""
        out, err = self._texts
        try:
            if sys.stdout is not out or sys.stderr is not err or out.closed or err.closed:
                self._restore()
        except ValueError:  # Detached from what lies below.
            self._restore()
        try:
            if (
                os.lseek(1, 0, os.SEEK_END) == self._out.end
                and os.lseek(2, 0, os.SEEK_END) == self._err.end
            ):
                return _NOTHING
        except OSError:
            pass  # Closed, or no file: put back below.
        self._out.put_back()
        self._err.put_back()
        return self._out.written(self._limit), self._err.written(self._limit)

    def release(self) -> None:
        """What was taken is safe."""
        self._out.move_mark()
        self._err.move_mark()

    def _restore(self) -> None:
        """Where one job led its prints is not where the next one's go."""
        out, err = self._texts
        self._texts = (out if _is_usable(out) else _text(1), err if _is_usable(err) else _text(2))
        sys.stdout, sys.stderr = self._texts


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None  # It was closed.
    return found.st_dev, found.st_ino


def _is_usable(text: TextIO) -> bool:
    try:
        return not text.closed
    except ValueError:
        return False


def _text(descriptor: int) -> TextIO:
    """As `python -u` makes it: without a buffer."""
    return io.TextIOWrapper(
        io.FileIO(descriptor, "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )


def _punch(descriptor: int, start: int, length: int) -> None:
    libc = ctypes.CDLL(None)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    fallocate(descriptor, _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(length))


def _unbuffer_c() -> None:
    """What C code prints goes to the descriptors at once, too."""
    libc = ctypes.CDLL(None)
    for name in ("stdout", "stderr"):
        stream = ctypes.c_void_p.in_dll(libc, name)
        libc.setvbuf(stream, None, _UNBUFFERED, ctypes.c_size_t(0))
