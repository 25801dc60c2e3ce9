"""A ring of results in memory that a worker shares with its supervisor.

Why a ring: the worker needs no system call per job, and when it is killed, every result it had
completed is still there to be read, so that only the job that ran is blamed.

One writer, one reader. The two counters only grow; a record is written before the counter that
announces it. A record never wraps round the end: what is left there is skipped.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["RING_SIZE", "Record", "Ring"]

RING_SIZE = 1024 * 1024

_HEADER_SIZE = 64
_WRITTEN, _READ, _STARTED = 0, 1, 2
_STARTED_AT = struct.Struct("<d")
_STARTED_AT_OFFSET = 24
_RECORD = struct.Struct("<QIddIII")


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

    __slots__ = ("_capacity", "_counters", "_data", "_memory")

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._counters = memory[:_STARTED_AT_OFFSET].cast("Q")
        self._data = memory[_HEADER_SIZE:]
        self._capacity = len(self._data)

    def mark_started(self, sequence: int, when: float) -> None:
        """The writer starts a job."""
        _STARTED_AT.pack_into(self._memory, _STARTED_AT_OFFSET, when)
        self._counters[_STARTED] = sequence

    def started(self) -> tuple[int, float]:
        """Sequence of the last job started, 0 for none, and when."""
        when: float = _STARTED_AT.unpack_from(self._memory, _STARTED_AT_OFFSET)[0]
        return self._counters[_STARTED], when

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
        written = self._counters[_WRITTEN]
        position = written % self._capacity
        skip = 0
        if position + size > self._capacity:
            skip = self._capacity - position
        if written + skip + size - self._counters[_READ] > self._capacity:
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
        self._counters[_WRITTEN] = written + skip + size
        return True

    def has_records(self) -> bool:
        return self._counters[_WRITTEN] != self._counters[_READ]

    def read(self) -> list[Record]:
        """Take all records there are."""
        data = self._data
        capacity = self._capacity
        written = self._counters[_WRITTEN]
        at = self._counters[_READ]
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
            records.append(
                Record(sequence, outcome, start, end, bytes(data[first:second]), out, err)
            )
        self._counters[_READ] = at
        return records
