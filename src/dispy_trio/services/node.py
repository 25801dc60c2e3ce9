"""A node: runs the jobs of its clients. This is its wiring; what it decides is `core.node`.

Three nested nurseries, outermost first: *services* (the machine's timer, forgetting clients that
stay away), *work* (one task per connection, one per template), *accepting* (the listener). To stop
is to cancel *accepting*, close the templates, and leave.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import trio
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.config import NodeSettings
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import NodeMachine, NodeMachineEvent, TemplateReport
from dispy_trio.core.sessions import NodeJob
from dispy_trio.core.slots import thread_variables
from dispy_trio.errors import DispyError, LocalError, RemoteError
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.runtime.host import Host
from dispy_trio.runtime.peer import Peer, accept_connection
from dispy_trio.runtime.segments import can_open, map_segment, open_segment
from dispy_trio.services.control import NodeControl, NodeReport
from dispy_trio.services.files import FileService
from dispy_trio.services.outside import Outside
from dispy_trio.services.places import Key, Places

__all__ = ["run_node", "slots_of"]

log = logging.getLogger("dispy_trio.node")
jobs_log = logging.getLogger("dispy_trio.node.jobs")
"""What jobs log on the node is meant to be seen there, however quiet the node itself is."""
jobs_log.setLevel(logging.INFO)

UNAUTHENTICATED_LIMIT = 100
"""Connections that may be in their handshake at a time."""
CLOSE_GRACE = 5.0
"""Seconds for templates to be killed and reaped when the node stops."""
SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""What the kernel says when others have all there is."""
START_AGAIN = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds to wait for what a computation's process needs."""
CLEANUP_SECONDS = 60.0
"""That a cleanup function may take, when no limit was set for setup."""
FIRST_LOOK = 0.1
"""Seconds to watch the processors for the first status."""


def slots_of(cpus: int, available: int) -> int:
    """How many jobs a node runs at a time.

    Args:
        cpus: 0 for all processors, negative to leave that many free.
        available: processors of the machine.

    Raises:
        LocalError: says how many there are.
    """
    slots = cpus if cpus > 0 else available + cpus
    if not 0 < slots <= max(available, cpus if cpus > 0 else 0):
        raise LocalError(f"--cpus {cpus} leaves no slot: this machine has {available} processors")
    return slots


@define(eq=False)
class _Computation:
    """A computation's process and directory."""

    directory: str
    options: messages.ComputationOptions
    template: seams.Template | None = None
    closing: bool = False
    release: bool = True
    is_set_up: bool = False
    """Its setup has run, and its cleanup has to."""
    given_up: bool = False
    """Something that was done for it failed, and it is being ended."""


@define(eq=False)
class _Incoming:
    """A blob on its way in and the message that it belongs to, whichever comes first."""

    segment: int | None = None
    complete: bool = False
    message: messages.RunBulkJob | messages.OpenComputation | None = None


@define(eq=False)
class NodeService:
    """Performs what the node's machine commands."""

    settings: NodeSettings
    outside: Outside
    machine: NodeMachine
    incarnation: str
    work: trio.Nursery
    files: FileService
    places: Places
    end: Callable[[], None]
    """Ends the node."""
    available: int
    """Slots it was started with."""
    host: Host[NodeMachineEvent, c.NodeCommand] = field(init=False)
    _handshakes: dict[trio.CancelScope, None] = field(factory=dict)
    """Of connections that have not proved anything yet, the oldest first."""
    _peers: dict[str, Peer] = field(factory=dict)
    _neighbours: dict[str, int] = field(factory=dict)
    """Session to process id, of the clients on this machine that share segments with us."""
    _computations: dict[Key, _Computation] = field(factory=dict)
    _incoming: dict[tuple[str, int], _Incoming] = field(factory=dict)
    _last: Key | None = None
    """Its cleanup has ended the node: when it is closed."""
    _served: int = 0
    """Clients that have come."""
    _provisional: dict[int, trio.Event] = field(factory=dict)
    """Provisional results that clients have not acknowledged."""
    _refused: set[int] = field(factory=set)
    """Those of them that nobody wants."""
    _next_request: int = 1

    def __attrs_post_init__(self) -> None:
        self.host = Host(self.machine, self._perform, self._on_failure)

    # --- what goes wrong -----------------------------------------------------------------------
    def _on_failure(self, what: NodeMachineEvent | c.NodeCommand, exc: Exception) -> None:
        """Doing something for a computation failed: it ends here, and nothing else does."""
        session = next(
            (
                getattr(what, name)
                for name in ("session", "target", "source")
                if hasattr(what, name)
            ),
            None,
        )
        if session is None:
            raise exc  # It is about all of them.
        number = getattr(what, "computation", None)
        if number is not None:
            self._give_up((session, number), exc)
            return
        log.error("a client's connection ends here: %s", exc, exc_info=exc)
        if (peer := self._peers.get(session)) is not None:
            # Not a goodbye: it comes again, and is told again what it has not got.
            peer.fail(LocalError(f"this node failed: {exc}"))

    def _give_up(self, key: Key, exc: Exception) -> None:
        computation = self._computations.get(key)
        if computation is None or computation.closing or computation.given_up:
            return
        computation.given_up = True
        log.error("a computation ends here: %s", exc, exc_info=exc)
        text = f"node {self.machine.name} failed: {type(exc).__name__}: {exc}"
        if computation.template is not None:
            computation.template.give_up(text)
        else:
            self.host.feed(TemplateReport(*key, seams.TemplateFailed(text)))

    # --- commands ------------------------------------------------------------------------------
    def _perform(self, command: c.NodeCommand) -> None:
        match command:
            case c.SendResults(session=session, message=message, segments=segments):
                if (peer := self._peers.get(session)) is None:
                    self._forget_job_directories(session, message.numbers)
                    return
                if segments and session in self._neighbours:
                    for number, (blob, sizes) in message.blobs.items():
                        message.segments[number] = (segments[blob], sizes)
                    message.blobs.clear()
                self._forget_job_directories(session, message.numbers)
                peer.send_nowait(message)
                for blob, _ in message.blobs.values():
                    peer.send_blob_nowait(blob, [map_segment(segments[blob])])
            case c.SendJobsToWorker(session=session, computation=number, worker=worker, jobs=jobs):
                place = self.places.get((session, number))
                if place is not None and place.jobs:
                    for job in jobs:
                        if (directory := place.jobs.get(job.number)) is not None:
                            job.settings = {**(job.settings or {}), "directory": directory}
                self._template(session, number).send_jobs(worker, jobs)
            case c.Send(target=session, message=message):
                if (peer := self._peers.get(session)) is not None:
                    peer.send_nowait(message)
            case c.PollWorker(session=session, computation=number, worker=worker):
                self._template(session, number).poll(worker)
            case c.LingerAtWorker(session=session, computation=number, worker=worker):
                self._template(session, number).linger(worker, command.seconds)
            case c.LingerAtSession(session=session, seconds=seconds):
                if (peer := self._peers.get(session)) is not None:
                    peer.linger(seconds)
            case c.RecallWorker(session=session, computation=number, worker=worker):
                self._template(session, number).recall(worker)
            case c.InterruptJob(session=session, computation=number):
                self._template(session, number).interrupt(command.worker, command.sequence)
            case c.TerminateJob(session=session, computation=number):
                self._template(session, number).terminate(command.worker, command.sequence)
            case c.KillWorker(session=session, computation=number, worker=worker):
                self._template(session, number).kill(worker)
            case c.StartWorker(session=session, computation=number, worker=worker):
                self._template(session, number).start_worker(worker)
            case c.StopWorker(session=session, computation=number, worker=worker):
                self._template(session, number).stop_worker(worker)
            case c.SendOutput():
                self._send_output(command)
            case c.SendStarted(session=session, jobs=started):
                self._send_started(session, started)
            case c.GiveUp(session=session, computation=number, error=error):
                self._give_up((session, number), error)
            case c.OpenTemplate():
                self.work.start_soon(self._open_template, command)
            case c.CloseTemplate(session=session, computation=number, release=release):
                self.work.start_soon(self._close_template, (session, number), release)
            case c.NodeFinished():
                self.end()
            case c.ReleaseSegment(segment=segment):
                os.close(segment)
            case _:
                assert_never(command)

    def _template(self, session: str, number: int) -> seams.Template:
        template = self._computations[session, number].template
        assert template is not None, "workers are commanded only after the template is ready"
        return template

    def _send_started(self, session: str, jobs: Sequence[c.StartedJob]) -> None:
        numbers: list[int] = []
        attempts: list[int] = []
        starts: list[float] = []
        for job in jobs:
            try:
                started, when = self._template(session, job.computation).poll(job.worker)
            except Exception as exc:
                # The command is about several: only this one is to end.
                self._give_up((session, job.computation), exc)
                continue
            if started == job.sequence:
                numbers.append(job.number)
                attempts.append(job.attempt)
                starts.append(when)
        peer = self._peers.get(session)
        if numbers and peer is not None:
            peer.send_nowait(messages.JobsStarted(numbers, attempts, starts))

    def _send_output(self, command: c.SendOutput) -> None:
        template = self._template(command.session, command.computation)
        stdout, stderr = template.output(command.worker, command.sequence)
        peer = self._peers.get(command.session)
        if peer is not None and (stdout or stderr):
            peer.send_nowait(messages.JobOutput(command.number, command.attempt, stdout, stderr))

    def _forget_job_directories(self, session: str, numbers: Sequence[int]) -> None:
        for key in self.places.of_session(session):
            place = self.places.get(key)
            if place is not None and place.jobs:
                place.forget_jobs(numbers)

    def _client_host(self, session: str) -> str:
        known = self.machine.sessions.get(session)
        return known.peer.rpartition(":")[0].strip("[]") if known is not None else "127.0.0.1"

    def _template_settings(
        self, directory: str, session: str, options: messages.ComputationOptions
    ) -> seams.TemplateSettings:
        host = self.files.host_for(self._client_host(session))
        threads = thread_variables(self.machine.slot_threads)
        return seams.TemplateSettings(
            directory,
            node_name=self.machine.name,
            node_ip=host,
            arguments=options.arguments,
            setup_timeout=options.setup_timeout,
            init=str(self.settings.init or ""),
            message_timeout=self.settings.message_timeout,
            # What the node's own user has chosen counts more.
            environment={k: v for k, v in threads.items() if k not in os.environ},
        )

    async def _open_template(self, command: c.OpenTemplate) -> None:
        key = (command.session, command.computation)
        options = command.options

        def report(event: seams.TemplateEvent) -> None:
            if isinstance(event, seams.WorkerCall):
                self.work.start_soon(self._answer, key, event)
                return
            if isinstance(event, seams.TemplateReady):
                self._computations[key].is_set_up = True
            self.host.feed(TemplateReport(*key, event))

        try:
            client = self._client_host(command.session)
            directory = self.places.open(key, client, options.dest_path).directory
            computation = self._computations[key] = _Computation(directory, options)
            settings = self._template_settings(directory, command.session, options)
            template = await self._start_template(command, settings, report)
        except Exception as exc:
            if not isinstance(exc, (OSError, DispyError)):
                log.error("a computation can't be started: %s", exc, exc_info=exc)
            report(seams.TemplateFailed(f"node {self.machine.name} can't start it: {exc}"))
            return
        computation.template = template
        if computation.closing:
            await self._close_template(key, computation.release)

    async def _start_template(
        self,
        command: c.OpenTemplate,
        settings: seams.TemplateSettings,
        report: Callable[[seams.TemplateEvent], None],
    ) -> seams.Template | None:
        """Start the process; None when the computation was closed before there was room for it."""
        key = (command.session, command.computation)
        for delay in START_AGAIN:
            try:
                return await self.outside.spawner.open_template(
                    command.bundle, settings, report, self.work
                )
            except OSError as exc:
                if exc.errno not in SHORTAGE:
                    raise
                log.warning("a computation can't be started now, which is tried again: %s", exc)
            self.host.feed(e.TemplateRefused(*key))
            await trio.sleep(delay)
            if self._computations[key].closing:
                return None
        return await self.outside.spawner.open_template(command.bundle, settings, report, self.work)

    async def _close_template(self, key: Key, release: bool) -> None:
        computation = self._computations.get(key)
        if computation is not None and computation.template is None and not computation.closing:
            # Still being started; whoever starts it closes it.
            computation.closing = True
            computation.release = release
            return
        try:
            if computation is not None:
                await self._end_template(computation)
                self.files.forget(key)
            if release:
                keep = computation is not None and computation.options.keep_files
                await self._release_place(key, keep=keep and not self.settings.force_cleanup)
        except Exception as exc:
            log.error("a computation was not closed in good order: %s", exc, exc_info=exc)
        self._computations.pop(key, None)
        self.host.feed(e.TemplateClosed(*key))
        if key == self._last:
            self._drain()

    async def _end_template(self, computation: _Computation) -> None:
        """Run the computation's cleanup, and end its processes."""
        if (template := computation.template) is None:
            return
        wants = computation.options.has_cleanup or self.settings.init is not None
        if computation.is_set_up and wants:
            computation.is_set_up = False
            limit = computation.options.setup_timeout or CLEANUP_SECONDS
            if failure := await template.clean_up(limit):
                log.warning("a computation's cleanup failed: %s", failure)
        await template.aclose()

    async def _release_place(self, key: Key, *, keep: bool) -> None:
        if (directory := self.places.release(key, keep=keep)) is not None:
            await self.outside.store.remove_directory(directory)

    # --- what jobs ask -------------------------------------------------------------------------
    async def _answer(self, key: Key, call: seams.WorkerCall) -> None:
        """A job asks for something; what goes wrong is the job's to hear."""
        if call.kind == "shut_down":
            self._shut_down_for_client(key)
            return
        computation = self._computations.get(key)
        if computation is None or computation.template is None:
            return
        try:
            body = await self._do_for_job(key, call, computation)
        except (DispyError, OSError) as exc:
            body = {"error": str(exc)[:1000]}
        if not computation.closing:
            computation.template.answer(call.worker, call.call, body)

    async def _do_for_job(
        self, key: Key, call: seams.WorkerCall, computation: _Computation
    ) -> dict[str, Any]:
        match call.kind, call.body:
            case "log", {"level": int(level), "text": str(text)}:
                # What follows on further lines is seen to be the job's, too.
                jobs_log.log(level, "a job says: %s", "\n    ".join(text.splitlines()))
                return {}
            case "progress", {"fraction": int() | float() as fraction, "text": str(text)}:
                peer, job = self._client_of(key, call)
                peer.send_nowait(
                    messages.JobProgress(job.number, job.attempt, float(fraction), text[:1000])
                )
                return {}
            case "provisional_result", {"timeout": int() | float() as timeout}:
                await self._send_provisional(key, call, timeout)
                return {}
            case "send_file", {"path": str(path), "timeout": int() | float() as timeout}:
                peer, job = self._client_of(key, call)
                place = self.places.get(key)
                assert place is not None, "a computation that runs has a directory"
                await self.files.offer(peer.send_nowait, place, job.number, path, timeout)
                return {}
            case _:
                client = self._client_host(key[0])
                return await self.files.answer(
                    key, client, computation.directory, call.kind, call.body
                )

    def _client_of(self, key: Key, call: seams.WorkerCall) -> tuple[Peer, NodeJob]:
        """Whom a job's news are for, and which job it is.

        Raises:
            RemoteError: the client is not there.
        """
        job = self.machine.running_job(*key, call.worker, call.sequence)
        peer = self._peers.get(key[0])
        if peer is None or job is None:
            raise RemoteError("the client is not connected to this node now")
        return peer, job

    async def _send_provisional(self, key: Key, call: seams.WorkerCall, timeout: float) -> None:
        peer, job = self._client_of(key, call)
        request = self._next_request
        self._next_request += 1
        taken = self._provisional[request] = trio.Event()
        small = len(call.data) <= messages.BULK_THRESHOLD
        blob = 0 if small else self.machine.next_blob()
        payload = call.data if small else b""
        peer.send_nowait(messages.JobProvisional(job.number, job.attempt, request, payload, blob))
        if blob:
            peer.send_blob_nowait(blob, [memoryview(call.data)])
        try:
            with trio.move_on_after(timeout):
                await taken.wait()
            if not taken.is_set():
                raise RemoteError(f"the client did not take the result within {timeout:g} s")
            if request in self._refused:
                raise RemoteError("the client does not wait for this job any more")
        finally:
            del self._provisional[request]
            self._refused.discard(request)

    def _shut_down_for_client(self, key: Key) -> None:
        if self.settings.client_shutdown:
            log.warning("client %s ends this node", self._client_host(key[0]))
            self._last = key
        else:
            log.warning("a client wants to end this node, which needs --client-shutdown")

    # --- connections ---------------------------------------------------------------------------
    async def serve(self, stream: seams.ByteStream) -> None:
        """One connection, from its first byte to its last: nothing it does hurts another."""
        theirs = await self._authenticate(stream)
        if theirs is None:
            return
        if theirs.kind == Kind.BULK:
            peer = self._peers.get(theirs.identity)
            if peer is None or not peer.attach_bulk(stream):
                await stream.aclose()
        elif theirs.kind == Kind.FILE:
            known = theirs.role == Role.CLIENT and theirs.identity in self._peers
            try:
                await self.files.serve(stream, theirs, known)
            except (DispyError, OSError) as exc:
                log.warning("a file could not be transferred: %s", exc)
        else:
            await self._serve_session(stream, theirs)

    async def _authenticate(self, stream: seams.ByteStream) -> Hello | None:
        """What an honest peer says of itself; None, and the stream is closed, for any other."""
        scope = trio.CancelScope()
        self._handshakes[scope] = None
        if len(self._handshakes) > UNAUTHENTICATED_LIMIT:
            # The oldest goes: who is honest is through in milliseconds.
            next(iter(self._handshakes)).cancel()
        theirs: Hello | None = None
        try:
            with scope:
                hello = self.outside.hello(Role.NODE, Kind.CONTROL, self.incarnation)
                theirs = await accept_connection(stream, self.outside.secret.value, hello)
        except DispyError as exc:
            log.warning("refused a connection: %s", exc)
        finally:
            del self._handshakes[scope]
        return theirs

    async def _serve_session(self, stream: seams.ByteStream, theirs: Hello) -> None:
        session = theirs.identity
        if session not in self.machine.sessions:
            if self.machine.leaving is not None:
                await stream.aclose()
                return
            self._served += 1
            if 0 <= self.settings.serve <= self._served:
                log.info("client %d of %d: the last one", self._served, self.settings.serve)
                self.host.feed(e.SessionConnected(session, stream.peer))
                self.host.feed(e.LeaveRequested(computations=True))
        peer = Peer(f"client {stream.peer}", theirs, self.settings.pulse_interval, stream)
        if (old := self._peers.get(session)) is not None:
            old.close("the same session came again")
        self._peers[session] = peer
        self.host.feed(e.SessionConnected(session, stream.peer))
        reason: DispyError | None = None
        async with trio.open_nursery() as nursery:

            def watch(message: messages.WatchNode) -> None:
                nursery.start_soon(self._report_status, peer, message)

            try:
                await peer.run(
                    lambda message: self._on_message(session, peer, message, watch),
                    lambda blob, size: self._make_room(session, blob, size),
                    lambda blob, _memory: self._on_blob(session, blob),
                )
            except DispyError as exc:
                reason = exc
            nursery.cancel_scope.cancel()
        if self._peers.get(session) is not peer:
            return
        del self._peers[session]
        self._neighbours.pop(session, None)
        self._drop_incoming(session)
        if reason is None:
            self.host.feed(e.SessionClosed(session))
            for key in self.places.of_session(session):
                if key not in self._computations:
                    # Files came, but the computation never did.
                    await self._release_place(key, keep=False)
        else:
            log.warning("lost a client: %s", reason)
            self.host.feed(e.SessionDisconnected(session))

    async def _report_status(self, peer: Peer, watch: messages.WatchNode) -> None:
        """Tell a client what is free here, as often as it wants to know."""
        seconds = FIRST_LOOK if watch.now else None
        if not watch.now:
            await trio.sleep(watch.interval)
        while True:
            peer.send_nowait(await self.outside.read_status(seconds))
            seconds = None
            await trio.sleep(max(0.1, watch.interval))

    def _on_message(
        self,
        session: str,
        peer: Peer,
        message: messages.Message,
        watch: Callable[[messages.WatchNode], None],
    ) -> None:
        if isinstance(message, messages.RunJobs):
            # By far the most frequent ones.
            self.host.feed(e.MessageReceived(session, message))
        elif isinstance(message, messages.WatchNode):
            watch(message)
        elif isinstance(message, messages.FileAnswer):
            self.files.answered(message)
        elif isinstance(message, messages.AckProvisional):
            if (taken := self._provisional.get(message.request)) is not None:
                if not message.taken:
                    self._refused.add(message.request)
                taken.set()
        elif isinstance(message, messages.OfferSegments):
            agreed = can_open(message.process, message.descriptor, message.token)
            if agreed:
                self._neighbours[session] = message.process
            peer.send_nowait(messages.AnswerSegments(os.getpid() if agreed else 0))
        elif isinstance(message, messages.RunBulkJob) and message.segment >= 0:
            segment = open_segment(self._neighbours[session], message.segment)
            self.host.feed(e.BulkJobReceived(session, message, segment))
        elif isinstance(message, messages.RunBulkJob) or (
            isinstance(message, messages.OpenComputation) and message.blob
        ):
            incoming = self._incoming.setdefault((session, message.blob), _Incoming())
            incoming.message = message
            self._settle(session, message.blob, incoming)
        else:
            self.host.feed(e.MessageReceived(session, message))

    def _make_room(self, session: str, blob: int, size: int) -> memoryview:
        segment, memory = self.outside.store.make_segment(size)
        self._incoming.setdefault((session, blob), _Incoming()).segment = segment
        return memory

    def _on_blob(self, session: str, blob: int) -> None:
        incoming = self._incoming[session, blob]
        incoming.complete = True
        self._settle(session, blob, incoming)

    def _settle(self, session: str, blob: int, incoming: _Incoming) -> None:
        """Once both the message and its blob are here, tell the machine."""
        if not incoming.complete or incoming.message is None or incoming.segment is None:
            return
        del self._incoming[session, blob]
        segment = incoming.segment
        if isinstance(incoming.message, messages.RunBulkJob):
            self.host.feed(e.BulkJobReceived(session, incoming.message, segment))
        else:
            bundle = map_segment(segment)
            os.close(segment)
            self.host.feed(e.BundleReceived(session, incoming.message, bundle))

    def _drop_incoming(self, session: str) -> None:
        for key in [key for key in self._incoming if key[0] == session]:
            segment = self._incoming.pop(key).segment
            if segment is not None:
                os.close(segment)

    # --- life ----------------------------------------------------------------------------------
    async def forget_absent_clients(self) -> None:
        """Drop sessions that stayed away for `zombie_interval` and have nothing running."""
        gone_since: dict[str, float] = {}
        if not self.settings.zombie_interval:
            return
        while True:
            await trio.sleep(max(1.0, self.settings.zombie_interval / 10))
            now = trio.current_time()
            for key, session in list(self.machine.sessions.items()):
                if session.connected or session.jobs:
                    gone_since.pop(key, None)
                elif now - gone_since.setdefault(key, now) >= self.settings.zombie_interval:
                    log.warning("client %s stayed away; its computations end", session.peer)
                    self.host.feed(e.SessionClosed(key))

    async def stop(self) -> None:
        """Say goodbye to the clients and kill what runs."""
        for peer in list(self._peers.values()):
            peer.close("the node stops")
        for key, computation in list(self._computations.items()):
            computation.closing = True
            keep = computation.options.keep_files and not self.settings.force_cleanup
            try:
                await self._end_template(computation)
                await self._release_place(key, keep=keep)
            except Exception as exc:
                log.error("a computation was not closed in good order: %s", exc, exc_info=exc)
        self._computations.clear()
        self.outside.store.close()

    # --- control -------------------------------------------------------------------------------
    def control(self, host: str, port: int) -> NodeControl:
        """The handles that console, service hours and signals have."""
        return NodeControl(
            host=host,
            port=port,
            set_cpus=self._set_cpus,
            terminate_jobs=lambda: self.host.feed(e.TerminateRequested()),
            drain=self._drain,
            leave=lambda: self.host.feed(e.LeaveRequested(computations=True)),
            quit=self.end,
            release=self._release_absent,
            report=lambda: self._report(f"{host}:{port}"),
        )

    def _set_cpus(self, cpus: int) -> int:
        slots = 0
        if cpus:
            slots = cpus if cpus > 0 else self.available + cpus
            if not 0 < slots <= self.available:
                raise LocalError(f"{cpus} cpus: this node has {self.available}")
        self.host.feed(e.SlotsSet(slots))
        return slots

    def _drain(self) -> None:
        self.host.feed(e.SlotsSet(0))
        self.host.feed(e.LeaveRequested(computations=False))

    def _release_absent(self) -> int:
        absent = [k for k, s in self.machine.sessions.items() if not s.connected and not s.jobs]
        for key in absent:
            self.host.feed(e.SessionClosed(key))
        return len(absent)

    def _report(self, address: str) -> NodeReport:
        machine = self.machine
        return NodeReport(
            name=machine.name,
            address=address,
            cpus=machine.slots,
            available=self.available,
            busy=machine.busy,
            jobs_done=machine.jobs_done,
            clients=[session.peer for session in machine.sessions.values()],
            computations=[
                computation.name
                for session in machine.sessions.values()
                for computation in session.computations.values()
            ],
            stopping=machine.leaving is not None,
        )


async def run_node(
    settings: NodeSettings,
    outside: Outside,
    *,
    task_status: trio.TaskStatus[NodeControl] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until cancelled or told to end. Reports the handles that it has as started.

    Raises:
        PortInUse: names the port.
        LocalError: the settings can't be met; says which.
    """
    slots = slots_of(settings.cpus, outside.processors)
    if slots > outside.most_workers:
        slots = outside.most_workers
        log.warning(
            "this node runs no more than %d jobs at a time: that is what its limit of open files"
            " has room for; raise it with ulimit -Hn",
            slots,
        )
    # Jobs and results are many short-lived objects in no cycles: looking for cycles among them
    # every few hundred costs more than it finds.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    name = settings.name or platform.node()
    listener = await outside.net.listen(settings.host, settings.port)
    host, port = listener.address
    resources = dict(settings.resources)
    if settings.gpus:
        resources["gpus"] = settings.gpus
    machine = NodeMachine(
        name,
        platform.platform(),
        slots=slots,
        resources=resources,
        slot_threads=max(1, outside.processors // slots),
        most_workers=outside.most_workers,
    )
    incarnation = outside.draw_token(32)
    async with trio.open_nursery() as services, trio.open_nursery() as work:
        accepting = trio.CancelScope()
        places = Places(outside.store)
        files = FileService(outside, incarnation, host, port, places, settings.max_file_size)
        service = NodeService(
            settings,
            outside,
            machine,
            incarnation,
            work,
            files,
            places,
            accepting.cancel,
            slots,
        )
        services.start_soon(service.host.run_timer, e.Tick())
        services.start_soon(service.forget_absent_clients)
        outside.spawner.prepare()
        task_status.started(service.control(host, port))
        try:
            with accepting:
                while True:
                    work.start_soon(service.serve, await listener.accept())
        finally:
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await listener.aclose()
                await service.stop()
            outside.spawner.close()
            work.cancel_scope.cancel()
            services.cancel_scope.cancel()
