"""Memory that a worker shares with its supervisor: results one way, recalls the other.

Why a ring: the worker needs no system call per job, and when it is killed, every result it had
completed is still there to be read, so that only the job that ran is blamed.

One writer, one reader. The two counters only grow; a record is written before the counter that
announces it. A record never wraps round the end: what is left there is skipped.

Why recalls go through the same memory and not by signal: a worker deep in a C function does not
come round to a signal for minutes, and the jobs waiting behind it could run elsewhere meanwhile.
So the supervisor decides alone. It writes how far it recalls, then reads what has started; the
worker writes what it starts, then reads how far is recalled. With a fence in between, at least one
of the two sees the other. If both do, the supervisor's verdict, which it writes last, counts, and
the worker waits for it: some microseconds.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import NamedTuple

__all__ = ["RING_SIZE", "Record", "Ring", "RingError"]

RING_SIZE = 1024 * 1024

_HEADER_SIZE = 80
_WRITTEN, _READ, _STARTED, _RECALLED, _VERDICT, _SETTLED = range(6)
_STARTS_OFFSET = 48
_MARKS_OFFSET = 64
_RECORD = struct.Struct("<QIddIII")

_FAR = 1e11
"""Seconds since the epoch that no clock shows."""

# Elsewhere a processor may show the counter to the other side before the record.
_WEAKLY_ORDERED = os.uname().machine not in ("x86_64", "i386", "i486", "i586", "i686")


class RingError(ValueError):
    """The other side wrote what can't be."""


class Record(NamedTuple):
    """One result."""

    sequence: int
    outcome: int
    start: float
    end: float
    payload: bytes
    stdout: bytes
    stderr: bytes


class Ring:
    """One side's view of the shared memory."""

    __slots__ = (
        "_capacity",
        "_data",
        "_fencing",
        "_recalled",
        "_starts",
        "_verdict",
        "_words",
        "marks",
    )

    def __init__(self, memory: memoryview) -> None:
        # Items of these are read and written whole, never in halves.
        self._words = memory[:_STARTS_OFFSET].cast("Q")
        self._starts = memory[_STARTS_OFFSET:_MARKS_OFFSET].cast("d")
        self.marks = memory[_MARKS_OFFSET:_HEADER_SIZE].cast("Q")
        """Where in the files of stdout and stderr that begins which the job that runs wrote."""
        self._data = memory[_HEADER_SIZE:]
        self._capacity = len(self._data)
        # Ours, because the worker can write to the memory.
        self._recalled = 0
        self._verdict = 0
        self._fencing = threading.Lock()
        self._fencing.acquire()

    def _fence(self) -> None:
        """What was written before this is seen by the other side before what is read after it."""
        self._fencing.release()
        self._fencing.acquire()

    # --- which job runs ------------------------------------------------------------------------
    def start(self, sequence: int, when: float) -> bool:
        """The writer starts a job; False when the job was recalled and must not run."""
        words = self._words
        # Two places in turn: the one that belongs to the last sequence is never half new.
        self._starts[sequence & 1] = when
        words[_STARTED] = sequence
        self._fencing.release()
        self._fencing.acquire()
        if sequence > words[_RECALLED]:
            return True
        while words[_SETTLED] != words[_RECALLED]:
            os.sched_yield()
        return sequence <= words[_VERDICT]

    def started(self) -> tuple[int, float]:
        """Sequence of the last job started, 0 for none, and when."""
        while True:
            sequence = self._words[_STARTED]
            when = self._starts[sequence & 1]
            if sequence == self._words[_STARTED]:
                # Also what is no number is not in between.
                return sequence, when if 0.0 <= when < _FAR else 0.0

    def recall(self, last: int) -> int:
        """The reader takes back the jobs up to `last` that have not started.

        Returns the sequence of the last one that stays: it runs, or has run.
        """
        words = self._words
        words[_RECALLED] = last
        self._fence()
        started = words[_STARTED]
        if started > self._recalled:
            self._verdict = started
        # Else it is about to skip what an earlier call took back, and has started nothing since.
        self._recalled = last
        words[_VERDICT] = self._verdict
        if _WEAKLY_ORDERED:
            self._fence()
        words[_SETTLED] = last
        return self._verdict

    # --- results -------------------------------------------------------------------------------
    def write(
        self,
        sequence: int,
        outcome: int,
        start: float,
        end: float,
        payload: bytes,
        stdout: bytes = b"",
        stderr: bytes = b"",
    ) -> bool:
        """Append a record; False, and nothing is written, when there is no room for it."""
        size = _RECORD.size + len(payload) + len(stdout) + len(stderr)
        written = self._words[_WRITTEN]
        position = written % self._capacity
        skip = 0
        if position + size > self._capacity:
            skip = self._capacity - position
        if written + skip + size - self._words[_READ] > self._capacity:
            return False
        if skip:
            if skip >= _RECORD.size:
                # Sequence 0 stands for nothing: the reader goes on at the start.
                _RECORD.pack_into(self._data, position, 0, 0, 0.0, 0.0, 0, 0, 0)
            position = 0
        data = self._data
        _RECORD.pack_into(
            data, position, sequence, outcome, start, end, len(payload), len(stdout), len(stderr)
        )
        position += _RECORD.size
        data[position : position + len(payload)] = payload
        if stdout or stderr:
            position += len(payload)
            data[position : position + len(stdout)] = stdout
            position += len(stdout)
            data[position : position + len(stderr)] = stderr
        if _WEAKLY_ORDERED:
            self._fence()
        self._words[_WRITTEN] = written + skip + size
        return True

    def has_records(self) -> bool:
        return self._words[_WRITTEN] != self._words[_READ]

    def read(self) -> list[Record]:
        """Take all records there are.

        Raises:
            RingError: what lies there is no record; nothing after it can be found.
        """
        data = self._data
        capacity = self._capacity
        written = self._words[_WRITTEN]
        at = self._words[_READ]
        if written - at > capacity:
            raise RingError(f"{written - at} bytes are announced in a ring of {capacity}")
        if _WEAKLY_ORDERED:
            self._fence()
        records: list[Record] = []
        while at < written:
            position = at % capacity
            left = capacity - position
            if left < _RECORD.size:
                at += left
                continue
            sequence, outcome, start, end, payload, stdout, stderr = _RECORD.unpack_from(
                data, position
            )
            if not sequence:
                at += left
                continue
            begin = at
            first = position + _RECORD.size
            second = first + payload
            if stdout or stderr:
                third = second + stdout
                fourth = third + stderr
                out, err = bytes(data[second:third]), bytes(data[third:fourth])
                at += fourth - position
            else:
                out = err = b""
                at += second - position
            if at > written:
                if not records:
                    raise RingError(f"record {sequence} is longer than what was written")
                at = begin  # Those before it are good. It is met again the next time.
                break
            records.append(
                Record(sequence, outcome, start, end, bytes(data[first:second]), out, err)
            )
        self._words[_READ] = at
        return records
