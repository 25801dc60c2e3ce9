"""What a running job asks of its node: one request, one answer, as JSON."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

__all__ = ["CALL_LIMIT", "call", "connect"]

CALL_LIMIT = 64 * 1024
"""Bytes of a request or an answer."""

_socket: socket.socket | None = None
_lock = threading.Lock()
_last = 0
_owner = 0


def connect(sock: socket.socket) -> None:
    """Use this socket; called once, by the worker."""
    global _owner, _socket
    _socket = sock
    _owner = os.getpid()


def call(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask, and wait for the answer; safe from any thread of the job.

    Raises:
        RuntimeError: this is no job, or a process that the job forked.
        OSError: the node answered that it can't; the text says why.
    """
    global _last
    if _socket is None or _owner != os.getpid():
        raise RuntimeError(f"{kind} works inside of a job only, and in its own process")
    with _lock:
        _last += 1
        number = _last
        request = json.dumps({"call": number, "kind": kind, "body": body}).encode()
        if len(request) > CALL_LIMIT:
            raise OSError(f"{kind}: a request of {len(request)} bytes is too long")
        _socket.send(request)
        while True:
            data = _socket.recv(CALL_LIMIT)
            if not data:
                raise OSError("the node is gone")
            answer = json.loads(data)
            # An answer to a call that an interrupt cut short may still come before ours.
            if answer["call"] == number:
                break
    result: dict[str, Any] = answer["body"]
    if "error" in result:
        raise OSError(result["error"])
    return result
