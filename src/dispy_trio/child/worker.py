"""A worker: runs one job after the other, in a process forked from its computation's template.

The way of a job: it comes down the `jobs` socket in a batch, is unpickled and called, and its
result goes into the ring. When the queue has run dry, the supervisor is told once (the bell), and
the worker waits for more; while it is busy, the supervisor looks at the ring by itself.

Signals: SIGINT, SIGTERM and SIGUSR1 all mean "read the control socket". Their handler runs between
two byte codes of the main thread, so it is atomic to the loop below. What it reads names the job
that is meant, so a signal that comes late hits nobody.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import traceback
from collections import deque
from collections.abc import Callable
from time import time
from types import FrameType
from typing import Any, NoReturn

import cloudpickle

from dispy_trio.child import parts
from dispy_trio.child.capture import Capture
from dispy_trio.child.jobs import (
    BELL,
    CANCEL,
    CONTROL,
    RECALL,
    UP,
    WITH_SEGMENT,
    descriptors_in,
    parse_batch,
)
from dispy_trio.child.ring import Ring

__all__ = ["Worker"]

# The numbers of `models.Outcome`, which a child does not import.
RETURNED, RAISED, UNPICKLABLE, EXITED, CANCELLED, REFUSED = 0, 1, 2, 3, 5, 6

INLINE = 64 * 1024
"""Bytes of a result that may go through the ring."""
_INBOX = 256 * 1024
_ANCILLARY = socket.CMSG_SPACE(8 * 4)


class Worker:
    """The loop of one worker process."""

    def __init__(
        self,
        function: Callable[..., Any],
        jobs: socket.socket,
        control: socket.socket,
        ring: Ring,
        capture: Capture,
    ) -> None:
        self._function = function
        self._jobs = jobs
        self._control = control
        self._ring = ring
        self._capture = capture
        self._queue: deque[tuple[int, bytes, tuple[int, ...]]] = deque()
        self._segments: deque[int] = deque()
        # Made once: memory of this size for each read would cost more than the read.
        self._inbox = memoryview(bytearray(_INBOX))
        self._buffer = bytearray()
        self._started = 0
        self._running = 0
        self._cancelled = 0
        """A job to be cancelled; it may not have started yet."""
        self._skip_after = 0
        self._skip_until = 0

    # --- signals -------------------------------------------------------------------------------
    def listen_to_signals(self) -> None:
        self._control.setblocking(False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        interrupt = False
        while True:
            try:
                frame = self._control.recv(CONTROL.size)
            except BlockingIOError:
                break
            if not frame:
                return  # The supervisor is gone, and we are about to be.
            kind, sequence = CONTROL.unpack(frame)
            if kind == RECALL:
                # Started is set before the loop looks at the range, so whichever comes first, a
                # job is either reported as started here or skipped there, and never both.
                self._skip_after, self._skip_until = self._started, sequence
                self._control.send(CONTROL.pack(RECALL, self._started))
            elif kind == CANCEL:
                if sequence == self._running:
                    interrupt = True
                elif sequence > self._started:
                    self._cancelled = sequence
            elif sequence == self._running:
                # It did not heed the interrupt. Nothing of ours is lost: results are in the ring.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
        if interrupt:
            raise KeyboardInterrupt

    # --- the loop ------------------------------------------------------------------------------
    def run(self) -> NoReturn:
        queue = self._queue
        while True:
            while queue:
                self._one_job(*queue.popleft())
            self._jobs.sendall(UP.pack(BELL, 0, 0, 0.0, 0.0, 0, 0, 0))
            self._receive()

    def _receive(self) -> None:
        """Wait for at least one batch."""
        while True:
            position = 0
            while (batch := parse_batch(self._buffer, position)) is not None:
                jobs, position = batch
                self._queue.extend(jobs)
            del self._buffer[:position]
            if self._queue:
                return
            count, ancillary, _, _ = self._jobs.recvmsg_into([self._inbox], _ANCILLARY)
            if not count:
                # The supervisor lets us go.
                os._exit(0)
            self._buffer += self._inbox[:count]
            if ancillary:
                self._segments.extend(descriptors_in(ancillary))

    def _one_job(self, sequence: int, payload: bytes, sizes: tuple[int, ...]) -> None:
        segment = self._segments.popleft() if sizes else -1
        self._started = sequence
        if self._skip_after < sequence <= self._skip_until:
            if sizes:
                os.close(segment)
            return
        start = time()
        self._ring.mark_started(sequence, start)
        buffers: list[memoryview] = []
        try:
            if sizes:
                args, kwargs = parts.load(parts.split(parts.map_private(segment), sizes))
                os.close(segment)
            else:
                args, kwargs = pickle.loads(payload)
        except BaseException as exc:
            self._send(sequence, REFUSED, start, _refusal(exc).encode())
            return
        try:
            self._running = sequence
            if sequence == self._cancelled:
                raise KeyboardInterrupt
            value = self._function(*args, **kwargs) if kwargs is not None else self._many(args)
            self._running = 0
        except BaseException as exc:
            self._running = 0
            outcome, result = self._account(exc)
            del exc
        else:
            del args, kwargs
            outcome, result, buffers = _pickle_result(value)
            del value
        self._send(sequence, outcome, start, result, buffers)

    def _many(self, calls_of_chunk: list[tuple[Any, ...]]) -> list[Any]:
        """One job that stands for several calls (`map` makes such)."""
        function = self._function
        return [function(*args) for args in calls_of_chunk]

    def _send(
        self,
        sequence: int,
        outcome: int,
        start: float,
        result: bytes,
        buffers: list[memoryview] | None = None,
    ) -> None:
        stdout, stderr = self._capture.take()
        end = time()
        small = not buffers and len(result) + len(stdout) + len(stderr) <= INLINE
        if small and self._ring.write(sequence, outcome, start, end, result, stdout, stderr):
            return
        # Too large for the ring, or the ring is full of results that nobody has fetched yet.
        pieces: list[memoryview | bytes] = [result, *(buffers or ())]
        segment = parts.write_segment(pieces)
        packed = b"".join([len(piece).to_bytes(8, "little") for piece in pieces])
        frame = UP.pack(
            WITH_SEGMENT, sequence, outcome, start, end, len(packed), len(stdout), len(stderr)
        )
        sent = socket.send_fds(self._jobs, [frame], [segment])
        self._jobs.sendall((frame + packed + stdout + stderr)[sent:])
        os.close(segment)

    # --- ends other than a result --------------------------------------------------------------
    def _account(self, exc: BaseException) -> tuple[int, bytes]:
        """How a job that raised ended."""
        # The first frame is ours.
        if exc.__traceback__ is not None:
            exc.__traceback__ = exc.__traceback__.tb_next
        try:
            text = "".join(traceback.format_exception(exc))
        except BaseException as second:
            text = f"{type(exc).__name__} (its traceback can't be shown: {second!r})"
        if isinstance(exc, KeyboardInterrupt):
            return CANCELLED, b"cancelled while it ran"
        if isinstance(exc, SystemExit):
            return EXITED, f"the job called sys.exit({exc.code!r})\n{text}".encode()
        pickled: bytes | None = None
        for dumps in (pickle.dumps, cloudpickle.dumps):
            # An exception that can't be pickled is told by its text alone.
            with contextlib.suppress(Exception):
                pickled = dumps(exc.with_traceback(None), 5)
                break
        try:
            message = str(exc)
        except BaseException as second:
            message = f"(its message can't be shown: {type(second).__name__})"
        return RAISED, pickle.dumps((type(exc).__qualname__, message, text, pickled), 5)


def _pickle_result(value: Any) -> tuple[int, bytes, list[memoryview]]:
    value = parts.shield(value)
    try:
        try:
            return (RETURNED, *parts.dump(value, pickle.dumps))
        except Exception:
            # Not by reference then: by value, as for classes that only this computation has.
            return (RETURNED, *parts.dump(value, cloudpickle.dumps))
    except BaseException as exc:
        text = f"result of type {type(value).__qualname__} cannot be pickled: {exc!r}"
        return UNPICKLABLE, text.encode(errors="backslashreplace"), []


def _refusal(exc: BaseException) -> str:
    text = f"its arguments cannot be unpickled on the node: {exc!r}"
    if isinstance(exc, ModuleNotFoundError):
        text += f"; send the module {exc.name!r} along with depends=, or install it on the node"
    return text
