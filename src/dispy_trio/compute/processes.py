"""The real `Spawner`: template processes, and the supervisor's end of their workers.

Nothing here runs user code or unpickles what a child sent: children speak JSON, fixed structs and
opaque payloads.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from enum import Enum, auto
from typing import Any

import attrs
import trio
from attrs import define, field

from dispy_trio import seams
from dispy_trio.child.calls import CALL_LIMIT
from dispy_trio.child.jobs import (
    BELL,
    CANCEL,
    CONTROL,
    TERMINATE,
    UP,
    WITH_SEGMENT,
    encode_batch,
    encode_segment_job,
    encode_settings,
    receive_all,
    receive_message,
)
from dispy_trio.child.parts import write_segment
from dispy_trio.child.ring import RING_SIZE, Ring, RingError
from dispy_trio.child.stretch import (
    SHORT,
    Written,
    cut,
    join,
    new_file,
    size_of,
    write_parts,
)
from dispy_trio.compute.deaths import name_of_signal, oom_kills, owns_its_id
from dispy_trio.compute.hearsay import MOST_ATTACHED, count_due, parse_call, read_attached, release
from dispy_trio.compute.orphans import Orphans
from dispy_trio.compute.starting import TemplateProcess, start_template_process
from dispy_trio.seams import TemplateSettings, WorkerJob, WorkerResult

__all__ = ["WORKER_DESCRIPTORS", "ProcessSpawner"]

log = logging.getLogger("dispy_trio.node")

_MESSAGE = 64 * 1024
_FRAMES = 4096
_MOST_FRAMES = 16 * 1024 * 1024
"""Bytes that may wait to become frames: a million parts of a result."""
_ROUNDS = 64
"""Times that a worker's results are looked for before others have their turn."""
_SOCKET_BUFFER = 2 * 1024 * 1024
_INLINE = 64 * 1024
"""Bytes of a result that is not worth a segment, nor its descriptor: it only found the ring full."""
_SIZE_STAYS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_LIVE_PIECE = 512 * 1024
"""Bytes of each stream that are told at a time while a job runs."""
MOST_CALLS = 100
"""Of one worker, that wait for their answers: one for each that was cut short, usually none."""
CLOSE_GRACE = 2.0
"""Seconds a template has to kill and reap what is below it, before its warden does, and that has
before both are killed."""
WORKER_DESCRIPTORS = 8
"""That a worker takes of ours, at most."""

Report = Callable[[seams.TemplateEvent], None]

# Before 3.13 a mapping keeps a descriptor of its own, which nobody needs.
_MAPPING: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class _Life(Enum):
    FORKING = auto()
    ALIVE = auto()
    DEAD = auto()


@define(eq=False)
class _Worker:
    """Our end of one worker process."""

    number: int
    jobs: socket.socket
    control: socket.socket
    calls: socket.socket
    ring: Ring
    stdout: int
    stderr: int
    life: _Life = _Life.FORKING
    pid: int = 0
    pidfd: int = -1
    last_sequence: int = 0
    """Of the jobs sent to it."""
    killed_by_us: bool = False
    stopping: bool = False
    pending: deque[tuple[memoryview, int | None]] = field(factory=deque)
    """Batches the socket has no room for yet, with the segment to attach."""
    writing: bool = False
    buffer: bytearray = field(factory=bytearray)
    segments: deque[int] = field(factory=deque)
    last_taken: int = 0
    """Sequence of the last result taken from it."""
    shown: tuple[int, int, int] = (0, 0, 0)
    """A job's sequence, and how much of its stdout and stderr was told while it runs."""
    asked: dict[int, int] = field(factory=dict)
    """Calls that are not answered yet, with the bytes that came beside them."""
    broken: str = ""
    """What it did that no worker does; it is being killed for it."""
    refused: str = ""
    """Why it can't be had; it is being killed for it."""
    told_later: bool = False
    """It is dead, and a task copies what it wrote before it tells of that."""

    def started(self) -> tuple[int, float]:
        """Sequence of the last job that it started, now that it is dead, and when."""
        started, when = self.ring.started()
        if self.broken and not self.last_taken < started <= self.last_sequence:
            # Somebody has written over it. The next one is to blame: it can't go on for ever.
            started = min(self.last_taken + 1, self.last_sequence)
        return started, when

    def close(self) -> None:
        for sock in (self.jobs, self.control, self.calls):
            # Its tasks wait on these, and end by this.
            trio.lowlevel.notify_closing(sock)
            sock.close()
        for descriptor in (self.stdout, self.stderr, self.pidfd, *self.segments):
            if descriptor >= 0:
                os.close(descriptor)
        self.segments.clear()


@define(eq=False)
class ProcessTemplate:
    """A `seams.Template` over a real process."""

    _process: TemplateProcess
    _report: Report
    _nursery: trio.Nursery
    _settings: TemplateSettings
    _orphans: Orphans | None = None
    _pidfd: int = -1
    _workers: dict[int, _Worker] = field(factory=dict)
    _messages: deque[tuple[bytes, list[int]]] = field(factory=deque)
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    _gone: trio.Event = field(factory=trio.Event)
    _closing: bool = False
    _ending: bool = False
    """Its process is gone, or going: nothing can be told to it."""
    _given_up: str = ""
    """Why we end it."""
    _warned: bool = False
    """That no worker can be started, since one was."""
    _loaded: trio.Event = field(factory=trio.Event)
    """The bundle was loaded, or could not be."""
    _forgotten: trio.Event = field(factory=trio.Event)
    """A worker was, lately."""
    _cleaned: trio.Event | None = None
    _cleaned_text: str = ""
    _oom_kills: int = field(factory=oom_kills)

    # --- starting ------------------------------------------------------------------------------
    def load(self, bundle: memoryview | bytes) -> None:
        # Had in time: when it ends there may be no descriptor left for it.
        self._pidfd = os.pidfd_open(self._process.process.pid)
        settings = attrs.asdict(self._settings, filter=_is_not_arguments)
        with ExitStack() as segments:
            given: list[int] = []
            for data in (bundle, self._settings.arguments):
                given.append(write_segment([data]))
                segments.callback(os.close, given[-1])
            self._tell({"kind": "load", "settings": settings}, *given)
        self._nursery.start_soon(self._run)
        if self._settings.setup_timeout:
            self._start_task(self._limit_setup, self._settings.setup_timeout)

    def _start_task(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        self._nursery.start_soon(self._guard, task, *arguments)

    async def _guard(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run a task of ours; what goes wrong in it ends this computation, and no other."""
        try:
            await task(*arguments)
        except Exception as exc:
            log.exception("a computation ends here")
            self.give_up(f"{type(exc).__name__}: {exc}")

    def give_up(self, text: str) -> None:
        """Kill everything; `TemplateDied` with that text follows."""
        self._given_up = self._given_up or text
        self._scope.cancel()

    def discard(self) -> None:
        """End it before it was told anything."""
        self._drop_messages()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._process.discard()

    async def _limit_setup(self, seconds: float) -> None:
        with trio.move_on_after(seconds) as scope:
            await self._loaded.wait()
        if scope.cancelled_caught:
            self._report(seams.TemplateFailed(f'"setup" did not end within {seconds:g} s'))

    def _tell(self, message: dict[str, Any], *descriptors: int) -> None:
        """Tell the template; what its socket has no room for waits for `_write_messages`.

        Raises:
            OSError: there are no descriptors for it; it was not told.
        """
        if self._ending:
            return
        data = json.dumps(message).encode()
        with ExitStack() as copied:
            copies = []
            for descriptor in descriptors:
                copies.append(os.dup(descriptor))
                copied.callback(os.close, copies[-1])
            copied.pop_all()
        self._messages.append((data, copies))
        if len(self._messages) == 1 and not self._write_some_messages():
            self._start_task(self._write_messages)

    def _write_some_messages(self) -> bool:
        """Write what the socket takes; True when nothing is left."""
        while self._messages:
            data, descriptors = self._messages[0]
            try:
                socket.send_fds(self._process.socket, [data], descriptors)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._drop_messages()  # It is dead; the reader is about to find out.
                return True
            except OSError:
                # As many descriptors are on their way as may be. Who is told first, fails first.
                for descriptor in descriptors:
                    os.close(descriptor)
                self._messages.popleft()
                raise
            for descriptor in descriptors:
                os.close(descriptor)
            self._messages.popleft()
        return True

    async def _write_messages(self) -> None:
        try:
            while not self._write_some_messages():
                await trio.lowlevel.wait_writable(self._process.socket)
        except trio.ClosedResourceError:
            pass  # It was ended, and what was left went with `_drop_messages`.

    def _drop_messages(self) -> None:
        for _, descriptors in self._messages:
            for descriptor in descriptors:
                os.close(descriptor)
        self._messages.clear()

    def start_worker(self, worker: int) -> None:
        if self._ending:
            return  # `TemplateDied` is about to tell what became of all of them.
        try:
            self._start_worker(worker)
        except (OSError, MemoryError) as exc:
            self._refuse(worker, str(exc))

    def _refuse(self, worker: int, text: str) -> None:
        if not self._warned:
            log.warning("a worker can't be started now, which is tried again: %s", text)
        self._warned = True
        self._report(seams.WorkerRefused(worker, text))

    def _start_worker(self, worker: int) -> None:
        with ExitStack() as theirs, ExitStack() as ours:
            ends: list[socket.socket] = []
            given: list[int] = []
            for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_SEQPACKET):
                end, other = socket.socketpair(socket.AF_UNIX, kind)
                ends.append(ours.enter_context(end))
                given.append(theirs.enter_context(other).fileno())
                end.setblocking(False)
            jobs, control, calls = ends
            jobs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            ring = os.memfd_create("dispy-trio-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            theirs.callback(os.close, ring)
            os.ftruncate(ring, RING_SIZE)
            # A job may have its descriptor, and we would die of a page that is gone.
            fcntl.fcntl(ring, fcntl.F_ADD_SEALS, _SIZE_STAYS)
            memory = memoryview(mmap.mmap(ring, RING_SIZE, **_MAPPING))
            out = self._append_file("stdout")
            ours.callback(os.close, out)
            err = self._append_file("stderr")
            ours.callback(os.close, err)
            self._tell({"kind": "fork", "worker": worker}, *given, ring, out, err)
            self._workers[worker] = _Worker(worker, jobs, control, calls, Ring(memory), out, err)
            ours.pop_all()

    # --- giving jobs ---------------------------------------------------------------------------
    def send_jobs(self, worker: int, jobs: Sequence[WorkerJob]) -> None:
        target = self._workers.get(worker)
        if target is None:
            return  # It died with its template, which is about to be told.
        target.last_sequence = jobs[-1].sequence
        data = b""
        small: list[tuple[int, bytes]] = []
        for job in jobs:
            if small and (job.settings is not None or job.payload is None):
                data += encode_batch(small)
                small = []
            if job.settings is not None:
                data += encode_settings(job.settings)
            if job.payload is not None:
                small.append((job.sequence, job.payload))
                continue
            if data:
                self._send(target, data, None)
                data = b""
            assert job.segment is not None
            self._send(target, encode_segment_job(job.sequence, job.sizes), os.dup(job.segment))
        if small:
            data += encode_batch(small)
        if data:
            self._send(target, data, None)

    def _append_file(self, name: str) -> int:
        return new_file(self._settings.directory, f"dispy-trio-{name}", os.O_APPEND)

    def _send(self, worker: _Worker, data: bytes, segment: int | None) -> None:
        if worker.life is _Life.DEAD:
            if segment is not None:
                os.close(segment)
            return
        worker.pending.append((memoryview(data), segment))
        if not worker.writing and not self._write_some(worker):
            worker.writing = True
            self._start_task(self._write_rest, worker)

    def _write_some(self, worker: _Worker) -> bool:
        """Write what the socket takes; True when nothing is left."""
        while worker.pending:
            data, segment = worker.pending[0]
            try:
                if segment is None:
                    sent = worker.jobs.send(data)
                else:
                    sent = socket.send_fds(worker.jobs, [data], [segment])
                    os.close(segment)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._drop_pending(worker)  # Its death is about to be told.
                return True
            if sent == len(data):
                worker.pending.popleft()
            else:
                worker.pending[0] = (data[sent:], None)
        return True

    async def _write_rest(self, worker: _Worker) -> None:
        try:
            while not self._write_some(worker):
                await trio.lowlevel.wait_writable(worker.jobs)
        except trio.ClosedResourceError:
            pass  # It died; what was not written went back to the queue.
        worker.writing = False

    @staticmethod
    def _drop_pending(worker: _Worker) -> None:
        for _, segment in worker.pending:
            if segment is not None:
                os.close(segment)
        worker.pending.clear()

    # --- taking results ------------------------------------------------------------------------
    def poll(self, worker: int) -> tuple[int, float]:
        target = self._workers.get(worker)
        if target is None:
            return 0, 0.0
        self._take_results(target)
        return target.ring.started()

    def linger(self, worker: int, seconds: float) -> None:
        # Looking at the shared memory costs no system call, and no wake-up when it changes.
        target = self._workers.get(worker)
        if target is None:
            return
        until = time.perf_counter() + seconds
        while not target.ring.has_records():
            if time.perf_counter() > until:
                return
        # Only one job is out, so no segment can come before what is in the ring.
        self._take_results(target, ring_only=True)

    def _take_results(self, worker: _Worker, *, ring_only: bool = False) -> bool:
        """Deliver what the worker has completed; False when it has closed its end."""
        results: list[WorkerResult] = []
        is_open = True
        try:
            for _ in range(_ROUNDS):
                results += [WorkerResult(*record) for record in worker.ring.read()]
                if ring_only:
                    break
                known = len(worker.buffer)
                is_open = self._receive(worker)
                if worker.broken or len(worker.buffer) == known:
                    break
                # Look again: what a bell announces, and what was completed before a segment, may
                # have gone into the ring only after it was read.
                self._take_segments(worker, results)
        except (RingError, struct.error, OSError, ValueError, OverflowError, MemoryError) as exc:
            self._break(worker, str(exc))
        if results:
            # The ring and the socket keep their own order each; a worker runs by sequence.
            results.sort(key=_sequence)
            due = count_due(results, worker.last_taken, worker.last_sequence)
            if due < len(results):
                self._break(worker, f"result of job {results[due].sequence}, which is not due")
                release(results[due:])
                del results[due:]
        if results:
            worker.last_taken = results[-1].sequence
            self._report(seams.WorkerResults(worker.number, results))
        return is_open

    def _break(self, worker: _Worker, what: str) -> None:
        """A job's own code wrote to what is between its worker and us: believe neither further."""
        if not worker.broken:
            worker.broken = what
            self.kill(worker.number)

    @staticmethod
    def _take_segments(worker: _Worker, results: list[WorkerResult]) -> None:
        """Add the results in segments whose frames have arrived."""
        buffer = worker.buffer
        while len(buffer) >= UP.size:
            kind, sequence, outcome, start, end, length = UP.unpack_from(buffer)
            if len(buffer) < UP.size + length:
                break
            if kind not in (BELL, WITH_SEGMENT):
                raise RingError(f"a frame of kind {kind}")
            if kind == WITH_SEGMENT:
                if not worker.segments:
                    raise RingError(f"result {sequence} comes without its segment")
                sizes = struct.unpack(f"<{length // 8}Q", buffer[UP.size : UP.size + length])
                result = WorkerResult(sequence, outcome, start, end, b"")
                _put_in(result, worker.segments.popleft(), sizes)
                results.append(result)
            del buffer[: UP.size + length]
        if len(worker.segments) > 1:
            raise RingError(f"{len(worker.segments)} segments that belong to no result")

    async def _read(self, worker: _Worker) -> None:
        """Bells and segments."""
        while await _readable(worker.jobs) and self._take_results(worker):
            pass

    @staticmethod
    def _receive(worker: _Worker) -> bool:
        """Read all frames that are there; False at the end."""
        while True:
            try:
                data, descriptors = receive_message(worker.jobs, _FRAMES)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not data:
                return False
            worker.buffer += data
            if len(worker.buffer) > _MOST_FRAMES:
                raise RingError(f"more than {_MOST_FRAMES} bytes of frames")
            if descriptors:
                worker.segments += descriptors
            elif len(data) < _FRAMES:
                return True

    async def _read_calls(self, worker: _Worker) -> None:
        while await _readable(worker.calls):
            data, descriptors, lost = _receive_one(worker.calls, CALL_LIMIT)
            sequence = worker.ring.started()[0]
            attached = await read_attached(descriptors)
            if not data or worker.life is _Life.DEAD:
                return
            match parse_call(data):
                case {"call": int(call)} if lost:
                    self._answer(worker, call, {"error": _TOO_MANY_FILES})
                case {"call": int(call)} if _asks_too_much(worker, call):
                    self._answer(worker, call, {"error": _TOO_MANY_CALLS})
                case {"call": int(call), "kind": str(kind), "body": dict(body)} if (
                    attached is not None
                ):
                    worker.asked[call] = len(attached)
                    self._report(
                        seams.WorkerCall(worker.number, call, kind, body, sequence, attached)
                    )
                case _:
                    self._break(worker, "a call that is none")
                    return

    def answer(self, worker: int, call: int, body: dict[str, Any]) -> None:
        target = self._workers.get(worker)
        if target is None:
            return
        target.asked.pop(call, None)
        self._answer(target, call, body)

    def _answer(self, target: _Worker, call: int, body: dict[str, Any]) -> None:
        data = json.dumps({"call": call, "body": body}).encode()
        if len(data) > CALL_LIMIT:
            error = f"the answer of {len(data)} bytes is too long"
            data = json.dumps({"call": call, "body": {"error": error}}).encode()
        try:
            target.calls.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It died meanwhile.
        except BlockingIOError:
            self._break(target, "calls whose answers it does not read")

    # --- signals -------------------------------------------------------------------------------
    def recall(self, worker: int) -> None:
        target = self._workers.get(worker)
        if target is not None and target.life is not _Life.DEAD:
            # What has come back has run, whatever stands in the memory now.
            kept = max(target.ring.recall(target.last_sequence), target.last_taken)
            # What it has completed comes before what it has given back.
            self._take_results(target)
            self._report(seams.WorkerRecalled(worker, kept))

    def interrupt(self, worker: int, sequence: int) -> None:
        self._signal(worker, CANCEL, sequence, signal.SIGINT)

    def terminate(self, worker: int, sequence: int) -> None:
        self._signal(worker, TERMINATE, sequence, signal.SIGTERM)

    def _signal(self, number: int, kind: int, sequence: int, which: signal.Signals) -> None:
        worker = self._workers.get(number)
        if worker is None or worker.life is not _Life.ALIVE:
            return
        try:
            # What is meant is told first: the signal only says that there is something to read.
            worker.control.send(CONTROL.pack(kind, sequence))
        except (BrokenPipeError, ConnectionResetError):
            return
        except BlockingIOError:
            pass  # Hundreds were not read: it is deaf, and the next rung is SIGKILL.
        # Dead or not, it is not reaped before we say so: the id is still its own.
        try:
            if worker.ring.started()[0] != sequence:
                # The job waits, or is over: the programs in the group are not its.
                signal.pidfd_send_signal(worker.pidfd, which)
            # Also when it has just started: its programs did not hear the signal above, which
            # is all the worker needs, and another one does nothing to that.
            if worker.ring.started()[0] == sequence:
                os.killpg(worker.pid, which)
        except ProcessLookupError:
            pass  # It went with its template, of whose end we are about to hear.

    def kill(self, worker: int) -> None:
        target = self._workers.get(worker)
        if target is not None and target.life is _Life.ALIVE:
            target.killed_by_us = True
            try:
                os.killpg(target.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # As in `_signal`.

    def output(self, worker: int, sequence: int) -> tuple[bytes, bytes]:
        target = self._workers.get(worker)
        if target is None or target.ring.started()[0] != sequence:
            return b"", b""
        shown, out, err = target.shown
        if shown != sequence:
            out = err = 0
        stdout = self._read_on(target.stdout, target.ring.marks[0], out)
        stderr = self._read_on(target.stderr, target.ring.marks[1], err)
        if target.ring.started()[0] != sequence or target.ring.has_records():
            return b"", b""  # It has ended, and what was read may be the next one's.
        target.shown = (sequence, out + len(stdout), err + len(stderr))
        return stdout, stderr

    def _read_on(self, descriptor: int, mark: int, shown: int) -> bytes:
        """The next piece of what a job has written behind a mark."""
        most = _LIVE_PIECE
        if limit := self._settings.output_limit:
            # What comes after may be cut out at the end.
            most = min(most, limit // 2 - shown)
        left = os.fstat(descriptor).st_size - mark - shown
        return os.pread(descriptor, min(most, left), mark + shown) if min(most, left) > 0 else b""

    def stop_worker(self, worker: int) -> None:
        target = self._workers.get(worker)
        if target is not None and target.life is _Life.ALIVE:
            target.stopping = True
            try:
                target.jobs.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # Its end is closed: it is dying.

    # --- the template's own messages -----------------------------------------------------------
    async def _run(self) -> None:
        """Read the template's messages until it is gone, then tell what became of its workers."""
        try:
            with self._scope:
                await self._guard(self._read_messages)
        finally:
            with trio.CancelScope(shield=True):
                # Bounded by its own: `CLOSE_GRACE`, and then SIGKILL to everything.
                await self._bury()

    async def _read_messages(self) -> None:
        sock = self._process.socket
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data, descriptors = receive_message(sock, _MESSAGE)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return
            if not data:
                return
            self._on_message(json.loads(data), descriptors)

    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message["kind"]:
            case "loaded":
                self._loaded.set()
                self._report(seams.TemplateReady())
            case "failed":
                self._loaded.set()
                self._report(seams.TemplateFailed(message["text"]))
            case "cleaned up":
                self._cleaned_text = message["text"]
                if self._cleaned is not None:
                    self._cleaned.set()
            case "shut down":
                self._report(seams.WorkerCall(0, 0, "shut_down", {}))
            case "forked":
                self._on_forked(self._workers[message["worker"]], message["pid"], descriptors)
            case "unforked":
                worker = self._workers[message["worker"]]
                worker.refused = message["text"]
                self._bury_worker(worker, "not started")
            case "exited":
                self._on_exit(self._workers[message["worker"]], message)

    def _on_forked(self, worker: _Worker, pid: int, descriptors: list[int]) -> None:
        worker.pid = pid
        if not descriptors:
            # The kernel drops those for which we have no room. It is not reaped before we say so.
            worker.refused = _TOO_MANY_FILES
            os.killpg(pid, signal.SIGKILL)
            return
        self._warned = False
        worker.pidfd = descriptors[0]
        worker.life = _Life.ALIVE
        for task in (self._read, self._read_calls):
            self._start_task(task, worker)
        self._report(seams.WorkerStarted(worker.number, pid))

    def _on_exit(self, worker: _Worker, message: dict[str, Any]) -> None:
        # Children it left behind go with it. Its own id is still taken: it is not reaped yet.
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # Nobody is left in the group.
        self._tell({"kind": "reap", "pid": worker.pid})
        self._bury_worker(worker, self._how(worker, message["signal"], message["code"]))

    def _how(self, worker: _Worker, number: int, code: int) -> str:
        if worker.broken:
            return f"killed by its node: its job broke the worker ({worker.broken})"
        if worker.stopping and not number and not code:
            return "stopped"
        if not number:
            return f"exit code {code} without a result"
        name = name_of_signal(number)
        if number == signal.SIGKILL and not worker.killed_by_us:
            kills = oom_kills()
            if kills > self._oom_kills:
                self._oom_kills = kills
                return "killed by the kernel for memory (SIGKILL)"
        return f"killed by {name} ({number})"

    def _bury_worker(self, worker: _Worker, how: str) -> None:
        if worker.refused:
            self._close_worker(worker)
            self._refuse(worker.number, worker.refused)
            return
        died, outputs = self._account(worker, how)
        if outputs is None:
            self._close_worker(worker)
            self._report(died)
        else:
            worker.told_later = True
            self._start_task(self._bury_with_output, worker, died, outputs)

    def _account(
        self, worker: _Worker, how: str
    ) -> tuple[seams.WorkerDied, tuple[Written, Written] | None]:
        """Take leave of a dead worker: deliver what it has completed, and tell how it died.

        What its last job wrote comes apart when it is long: it is not to be copied on the loop.
        """
        worker.life = _Life.DEAD
        self._take_results(worker)
        started, when = worker.started()
        died = seams.WorkerDied(worker.number, started, how, start=when, end=time.time())
        out, err = (self._left_in(worker, index) for index in (0, 1))
        if size_of(out) + size_of(err) > SHORT:
            return died, (out, err)
        died.stdout, died.stderr = join(out), join(err)
        return died, None

    def _left_in(self, worker: _Worker, index: int) -> Written:
        """What the last job has written to one of its streams."""
        descriptor = (worker.stdout, worker.stderr)[index]
        size = os.fstat(descriptor).st_size
        mark = worker.ring.marks[index]
        # Emptied by a program, as `> /dev/stdout` does: then what is there is the job's.
        start = mark if mark <= size else 0
        return cut(descriptor, start, size, self._settings.output_limit)

    async def _bury_with_output(
        self, worker: _Worker, died: seams.WorkerDied, outputs: tuple[Written, Written]
    ) -> None:
        try:
            with trio.CancelScope(shield=True):
                # Bounded by the length of a file on this machine's disk.
                await self._keep_output(died, outputs)
        finally:
            # Whoever ends the whole computation waits for this.
            self._close_worker(worker)
            self._report(died)

    async def _keep_output(self, died: seams.WorkerDied, outputs: tuple[Written, Written]) -> None:
        try:
            died.segment, died.sizes = await trio.to_thread.run_sync(
                write_parts, [b""], outputs, self._settings.directory
            )
        except (OSError, RuntimeError, MemoryError) as exc:
            # RuntimeError: there is no thread to be had.
            died.stderr = f"what it wrote can't be kept: {exc}\n".encode()

    def _close_worker(self, worker: _Worker) -> None:
        worker.life = _Life.DEAD
        self._drop_pending(worker)
        del self._workers[worker.number]
        self._forgotten.set()
        worker.close()

    async def _bury(self) -> None:
        """The template is gone or going: nothing of it may stay."""
        self._ending = True
        for worker in list(self._workers.values()):
            if worker.life is _Life.ALIVE and owns_its_id(worker.pid, worker.pidfd):
                # They die with their parent, but what they started does not.
                try:
                    os.killpg(worker.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # Nobody is left in the group.
        self._drop_messages()
        status = await _end(self._process, self._pidfd)
        if self._orphans is not None:
            try:
                await self._orphans.end()
            except OSError as exc:
                # No descriptors to look with, say. They are met again when the next one ends.
                log.warning("what jobs have left can't be looked for: %s", exc)
        how = f"killed by {name_of_signal(-status)}" if status < 0 else f"exit code {status}"
        how = self._given_up or how
        deaths: list[seams.WorkerDied] = []
        for worker in list(self._workers.values()):
            if worker.life is _Life.ALIVE:
                await trio.lowlevel.wait_readable(worker.pidfd)
            if worker.told_later:
                continue
            try:
                died, outputs = self._account(
                    worker, f"killed with its computation's process: {how}"
                )
                if outputs is not None:
                    await self._keep_output(died, outputs)
                deaths.append(died)
            except Exception:
                # It is dead all the same, and so has to be told what is known of the others.
                log.exception("what a worker left can't be read")
            self._close_worker(worker)
        while self._workers:
            self._forgotten = trio.Event()
            await self._forgotten.wait()
        self._gone.set()
        self._loaded.set()
        if self._cleaned is not None:
            self._cleaned.set()
        if not self._closing:
            self._report(seams.TemplateDied(how, deaths))
            return
        for died in deaths:
            if died.segment is not None:
                os.close(died.segment)  # Nobody waits for what it wrote.

    async def clean_up(self, timeout: float) -> str:
        """Have the template kill its workers and run the computation's cleanup."""
        self._closing = True
        if self._gone.is_set():
            return ""
        self._cleaned = trio.Event()
        self._cleaned_text = "its process ended before it was done"
        self._tell({"kind": "clean up"})
        with trio.move_on_after(timeout) as scope:
            await self._cleaned.wait()
        if scope.cancelled_caught:
            return f"cleanup did not end within {timeout:g} s"
        return self._cleaned_text

    async def aclose(self) -> None:
        """Kill everything, and wait until it is gone."""
        self._closing = True
        self._scope.cancel()
        await self._gone.wait()


async def _readable(sock: socket.socket) -> bool:
    """Wait until there is something to read; False when the socket was closed by us."""
    # It may be closed before its task's first turn, while that waits, and after it had become
    # readable.
    if sock.fileno() >= 0:
        try:
            await trio.lowlevel.wait_readable(sock)
        except trio.ClosedResourceError:
            return False
    return sock.fileno() >= 0


def _receive_one(sock: socket.socket, limit: int) -> tuple[bytes, list[int], bool]:
    """One message of a socket that was readable, as `receive_all`; empty at the end."""
    try:
        return receive_all(sock, limit)
    except ConnectionResetError:
        return b"", [], False


def _asks_too_much(worker: _Worker, call: int) -> bool:
    waiting = worker.asked
    return len(waiting) >= MOST_CALLS or call in waiting or sum(waiting.values()) >= MOST_ATTACHED


def _room_in(descriptor: int) -> int:
    """Bytes of a file that a worker sent; none when it is nothing to be read or mapped."""
    usable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    try:
        # The job may still have it, and whoever maps it would die of a page that is gone.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        pass  # It is a file in a directory, which knows none.
    status = os.fstat(descriptor)
    return status.st_size if usable and stat.S_ISREG(status.st_mode) else 0


def _is_not_arguments(attribute: attrs.Attribute[Any], _value: object) -> bool:
    """Bytes are not for JSON: they travel beside it."""
    return attribute.name != "arguments"


def _sequence(result: WorkerResult) -> int:
    return result.sequence


def _put_in(result: WorkerResult, segment: int, sizes: tuple[int, ...]) -> None:
    """Give a result its segment, or what is in there when that is little.

    Raises:
        RingError: the sizes are not those of a segment.
    """
    room = _room_in(segment)
    if len(sizes) < 3 or sum(size + (-size % 64) for size in sizes) > room:
        os.close(segment)
        raise RingError(f"a segment of {room} bytes is announced with parts of {list(sizes)[:9]}")
    result.segment, result.sizes = segment, sizes
    if len(sizes) > 3 or sizes[0] > _INLINE:
        return
    # Small by itself: what is told of its end is put behind it.
    result.payload = os.pread(segment, sizes[0], 0)
    if sum(sizes) <= _INLINE:
        after = sizes[0] + (-sizes[0] % 64)
        result.stdout = os.pread(segment, sizes[1], after)
        result.stderr = os.pread(segment, sizes[2], after + sizes[1] + (-sizes[1] % 64))
        os.close(segment)
        result.segment, result.sizes = None, ()


_TOO_MANY_FILES = os.strerror(errno.EMFILE)
_TOO_MANY_CALLS = "too many calls of this job wait for their answers"


async def _end(process: TemplateProcess, pidfd: int) -> int:
    """End a template, which kills and reaps what is below it; its exit status."""
    trio.lowlevel.notify_closing(process.socket)
    process.socket.close()
    try:
        # When it is deaf, in code of the user's, its warden does what it should have done.
        for insist in (process.process.terminate, process.process.kill):
            with trio.move_on_after(CLOSE_GRACE):
                await trio.lowlevel.wait_readable(pidfd)
                break
            insist()
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    return process.process.wait()


@define(eq=False)
class ProcessSpawner:
    """Starts templates, one of them ahead of time."""

    _warm: TemplateProcess | None = None
    _orphans: Orphans | None = None
    """Where this process is the node's."""

    def __attrs_post_init__(self) -> None:
        if self._warm is not None and self._orphans is not None:
            self._orphans.spare(self._warm.process)

    def prepare(self) -> None:
        """Start a process that waits for the next computation, to save its start-up."""
        if self._warm is None:
            self._warm = self._start()

    def _start(self) -> TemplateProcess:
        started = start_template_process()
        if self._orphans is not None:
            self._orphans.spare(started.process)
        return started

    async def open_template(
        self,
        bundle: memoryview | bytes,
        settings: TemplateSettings,
        on_event: Report,
        nursery: trio.Nursery,
    ) -> ProcessTemplate:
        """Start a template and hand it the bundle."""
        process, self._warm = self._warm, None
        if process is None or process.process.poll() is not None:
            process = self._start()
        template = ProcessTemplate(process, on_event, nursery, settings, self._orphans)
        try:
            template.load(bundle)
        except BaseException:
            template.discard()
            raise
        return template

    def close(self) -> None:
        """End the process that waits, if one does."""
        if self._warm is not None:
            self._warm.discard()
            self._warm = None
