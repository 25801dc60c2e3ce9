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
from dispy_trio.child.capture import read_cut
from dispy_trio.child.jobs import (
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
from dispy_trio.compute.deaths import last_lines, name_of_signal, oom_kills, owns_its_id
from dispy_trio.compute.starting import TemplateProcess, start_template_process
from dispy_trio.seams import TemplateSettings, WorkerJob, WorkerResult

__all__ = ["WORKER_DESCRIPTORS", "ProcessSpawner"]

log = logging.getLogger("dispy_trio.node")

_MESSAGE = 64 * 1024
_FRAMES = 4096
_SOCKET_BUFFER = 2 * 1024 * 1024
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
    broken: str = ""
    """What it did that no worker does; it is being killed for it."""
    refused: str = ""
    """Why it can't be had; it is being killed for it."""

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
            ring = os.memfd_create("dispy-trio-ring", os.MFD_CLOEXEC)
            theirs.callback(os.close, ring)
            os.ftruncate(ring, RING_SIZE)
            memory = memoryview(mmap.mmap(ring, RING_SIZE, **_MAPPING))
            out = _append_file("stdout")
            ours.callback(os.close, out)
            err = _append_file("stderr")
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
            while not worker.broken:
                results += [WorkerResult(*record) for record in worker.ring.read()]
                if ring_only:
                    break
                known = len(worker.buffer)
                is_open = self._receive(worker)
                if len(worker.buffer) == known:
                    break
                # Look again: what a bell announces, and what was completed before a segment, may
                # have gone into the ring only after it was read.
                results += self._take_segments(worker)
        except (RingError, struct.error) as exc:
            self._break(worker, str(exc))
        if results:
            # The ring and the socket keep their own order each; a worker runs by sequence.
            results.sort(key=_sequence)
            if not self._are_due(worker, results):
                self._break(worker, f"result of job {results[0].sequence}, which it was not given")
                for result in results:
                    if result.segment is not None:
                        os.close(result.segment)
            else:
                worker.last_taken = results[-1].sequence
                self._report(seams.WorkerResults(worker.number, results))
        return is_open

    @staticmethod
    def _are_due(worker: _Worker, results: list[WorkerResult]) -> bool:
        """Are these results of jobs that it was given, one for each?"""
        last = worker.last_taken
        for result in results:
            if result.sequence <= last:
                return False
            last = result.sequence
        return last <= worker.last_sequence

    def _break(self, worker: _Worker, what: str) -> None:
        """A job's own code wrote to what is between its worker and us: believe neither further."""
        if not worker.broken:
            worker.broken = what
            self.kill(worker.number)

    @staticmethod
    def _take_segments(worker: _Worker) -> list[WorkerResult]:
        """Results in segments whose frames have arrived."""
        results: list[WorkerResult] = []
        buffer = worker.buffer
        while len(buffer) >= UP.size:
            kind, sequence, outcome, start, end, sizes, stdout, stderr = UP.unpack_from(buffer)
            length = UP.size + sizes + stdout + stderr
            if len(buffer) < length:
                break
            if kind == WITH_SEGMENT:
                at = UP.size + sizes
                if not worker.segments:
                    raise RingError(f"result {sequence} comes without its segment")
                segment = worker.segments.popleft()
                part_sizes = struct.unpack(f"<{sizes // 8}Q", buffer[UP.size : at])
                result = WorkerResult(sequence, outcome, start, end, b"")
                result.stdout = bytes(buffer[at : at + stdout])
                result.stderr = bytes(buffer[at + stdout : length])
                if outcome or sum(part_sizes) <= 4096:
                    # Not large by itself; it only found the ring full, or wrote much.
                    result.payload = os.pread(segment, part_sizes[0], 0)
                    os.close(segment)
                else:
                    result.segment = segment
                    result.sizes = part_sizes
                results.append(result)
            del buffer[:length]
        return results

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
            if descriptors:
                worker.segments += descriptors
            elif len(data) < _FRAMES:
                return True

    async def _read_calls(self, worker: _Worker) -> None:
        while await _readable(worker.calls):
            data, descriptors, lost = _receive_one(worker.calls, CALL_LIMIT)
            attached = _read_all(descriptors)
            if not data:
                return
            match _parse(data):
                case {"call": int(call)} if lost:
                    self.answer(worker.number, call, {"error": _TOO_MANY_FILES})
                case {"call": int(call), "kind": str(kind), "body": dict(body)}:
                    sequence = worker.ring.started()[0]
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
            kept = target.ring.recall(target.last_sequence)
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
            if worker.ring.started()[0] == sequence:
                os.killpg(worker.pid, which)
            else:
                # The job waits, or is over: the programs in the group are not its.
                signal.pidfd_send_signal(worker.pidfd, which)
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
        limit = self._settings.output_limit
        stdout = os.pread(target.stdout, limit, out)
        stderr = os.pread(target.stderr, limit, err)
        if target.ring.started()[0] != sequence or target.ring.has_records():
            return b"", b""  # It has ended, and what was read may be the next one's.
        target.shown = (sequence, out + len(stdout), err + len(stderr))
        return stdout, stderr

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
        else:
            self._report(self._account(worker, how))

    def _account(self, worker: _Worker, how: str) -> seams.WorkerDied:
        """Take leave of a dead worker: deliver what it has completed, and tell how it died."""
        self._take_results(worker)
        started, when = worker.ring.started()
        died = seams.WorkerDied(
            worker.number,
            started,
            how,
            stderr=last_lines(worker.stderr),
            stdout=read_cut(
                worker.stdout, os.fstat(worker.stdout).st_size, self._settings.output_limit
            ),
            start=when,
            end=time.time(),
        )
        self._close_worker(worker)
        return died

    def _close_worker(self, worker: _Worker) -> None:
        worker.life = _Life.DEAD
        self._drop_pending(worker)
        del self._workers[worker.number]
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
        how = f"killed by {name_of_signal(-status)}" if status < 0 else f"exit code {status}"
        how = self._given_up or how
        deaths: list[seams.WorkerDied] = []
        for worker in list(self._workers.values()):
            if worker.life is _Life.ALIVE:
                await trio.lowlevel.wait_readable(worker.pidfd)
            try:
                deaths.append(
                    self._account(worker, f"killed with its computation's process: {how}")
                )
            except Exception:
                # It is dead all the same, and so has to be told what is known of the others.
                log.exception("what a worker left can't be read")
        self._gone.set()
        self._loaded.set()
        if self._cleaned is not None:
            self._cleaned.set()
        if not self._closing:
            self._report(seams.TemplateDied(how, deaths))

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


def _read_all(descriptors: list[int]) -> bytes:
    """The content of the memory files that came with a message."""
    data = b""
    for descriptor in descriptors:
        data += os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        os.close(descriptor)
    return data


def _is_not_arguments(attribute: attrs.Attribute[Any], _value: object) -> bool:
    """Bytes are not for JSON: they travel beside it."""
    return attribute.name != "arguments"


def _sequence(result: WorkerResult) -> int:
    return result.sequence


def _append_file(name: str) -> int:
    descriptor = os.memfd_create(f"dispy-trio-{name}", os.MFD_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_TOO_MANY_FILES = os.strerror(errno.EMFILE)


def _parse(data: bytes) -> object:
    try:
        parsed: object = json.loads(data)
    except ValueError:
        return None
    return parsed


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

    def prepare(self) -> None:
        """Start a process that waits for the next computation, to save its start-up."""
        if self._warm is None:
            self._warm = start_template_process()

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
            process = start_template_process()
        template = ProcessTemplate(process, on_event, nursery, settings)
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
