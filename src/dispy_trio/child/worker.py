"""A worker: runs one job after the other, in a process forked from its computation's template.

A job may have settings (environment, memory, a directory or a process of its own): they come right
before it, and are undone after it.

An isolated job runs in a child forked for it, while the worker waits. It leaves its result in memory
that the two share, and the worker, which survives it, sends that: a process that may be killed at
any instruction writes nothing that others read. A worker that has only forked is as clean as on its
first day.

What a job has set of its process is put back after it (`surroundings`). When that can't be done, the
worker ends once it has sent the result, and what waits behind that job goes back to the queue.

The way of a job: it comes down the `jobs` socket in a batch, is unpickled and called, and its
result goes into the ring. When the queue has run dry, the supervisor is told once (the bell), and
the worker waits for more; while it is busy, the supervisor looks at the ring by itself.

Signals: SIGINT and SIGTERM both mean "read the control socket". Their handler runs between two
byte codes of the main thread, so it is atomic to the loop below. What it reads names the job that
is meant, so a signal that comes late hits nobody.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, time
from types import CodeType, FrameType, FunctionType, GeneratorType
from typing import Any, NoReturn

from dispy_trio.child import calls, context, forks, parts, pickling
from dispy_trio.child.capture import Capture
from dispy_trio.child.dying import die_with_parent
from dispy_trio.child.jobs import (
    BELL,
    CANCEL,
    CONTROL,
    UP,
    WITH_SEGMENT,
    parse_batch,
    receive_into,
)
from dispy_trio.child.ring import Ring
from dispy_trio.child.scope import Scope, add_builtins
from dispy_trio.child.stretch import ON_DISK, append_outputs, join, size_of, write_parts
from dispy_trio.child.surroundings import Surroundings, note, touched

__all__ = ["Worker"]

# The numbers of `models.Outcome`, which a child does not import.
RETURNED, RAISED, UNPICKLABLE, EXITED, DIED, CANCELLED, REFUSED = 0, 1, 2, 3, 4, 5, 6
_SIGNALS = {signal.SIGINT, signal.SIGTERM}

INLINE = 64 * 1024
"""Bytes of a result that may go through the ring."""
_WARNING = 30
"""Of `logging`, which is not imported for it."""
_LATE_TEXT = 8 * 1024
"""Characters told at a time; each may become six bytes of JSON."""
_INBOX = 256 * 1024
_BELL = UP.pack(BELL, 0, 0, 0.0, 0.0, 0)
_gettrace, _getprofile = sys.gettrace, sys.getprofile
_PLAIN = frozenset({type(None), bool, int, float, str})
"""What holds no buffers, and pickles in any case."""
_HANDING, _HANDED = range(2)
"""Words of the memory shared with the process of an isolated job: which one is handing its result
over, and which one has."""
_RESULT = struct.Struct("<IdQQ")
"""Outcome, start, parts in the segment, where the table of their sizes lies in it."""


class Worker:
    """The loop of one worker process."""

    def __init__(
        self,
        function: Callable[..., Any],
        scope: Scope,
        jobs: socket.socket,
        control: socket.socket,
        ring: Ring,
        capture: Capture,
    ) -> None:
        self._function = function
        self._scope = scope
        self._jobs = jobs
        self._control = control
        self._ring = ring
        self._capture = capture
        self._queue: deque[tuple[int, bytes, tuple[int, ...]]] = deque()
        self._segments: deque[int] = deque()
        # Made once: memory of this size for each read would cost more than the read.
        self._inbox = memoryview(bytearray(_INBOX))
        self._buffer = bytearray()
        self._current = 0
        """The job that signals may hit; negative when that one is over."""
        self._cancelled = 0
        """A job to be cancelled as soon as it starts."""
        self._interrupted = 0
        """The job in which KeyboardInterrupt was raised, once."""
        self._undo: list[Callable[[], object]] = []
        """What puts back what the settings of the next job changed."""
        context.is_cancelled = lambda: 0 < self._current == self._cancelled
        self._isolated = False
        """The next job is to have a process of its own."""
        self._handover = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self._marks = self._handover[:16].cast("Q")
        self._segment = -1
        """Memory file for the result of the next isolated job."""
        self._end_job: Callable[[int, int, float, bytes, Sequence[memoryview]], None] = self._send
        """How a job's result leaves this process."""
        self._ours = forks.claim()
        forks.keep(jobs, control)
        self._surroundings = Surroundings()
        self._path = self._surroundings.path
        self._trace, self._profile = self._surroundings.tracing

    # --- signals -------------------------------------------------------------------------------
    def listen_to_signals(self) -> None:
        """Take signals from now on; they were blocked, so none is lost."""
        self._control.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        forks.handle(self._on_signal)
        forks.set_mask(signal.SIG_UNBLOCK, _SIGNALS)
        self._surroundings = Surroundings()
        self._path = self._surroundings.path
        self._trace, self._profile = self._surroundings.tracing

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        while True:
            try:
                frame = self._control.recv(CONTROL.size)
            except BlockingIOError:
                break
            if not frame:
                return  # The supervisor is gone, and we are about to be.
            kind, sequence = CONTROL.unpack(frame)
            if sequence > abs(self._current):
                # Its turn has not come, or it is about to start.
                self._cancelled = sequence
            elif sequence == self._current:
                if kind == CANCEL:
                    self._cancelled = sequence
                else:
                    # It did not heed the interrupt. No result is lost: they are in the ring.
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    signal.raise_signal(signal.SIGTERM)
        if self._cancelled and self._cancelled == self._current != self._interrupted:
            self._interrupted = self._current
            if context.on_interrupt is None:
                raise KeyboardInterrupt
            context.on_interrupt()

    # --- the loop ------------------------------------------------------------------------------
    def run(self) -> NoReturn:
        queue = self._queue
        while True:
            while queue:
                self._one_job(*queue.popleft())
            self._jobs.sendall(_BELL)
            self._receive()
            self._tell_late_lines()

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
            count, descriptors = receive_into(self._jobs, self._inbox)
            if not count:
                # The supervisor lets us go.
                os._exit(0)
            self._buffer += self._inbox[:count]
            self._segments += descriptors

    def _tell_late_lines(self) -> None:
        """What was written while no job ran is for the node's log: its job has ended."""
        stdout, stderr = self._capture.take()
        if not stdout and not stderr:
            return
        late = {"stdout": join(stdout), "stderr": join(stderr)}
        self._capture.release()
        for name, written in late.items():
            text = str(written, errors="backslashreplace")
            for start in range(0, len(text), _LATE_TEXT):
                told = f"wrote to {name} after its end: {text[start : start + _LATE_TEXT]}"
                with contextlib.suppress(OSError):  # The node is about to end us.
                    calls.call("log", {"level": _WARNING, "text": told})

    def _one_job(self, sequence: int, payload: bytes, sizes: tuple[int, ...]) -> None:
        if not sequence:
            self._apply(json.loads(payload))
            return
        segment = self._segments.popleft() if sizes else -1
        start = time()
        if not self._ring.start(sequence, start):
            if sizes:
                os.close(segment)
            self._put_back()
            return
        if self._isolated and not self._becomes_the_job(sequence, start):
            if sizes:
                os.close(segment)
            return
        args: Any = None
        kwargs: Any = None
        value: Any = None
        failed_at: Callable[..., Any] | None = _load
        error: BaseException | None = None
        result = b""
        buffers: Sequence[memoryview] = ()
        try:
            try:
                self._current = sequence
                if self._cancelled == sequence != self._interrupted:
                    self._interrupted = sequence
                    raise KeyboardInterrupt
                args, kwargs = _load(segment, sizes) if sizes else pickle.loads(payload)
                failed_at = None
                if type(kwargs) is dict:
                    value = self._function(*args, **kwargs)
                elif kwargs is None:
                    value = self._many(args)
                elif kwargs is True:
                    value = self._all(args)
                else:
                    value = self._with_code(*args)
                failed_at = _dump
                if type(value) in _PLAIN:
                    result = pickle.dumps(value, 5)
                else:
                    result, buffers = _dump(value)
                self._current = -sequence
            except BaseException as exc:
                self._current = -sequence
                error = exc
        except KeyboardInterrupt as exc:
            # It came between the two lines above. There is no second one: see `_on_signal`.
            self._current = -sequence
            error = exc
        if not self._ours[0]:
            # The job has forked, and this is what it made, come back to where it came from.
            forks.leave(error)
        if error is None:
            outcome = RETURNED
        else:
            buffers = ()
            if self._interrupted == sequence and isinstance(error, KeyboardInterrupt):
                outcome, result = CANCELLED, b"cancelled while it ran"
            elif failed_at is _load:
                outcome, result = REFUSED, _refusal(error)
            elif failed_at is _dump:
                outcome, result = UNPICKLABLE, _unpicklable(value, error)
            else:
                outcome, result = _account(error)
            if not self._ours[0]:
                forks.leave(None)  # What shows an exception is the user's code too.
            error = None
        if sizes:
            os.close(segment)
        # What it holds, maybe much, is not to stay while we wait for the next job.
        args = kwargs = value = None
        if (
            touched
            or sys.path != self._path
            # Their setters can't be watched: a profiler would see the return of what watches.
            or _gettrace() is not self._trace
            or _getprofile() is not self._profile
        ):
            whole = self._put_back()
            self._end_job(sequence, outcome, start, result, buffers)
            if not whole:
                os._exit(0)
            return
        self._end_job(sequence, outcome, start, result, buffers)

    def _many(self, chunk: list[tuple[Any, ...]]) -> tuple[list[Any], bytes | None]:
        """One job that stands for several calls (`map` makes such), up to the first that raises."""
        function = self._function
        ours = self._ours
        values: list[Any] = []
        try:
            for args in chunk:
                values.append(function(*args))
                if not ours[0]:
                    break
        except Exception as exc:
            if not ours[0]:
                raise
            return values, _account(exc)[1]
        return values, None

    def _all(self, chunk: list[tuple[Any, ...]]) -> tuple[list[Any], dict[int, bytes]]:
        """The same, with what is raised told of each call."""
        values: list[Any] = []
        failures: dict[int, bytes] = {}
        for args in chunk:
            try:
                values.append(self._function(*args))
            except Exception as exc:
                if not self._ours[0]:
                    raise
                failures[len(values)] = _account(exc)[1]
                values.append(None)
            if not self._ours[0]:
                break
        return values, failures

    def _with_code(self, code: dict[str, Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """A job that brings functions and classes of its own, under their names."""
        take_back = self._scope.lend(code)
        try:
            return self._function(*args, **kwargs)
        finally:
            take_back()

    # --- isolated jobs -------------------------------------------------------------------------
    def _becomes_the_job(self, sequence: int, start: float) -> bool:
        """Fork a process for a job. True in that; False in the worker, once all of it is over."""
        if self._segment < 0:
            self._segment = parts.new_segment()
        # The signals are for the job: its own process takes them meanwhile.
        forks.set_mask(signal.SIG_BLOCK, _SIGNALS)
        parent = os.getpid()
        try:
            pid = forks.fork()
        except OSError as exc:
            how = f"no process could be started for it: {exc}"
        else:
            if not pid:
                self._be_the_job(parent, sequence)
                return True
            how = self._wait_for_job(pid)
        whole = self._put_back()
        if self._marks[_HANDED] == sequence:
            self._take_over(sequence)
        else:
            if self._marks[_HANDING] == sequence:
                how += ", while it handed its result over"
                os.ftruncate(self._segment, 0)
            self._send(sequence, DIED, start, how.encode(), ())
        if not whole:
            os._exit(0)
        forks.set_mask(signal.SIG_UNBLOCK, _SIGNALS)
        return False

    @staticmethod
    def _wait_for_job(pid: int) -> str:
        """Wait for the end of a job's process; how it ended, if that was not by its result."""
        if _SIGNALS & signal.sigpending():
            # It came before there was the process it was meant for.
            os.kill(pid, signal.SIGINT)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status < 0:
            return f"killed by {_name_of_signal(-status)} ({-status})"
        return f"exit code {status} without a result"

    def _be_the_job(self, parent: int, sequence: int) -> None:
        die_with_parent(parent)
        _mind_threads()
        calls.number_from(sequence << 20)
        self._isolated = False
        self._end_job = self._hand_over
        self._undo.clear()
        touched.clear()
        forks.set_mask(signal.SIG_UNBLOCK, _SIGNALS)

    def _hand_over(
        self,
        sequence: int,
        outcome: int,
        start: float,
        result: bytes,
        buffers: Sequence[memoryview],
    ) -> NoReturn:
        """Leave the result of an isolated job to the worker, and end."""
        forks.flush()
        self._marks[_HANDING] = sequence
        pieces: list[memoryview | bytes] = [result, *buffers]
        sizes = [len(piece) for piece in pieces]
        table = sum(map(len, parts.padded(pieces)))
        parts.rewrite_segment(self._segment, [*pieces, struct.pack(f"<{len(sizes)}Q", *sizes)])
        _RESULT.pack_into(self._handover, 16, outcome, start, len(sizes), table)
        self._marks[_HANDED] = sequence
        os._exit(0)

    def _take_over(self, sequence: int) -> None:
        """Send the result that the process of an isolated job has left."""
        outcome, start, count, table = _RESULT.unpack_from(self._handover, 16)
        segment = self._segment
        sizes = struct.unpack(f"<{count}Q", os.pread(segment, 8 * count, table))
        if count == 1 and sizes[0] <= INLINE:
            self._send(sequence, outcome, start, os.pread(segment, sizes[0], 0), ())
            return
        # It goes with the result; the next job gets another one.
        self._segment = -1
        outputs = self._capture.take()
        if sum(map(size_of, outputs)) > ON_DISK:
            result, *buffers = parts.split(parts.map_private(segment), sizes)
            self._send(sequence, outcome, start, bytes(result), buffers)
            os.close(segment)
            return
        written = append_outputs(segment, table, outputs)
        self._announce(sequence, outcome, start, time(), segment, [*sizes, *written])
        self._capture.release()

    # --- settings ------------------------------------------------------------------------------
    def _apply(self, settings: dict[str, Any]) -> None:
        """Be what the next job needs us to be."""
        note("settings")
        # These two are watched, and put back with what jobs change themselves.
        os.environ.update(settings.get("environment", {}))
        if memory := settings.get("memory"):
            limits = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (memory, limits[1]))
        if directory := settings.get("directory"):
            self._enter(directory)
            self._undo.append(lambda: self._enter(context.root))
        if (left := settings.get("left")) is not None:
            context.ends_at = monotonic() + left
            self._undo.append(self._forget_deadline)
        if settings.get("isolated"):
            _skip_thread_bookkeeping()
            self._isolated = True
            self._undo.append(self._stop_isolating)

    @staticmethod
    def _forget_deadline() -> None:
        context.ends_at = None

    def _stop_isolating(self) -> None:
        self._isolated = False

    @staticmethod
    def _enter(directory: str) -> None:
        sys.path[0] = directory
        for name, module in list(sys.modules.items()):
            # What was imported from the last job's own directory is not the next one's.
            file = getattr(module, "__file__", None) or ""
            if file.startswith(os.path.join(context.root, ".jobs", "")):
                del sys.modules[name]
        os.chdir(directory)
        context.directory = directory
        add_builtins({"dispy_job_path": directory})

    def _put_back(self) -> bool:
        """Be again what we were before; False when that can't be."""
        gone = False
        while self._undo:
            try:
                self._undo.pop()()
            except OSError:
                gone = True  # The directory we came from, say.
        signals = "signals" in touched
        whole = self._surroundings.put_back()
        if signals:
            # What came for a later job while the last one's handlers were there.
            self._on_signal(0, None)
        return whole and not gone

    def _send(
        self,
        sequence: int,
        outcome: int,
        start: float,
        result: bytes,
        buffers: Sequence[memoryview],
    ) -> None:
        stdout, stderr = self._capture.take()
        end = time()
        if not buffers and isinstance(stdout, bytes) and isinstance(stderr, bytes):
            small = len(result) + len(stdout) + len(stderr) <= INLINE
            if small and self._ring.write(sequence, outcome, start, end, result, stdout, stderr):
                if stdout or stderr:
                    self._capture.release()
                return
        # Too large for the ring, or the ring is full of results that nobody has fetched yet.
        segment, sizes = write_parts([result, *buffers], (stdout, stderr), context.root)
        self._announce(sequence, outcome, start, end, segment, sizes)
        if stdout or stderr:
            self._capture.release()

    def _announce(
        self, sequence: int, outcome: int, start: float, end: float, segment: int, sizes: list[int]
    ) -> None:
        """Tell the supervisor of a result in a segment, which it takes over."""
        packed = struct.pack(f"<{len(sizes)}Q", *sizes)
        frame = UP.pack(WITH_SEGMENT, sequence, outcome, start, end, len(packed)) + packed
        sent = socket.send_fds(self._jobs, [frame], [segment])
        if sent < len(frame):
            self._jobs.sendall(frame[sent:])
        os.close(segment)


_after_fork = getattr(threading, "_after_fork", None)
_bookkeeping: CodeType | None = (
    _after_fork.__code__ if isinstance(_after_fork, FunctionType) else None
)


def _skip_thread_bookkeeping() -> None:
    """Have forks leave the `threading` module alone.

    What it does after a fork is to forget the threads that are gone. Here is one thread, before and
    after, and to find that out costs a third of the fork: it touches many pages, and each is copied.
    """
    if isinstance(_after_fork, FunctionType):
        _after_fork.__code__ = _do_nothing.__code__


def _mind_threads() -> None:
    """Undo that: a job may start threads, and fork."""
    if isinstance(_after_fork, FunctionType) and _bookkeeping is not None:
        _after_fork.__code__ = _bookkeeping


def _do_nothing() -> None:
    return


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _load(segment: int, sizes: tuple[int, ...]) -> Any:
    return parts.load(parts.split(parts.map_private(segment), sizes))


def _dump(value: Any) -> tuple[bytes, list[memoryview]]:
    value = parts.shield(value)
    try:
        return parts.dump(value, pickle.dumps)
    except Exception:
        # By value then, as for what only this computation has.
        return parts.dump(value, pickling.dumps)


# --- ends other than a result ------------------------------------------------------------------
def _show(value: BaseException, how: Callable[[BaseException], str]) -> str:
    """`repr` or `str` of an exception, which is the user's own code, and may do anything."""
    try:
        return how(value)
    except BaseException as second:
        return f"{type(value).__qualname__} (which can't be shown: {type(second).__qualname__})"


def _refusal(exc: BaseException) -> bytes:
    text = f"its arguments cannot be unpickled on the node: {_show(exc, repr)}"
    if isinstance(exc, ModuleNotFoundError):
        text += f"; send the module {exc.name!r} along with depends=, or install it on the node"
    return text.encode(errors="backslashreplace")


def _unpicklable(value: Any, exc: BaseException) -> bytes:
    text = f"result of type {type(value).__qualname__} cannot be pickled: {_show(exc, repr)}"
    if isinstance(value, GeneratorType):
        text += "; return list(…) of it"
    return text.encode(errors="backslashreplace")


def _account(exc: BaseException) -> tuple[int, bytes]:
    """How a job that raised ended."""
    while exc.__traceback__ is not None and (
        exc.__traceback__.tb_frame.f_code.co_filename == __file__
    ):
        # The first frames are ours.
        exc.__traceback__ = exc.__traceback__.tb_next
    context.explain(exc)
    text = _show(exc, lambda exc: "".join(traceback.format_exception(exc)))
    if isinstance(exc, SystemExit):
        told = f"the job called sys.exit({exc.code!r})\n{text}"
        return EXITED, told.encode(errors="backslashreplace")
    pickled: bytes | None = None
    exc = exc.with_traceback(None)
    for dumps in (pickle.dumps, pickling.dumps):
        # An exception that can't be pickled is told by its text alone.
        with contextlib.suppress(BaseException):
            pickled = dumps(exc, 5)
            break
    return RAISED, pickle.dumps((type(exc).__qualname__, _show(exc, str), text, pickled), 5)
