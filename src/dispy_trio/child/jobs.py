"""How jobs travel from the supervisor into a worker, and what comes back beside the ring.

Down: a batch is a header, a table of jobs, and their payloads end to end. A job whose arguments
are a segment is a batch of its own, with the sizes of its parts as payload and the descriptor
attached. Up: a frame of fixed size, with a descriptor attached when it announces a segment.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

__all__ = [
    "BELL",
    "CANCEL",
    "CONTROL",
    "TERMINATE",
    "UP",
    "WITH_SEGMENT",
    "encode_batch",
    "encode_segment_job",
    "encode_settings",
    "parse_batch",
    "receive_all",
    "receive_into",
    "receive_message",
]

_BATCH = struct.Struct("<II")
"""Number of jobs, bytes of all that follows."""
_JOB = struct.Struct("<QII")
"""Sequence, bytes of payload, parts of its segment (0 for none)."""

UP = struct.Struct("<BQIddI")
"""Kind, sequence, outcome, start, end, bytes of part sizes, which follow."""
BELL = 1
"""Look at the ring."""
WITH_SEGMENT = 2
"""A result in a segment, whose descriptor is attached; its last parts are stdout and stderr."""

CONTROL = struct.Struct("<BQ")
"""Kind, sequence."""
CANCEL = 1
TERMINATE = 2


_ANCILLARY = socket.CMSG_SPACE(16 * 4)


def _descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def receive_into(sock: socket.socket, buffer: memoryview) -> tuple[int, list[int]]:
    """Read bytes, and the descriptors that came with them, which no child program inherits."""
    count, ancillary, _, _ = sock.recvmsg_into([buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    return count, _descriptors_in(ancillary) if ancillary else []


def receive_message(sock: socket.socket, limit: int) -> tuple[bytes, list[int]]:
    """The same into new memory, for sockets that keep message borders."""
    data, ancillary, _, _ = sock.recvmsg(limit, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    return data, _descriptors_in(ancillary) if ancillary else []


def receive_all(sock: socket.socket, limit: int) -> tuple[bytes, list[int], bool]:
    """The same; True when descriptors were lost, because this process can have no more."""
    data, ancillary, flags, _ = sock.recvmsg(limit, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    lost = bool(flags & socket.MSG_CTRUNC)
    return data, _descriptors_in(ancillary) if ancillary else [], lost


def encode_batch(jobs: Sequence[tuple[int, bytes]]) -> bytes:
    """Small jobs, (sequence, payload) each."""
    table = b"".join([_JOB.pack(sequence, len(payload), 0) for sequence, payload in jobs])
    blob = b"".join([payload for _, payload in jobs])
    return _BATCH.pack(len(jobs), len(table) + len(blob)) + table + blob


def encode_segment_job(sequence: int, sizes: Sequence[int]) -> bytes:
    """One job whose arguments are the attached segment."""
    blob = struct.pack(f"<{len(sizes)}Q", *sizes)
    table = _JOB.pack(sequence, len(blob), len(sizes))
    return _BATCH.pack(1, len(table) + len(blob)) + table + blob


def encode_settings(settings: dict[str, Any]) -> bytes:
    """How the worker has to be for the one job that follows: a job with sequence 0."""
    blob = json.dumps(settings).encode()
    table = _JOB.pack(0, len(blob), 0)
    return _BATCH.pack(1, len(table) + len(blob)) + table + blob


def parse_batch(
    data: bytes | bytearray, position: int
) -> tuple[list[tuple[int, bytes, tuple[int, ...]]], int] | None:
    """One batch of `data`: jobs as (sequence, payload, sizes), and where the next one begins.

    None when it is not complete. Sizes are empty for a job without segment.
    """
    if len(data) - position < _BATCH.size:
        return None
    count, length = _BATCH.unpack_from(data, position)
    start = position + _BATCH.size
    if len(data) - start < length:
        return None
    table_end = start + count * _JOB.size
    at = table_end
    jobs: list[tuple[int, bytes, tuple[int, ...]]] = []
    for sequence, size, parts in _JOB.iter_unpack(memoryview(data)[start:table_end]):
        payload = bytes(data[at : at + size])
        at += size
        sizes = struct.unpack(f"<{parts}Q", payload) if parts else ()
        jobs.append((sequence, payload, sizes))
    return jobs, start + length
