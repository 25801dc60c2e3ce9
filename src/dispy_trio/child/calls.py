"""What a running job asks of its node: one request, one answer, as JSON.

A request may carry bytes of any length beside it, in a memory file.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

from dispy_trio.child import forks
from dispy_trio.child.parts import write_segment

__all__ = ["CALL_LIMIT", "call", "connect", "number_from"]

CALL_LIMIT = 64 * 1024
"""Bytes of a request or an answer."""

_socket: socket.socket | None = None
_lock = threading.Lock()
_last = 0


def connect(sock: socket.socket) -> None:
    """Use this socket; called once, by the worker."""
    global _socket
    _socket = sock
    forks.keep(sock)


def number_from(first: int) -> None:
    """Number calls from there: answers to those of another process on this socket are not ours."""
    global _last
    _last = first


def call(kind: str, body: dict[str, Any], data: bytes | None = None) -> dict[str, Any]:
    """Ask, and wait for the answer; safe from any thread of the job.

    Raises:
        RuntimeError: this is no job, or a process that the job forked.
        OSError: the node answered that it can't; the text says why.
    """
    global _last
    if _socket is None or not forks.is_ours():
        raise RuntimeError(f"{kind} works inside of a job only, and in its own process")
    with _lock:
        _last += 1
        number = _last
        request = json.dumps({"call": number, "kind": kind, "body": body}).encode()
        if len(request) > CALL_LIMIT:
            raise OSError(f"{kind}: a request of {len(request)} bytes is too long")
        _send(_socket, request, data)
        while True:
            received = _socket.recv(CALL_LIMIT)
            if not received:
                raise OSError("the node is gone")
            answer = json.loads(received)
            # An answer to a call that an interrupt cut short may still come before ours.
            if answer["call"] == number:
                break
    result: dict[str, Any] = answer["body"]
    if "error" in result:
        raise OSError(result["error"])
    return result


def _send(sock: socket.socket, request: bytes, data: bytes | None) -> None:
    if data is None:
        sock.send(request)
        return
    segment = write_segment([data])
    try:
        socket.send_fds(sock, [request], [segment])
    finally:
        os.close(segment)
