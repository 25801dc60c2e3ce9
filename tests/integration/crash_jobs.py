"""Jobs of `test_crashes`: they die while their results are handed over, or tell lies."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import dispy_trio.child
from dispy_trio.child import calls, forks, parts, worker
from dispy_trio.child.jobs import UP

_OURS = os.path.dirname(dispy_trio.child.__file__)


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def double(number: int) -> int:
    return 2 * number


def die_at_step(steps: int, size: int) -> bytes:
    """Be killed that many lines after the job, in what hands its result over."""
    here = sys._getframe()
    left = steps

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "line" and frame.f_code.co_filename.startswith(_OURS):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return count

    frame = here.f_back
    while frame is not None:
        frame.f_trace = count
        frame = frame.f_back
    # As jobs do it, it is noticed, and undone after them.
    trace = sys.gettrace()
    worker._gettrace = lambda: trace
    sys.settrace(count)
    return bytes(size)


# --- lies --------------------------------------------------------------------------------------
def _socket_of_jobs() -> socket.socket:
    # The only one of them that is a stream.
    return next(
        sock for sock in forks._sockets if sock.fileno() >= 0 and sock.type == socket.SOCK_STREAM
    )


def _frame(
    kind: int = 2,
    sequence: int = 1,
    outcome: int = 0,
    start: float = 1.0,
    end: float = 2.0,
    sizes: bytes = b"",
    length: int | None = None,
) -> bytes:
    return (
        UP.pack(kind, sequence, outcome, start, end, len(sizes) if length is None else length)
        + sizes
    )


def _memory(size: int) -> int:
    segment = os.memfd_create("lie")
    os.truncate(segment, size)
    return segment


_LIES: dict[str, Callable[[int], tuple[bytes, list[int]]]] = {
    "a kind of frame that there is not": lambda n: (_frame(9, n), []),
    "a result without its segment": lambda n: (_frame(2, n, sizes=bytes(24)), []),
    "half a number": lambda n: (_frame(2, n, sizes=bytes(25)), [_memory(64)]),
    "a result without parts": lambda n: (_frame(2, n), [_memory(64)]),
    "parts that are not there": lambda n: (
        _frame(2, n, sizes=struct.pack("<3Q", 1 << 40, 0, 0)),
        [_memory(64)],
    ),
    "parts longer than all numbers": lambda n: (
        _frame(2, n, sizes=struct.pack("<3Q", (1 << 64) - 1, 1, 64)),
        [_memory(64)],
    ),
    "a socket for a segment": lambda n: (
        _frame(2, n, sizes=bytes(24)),
        [os.dup(_socket_of_jobs().fileno())],
    ),
    "a job of the future": lambda n: (_frame(2, n + 7, sizes=bytes(24)), [_memory(64)]),
    "a job of the past": lambda n: (_frame(2, n - 1, sizes=bytes(24)), [_memory(64)]),
    "an outcome that there is not": lambda n: (_frame(2, n, 77, sizes=bytes(24)), [_memory(64)]),
    "no time at all": lambda n: (
        _frame(2, n, start=float("nan"), sizes=bytes(24)),
        [_memory(64)],
    ),
    "an endless time": lambda n: (_frame(2, n, end=float("inf"), sizes=bytes(24)), [_memory(64)]),
    "segments of nobody": lambda n: (_frame(1), [_memory(64) for _ in range(5)]),
}
LIES = list(_LIES)


def lie(what: str, sequence: int) -> None:
    frame, descriptors = _LIES[what](sequence)
    socket.send_fds(_socket_of_jobs(), [frame], descriptors)
    time.sleep(60)


def flood() -> None:
    """The head of a frame of gigabytes, and of what follows as much as is taken."""
    _socket_of_jobs().sendall(_frame(2, 1, length=(1 << 32) - 1))
    while True:
        _socket_of_jobs().sendall(bytes(1 << 20))


def ask(what: str) -> None:
    sock = calls._socket
    assert sock is not None
    if what == "deep":
        sock.send(b'{"call":1,"kind":"x","body":{"x":' + b"[" * 60_000)
    elif what == "pipe":
        socket.send_fds(
            sock, [json.dumps({"call": 1, "kind": "x", "body": {}}).encode()], os.pipe()
        )
    elif what == "endless file":
        socket.send_fds(
            sock, [json.dumps({"call": 1, "kind": "x", "body": {}}).encode()], [_memory(1 << 45)]
        )
    time.sleep(60)


def scribble(seed: int) -> None:
    """Write over the ring, as a stray pointer might."""
    import ctypes

    draw = random.Random(seed)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "dispy-trio-ring" in line:
            start = int(line.split("-")[0], 16)
            for _ in range(draw.randint(1, 6)):
                word = draw.choice([0, 1, 2, 1000, 1 << 20, 1 << 63, draw.getrandbits(64)])
                where = 8 * draw.choice([*range(12), draw.randint(12, 200)])
                ctypes.memmove(start + where, word.to_bytes(8, "little"), 8)
    if draw.random() < 0.5:
        time.sleep(0.05)
    if draw.random() < 0.5:
        os.kill(os.getpid(), signal.SIGKILL)


def shorten_everything() -> None:
    """Empty all that is open: a node that has mapped it must not die of it."""
    for name in os.listdir("/proc/self/fd"):
        try:
            os.ftruncate(int(name), 0)
        except OSError:
            pass  # It is no file, or its size is not to be changed.


def ask_often(calls_at_once: int, size: int, refused: int) -> list[str]:
    """Ask without waiting for all answers but those that are errors, of which there are so many."""
    sock = calls._socket
    assert sock is not None
    attached = _memory(size)
    errors = []
    for number in range(1000, 1000 + calls_at_once):
        request = json.dumps({"call": number, "kind": "x", "body": {}}).encode()
        socket.send_fds(sock, [request], [attached])
    while len(errors) < refused:
        errors.append(json.loads(sock.recv(65536))["body"]["error"])
    return errors


def shorten_later(sequence: int) -> None:
    """Hand over a result that is shortened once it is taken."""
    memory = parts.new_segment()
    os.truncate(memory, 1 << 20)
    frame = _frame(2, sequence, sizes=struct.pack("<3Q", 1 << 20, 0, 0))
    socket.send_fds(_socket_of_jobs(), [frame], [memory])
    time.sleep(0.5)
    os.truncate(memory, 0)
