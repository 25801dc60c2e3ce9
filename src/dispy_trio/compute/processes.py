"""The real `Spawner`: template processes, and the supervisor's end of their workers.

Nothing here runs user code or unpickles what a child sent: children speak JSON, fixed structs and
opaque payloads.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

import attrs
import trio
from attrs import define, field

from dispy_trio import seams
from dispy_trio.child.jobs import (
    CANCEL,
    CONTROL,
    RECALL,
    TERMINATE,
    UP,
    WITH_SEGMENT,
    descriptors_in,
    encode_batch,
    encode_segment_job,
)
from dispy_trio.child.parts import write_segment
from dispy_trio.child.ring import RING_SIZE, Ring
from dispy_trio.seams import TemplateSettings, WorkerJob, WorkerResult

__all__ = ["ProcessSpawner"]

_START = """\
import sys
sys.path.append(sys.argv.pop())
from dispy_trio.child.template import main
main()
"""
_MESSAGE = 64 * 1024
_FRAMES = 4096
_ANCILLARY = socket.CMSG_SPACE(16 * 4)
_SOCKET_BUFFER = 2 * 1024 * 1024
STDERR_TAIL = 16 * 1024
"""Bytes of a dead worker's output that go with the news of its death."""

Report = Callable[[seams.TemplateEvent], None]


def _environment() -> dict[str, str]:
    """Ours, without what lets one speak for us."""
    return {k: v for k, v in os.environ.items() if not k.startswith("DISPY_TRIO_")}


def _oom_kills() -> int:
    """How many processes of our control group the kernel has killed for memory; 0 if unknown."""
    for name in ("memory.events", "memory/memory.oom_control"):
        try:
            text = Path("/sys/fs/cgroup", name).read_text()
        except OSError:
            continue
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0


@define(eq=False)
class _Process:
    """A template process that may not have a bundle yet."""

    process: subprocess.Popen[bytes]
    socket: socket.socket


def _start_process() -> _Process:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _START,
                str(theirs.fileno()),
                str(os.getpid()),
                str(Path(__file__).resolve().parents[2]),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
    return _Process(process, ours)


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

    _process: _Process
    _report: Report
    _nursery: trio.Nursery
    _workers: dict[int, _Worker] = field(factory=dict)
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    _gone: trio.Event = field(factory=trio.Event)
    _closing: bool = False
    _loaded: bool = False
    _oom_kills: int = field(factory=_oom_kills)

    # --- starting ------------------------------------------------------------------------------
    def load(self, bundle: memoryview | bytes, settings: TemplateSettings) -> None:
        segment = write_segment([bundle])
        try:
            self._tell({"kind": "load", "settings": attrs.asdict(settings)}, segment)
        finally:
            os.close(segment)
        self._nursery.start_soon(self._run)

    def _tell(self, message: dict[str, Any], *descriptors: int) -> None:
        try:
            socket.send_fds(self._process.socket, [json.dumps(message).encode()], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It is dead; the reader is about to find out.

    def start_worker(self, worker: int) -> None:
        jobs, theirs_jobs = socket.socketpair()
        control, theirs_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        calls, theirs_calls = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (jobs, control, calls):
            sock.setblocking(False)
        jobs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        ring = os.memfd_create("dispy-trio-ring", os.MFD_CLOEXEC)
        os.ftruncate(ring, RING_SIZE)
        memory = memoryview(mmap.mmap(ring, RING_SIZE))
        out, err = (_append_file(name) for name in ("stdout", "stderr"))
        self._workers[worker] = _Worker(worker, jobs, control, calls, Ring(memory), out, err)
        self._tell(
            {"kind": "fork", "worker": worker},
            theirs_jobs.fileno(),
            theirs_control.fileno(),
            theirs_calls.fileno(),
            ring,
            out,
            err,
        )
        os.close(ring)
        for sock in (theirs_jobs, theirs_control, theirs_calls):
            sock.close()

    # --- giving jobs ---------------------------------------------------------------------------
    def send_jobs(self, worker: int, jobs: Sequence[WorkerJob]) -> None:
        target = self._workers[worker]
        target.last_sequence = jobs[-1].sequence
        small: list[tuple[int, bytes]] = []
        for job in jobs:
            if job.payload is not None:
                small.append((job.sequence, job.payload))
                continue
            if small:
                self._send(target, encode_batch(small), None)
                small = []
            assert job.segment is not None
            self._send(target, encode_segment_job(job.sequence, job.sizes), os.dup(job.segment))
        if small:
            self._send(target, encode_batch(small), None)

    def _send(self, worker: _Worker, data: bytes, segment: int | None) -> None:
        if worker.life is _Life.DEAD:
            if segment is not None:
                os.close(segment)
            return
        worker.pending.append((memoryview(data), segment))
        if not worker.writing and not self._write_some(worker):
            worker.writing = True
            self._nursery.start_soon(self._write_rest, worker)

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
        target = self._workers[worker]
        until = time.perf_counter() + seconds
        while not target.ring.has_records():
            if time.perf_counter() > until:
                return
        self._take_results(target)

    def _take_results(self, worker: _Worker) -> bool:
        """Deliver what the worker has completed; False when it has closed its end."""
        results: list[WorkerResult] = []
        while True:
            results += [WorkerResult(*record) for record in worker.ring.read()]
            is_open = self._receive(worker)
            segments = self._take_segments(worker)
            if not segments:
                break
            # What went into the ring before the last of them may not have been read yet.
            results += segments
        if results:
            # The ring and the socket keep their own order each; a worker runs by sequence.
            results.sort(key=_sequence)
            self._report(seams.WorkerResults(worker.number, results))
        return is_open

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
                data, ancillary, _, _ = worker.jobs.recvmsg(_FRAMES, _ANCILLARY)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not data:
                return False
            worker.buffer += data
            if ancillary:
                worker.segments.extend(descriptors_in(ancillary))
            elif len(data) < _FRAMES:
                return True

    async def _read_calls(self, worker: _Worker) -> None:
        while await _readable(worker.calls):
            data = _receive_one(worker.calls, _MESSAGE)
            if not data:
                return
            call = json.loads(data)
            self._report(seams.WorkerCall(worker.number, call["call"], call["kind"], call["body"]))

    def answer(self, worker: int, call: int, body: dict[str, Any]) -> None:
        target = self._workers.get(worker)
        if target is not None:
            try:
                target.calls.send(json.dumps({"call": call, "body": body}).encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # It died meanwhile.

    async def _read_control(self, worker: _Worker) -> None:
        while await _readable(worker.control):
            frame = _receive_one(worker.control, CONTROL.size)
            if not frame:
                return
            _, started = CONTROL.unpack(frame)
            # What it has completed comes before what it has given back.
            self._take_results(worker)
            self._report(seams.WorkerRecalled(worker.number, started))

    # --- signals -------------------------------------------------------------------------------
    def recall(self, worker: int) -> None:
        if (target := self._workers.get(worker)) is not None:
            self._signal(worker, RECALL, target.last_sequence, signal.SIGUSR1, group=False)

    def interrupt(self, worker: int, sequence: int) -> None:
        self._signal(worker, CANCEL, sequence, signal.SIGINT, group=True)

    def terminate(self, worker: int, sequence: int) -> None:
        self._signal(worker, TERMINATE, sequence, signal.SIGTERM, group=True)

    def _signal(
        self, number: int, kind: int, sequence: int, which: signal.Signals, *, group: bool
    ) -> None:
        worker = self._workers.get(number)
        if worker is None or worker.life is not _Life.ALIVE:
            return
        try:
            # What is meant is told first: the signal only says that there is something to read.
            worker.control.send(CONTROL.pack(kind, sequence))
        except (BrokenPipeError, ConnectionResetError):
            return
        # Dead or not, it is not reaped before we say so: the id is still its own.
        if group:
            os.killpg(worker.pid, which)
        else:
            signal.pidfd_send_signal(worker.pidfd, which)

    def kill(self, worker: int) -> None:
        target = self._workers.get(worker)
        if target is not None and target.life is _Life.ALIVE:
            target.killed_by_us = True
            os.killpg(target.pid, signal.SIGKILL)

    def stop_worker(self, worker: int) -> None:
        target = self._workers.get(worker)
        if target is not None and target.life is _Life.ALIVE:
            target.stopping = True
            target.jobs.shutdown(socket.SHUT_WR)

    # --- the template's own messages -----------------------------------------------------------
    async def _run(self) -> None:
        """Read the template's messages until it is gone, then tell what became of its workers."""
        sock = self._process.socket
        try:
            with self._scope:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    try:
                        data, descriptors, _, _ = socket.recv_fds(sock, _MESSAGE, 8)
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        break
                    if not data:
                        break
                    self._on_message(json.loads(data), descriptors)
        finally:
            # Bounded: everything below was sent SIGKILL.
            with trio.CancelScope(shield=True):
                await self._bury()

    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message["kind"]:
            case "loaded":
                self._loaded = True
                self._report(seams.TemplateReady())
            case "failed":
                self._report(seams.TemplateFailed(message["text"]))
            case "forked":
                self._on_forked(self._workers[message["worker"]], message["pid"], descriptors[0])
            case "unforked":
                self._bury_worker(
                    self._workers[message["worker"]],
                    f"the node cannot start a worker: {message['text']}",
                )
            case "exited":
                self._on_exit(self._workers[message["worker"]], message)

    def _on_forked(self, worker: _Worker, pid: int, pidfd: int) -> None:
        worker.pid = pid
        worker.pidfd = pidfd
        worker.life = _Life.ALIVE
        for task in (self._read, self._read_calls, self._read_control):
            self._nursery.start_soon(task, worker)
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
        if worker.stopping:
            return "stopped"
        if not number:
            return f"its process ended with exit code {code} without a result"
        name = signal.Signals(number).name
        if number == signal.SIGKILL and not worker.killed_by_us:
            kills = _oom_kills()
            if kills > self._oom_kills:
                self._oom_kills = kills
                return "killed by the kernel for memory (SIGKILL)"
        return f"killed by {name} ({number})"

    def _bury_worker(self, worker: _Worker, how: str) -> None:
        worker.life = _Life.DEAD
        self._take_results(worker)
        started, when = worker.ring.started()
        died = seams.WorkerDied(
            worker.number,
            started,
            how,
            stderr=_tail(worker.stderr),
            stdout=_tail(worker.stdout),
            start=when,
            end=time.time(),
        )
        self._drop_pending(worker)
        del self._workers[worker.number]
        worker.close()
        self._report(died)

    async def _bury(self) -> None:
        """The template is gone or going: nothing of it may stay."""
        for worker in list(self._workers.values()):
            if worker.life is _Life.ALIVE:
                # They die with their parent, but what they started does not.
                try:
                    os.killpg(worker.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self._process.socket.close()
        self._process.process.kill()
        status = await trio.to_thread.run_sync(self._process.process.wait)
        for worker in list(self._workers.values()):
            if worker.life is _Life.ALIVE:
                await trio.lowlevel.wait_readable(worker.pidfd)
            self._bury_worker(worker, "killed with the process of its computation")
        self._gone.set()
        if not self._closing:
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
            self._report(seams.TemplateDied(how))

    async def aclose(self) -> None:
        """Kill everything, and wait until it is gone."""
        self._closing = True
        self._scope.cancel()
        await self._gone.wait()


async def _readable(sock: socket.socket) -> bool:
    """Wait until there is something to read; False when the socket was closed by us."""
    try:
        await trio.lowlevel.wait_readable(sock)
    except trio.ClosedResourceError:
        return False
    # Closed after it had become readable, before it was this task's turn.
    return sock.fileno() >= 0


def _receive_one(sock: socket.socket, limit: int) -> bytes:
    """One message of a socket that was readable; empty at the end."""
    try:
        return sock.recv(limit)
    except ConnectionResetError:
        return b""


def _sequence(result: WorkerResult) -> int:
    return result.sequence


def _append_file(name: str) -> int:
    descriptor = os.memfd_create(f"dispy-trio-{name}", os.MFD_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


def _tail(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, STDERR_TAIL, max(0, size - STDERR_TAIL))


@define(eq=False)
class ProcessSpawner:
    """Starts templates, one of them ahead of time."""

    _warm: _Process | None = None

    def prepare(self) -> None:
        """Start a process that waits for the next computation, to save its start-up."""
        if self._warm is None:
            self._warm = _start_process()

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
            # Not in a thread: the kernel ends a template with the thread that started it.
            process = _start_process()
        template = ProcessTemplate(process, on_event, nursery)
        template.load(bundle, settings)
        return template

    def close(self) -> None:
        """End the process that waits, if one does."""
        if self._warm is not None:
            self._warm.socket.close()
            self._warm.process.kill()
            self._warm.process.wait()
            self._warm = None
