"""A node: runs the jobs of its clients. This is its wiring; what it decides is `core.node`.

Three nested nurseries, outermost first: *services* (the machine's timer, forgetting clients that
stay away), *work* (one task per connection, one per template), *accepting* (the listener). To stop
is to cancel *accepting*, close the templates, and leave.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
from collections.abc import Sequence
from typing import assert_never

import trio
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.config import NodeSettings
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import NodeMachine, NodeMachineEvent, TemplateReport
from dispy_trio.errors import DispyError, LocalError
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.runtime.host import Host
from dispy_trio.runtime.peer import Peer, accept_connection
from dispy_trio.runtime.segments import can_open, map_segment, open_segment
from dispy_trio.services.files import FileService
from dispy_trio.services.outside import Outside

__all__ = ["run_node", "slots_of"]

log = logging.getLogger("dispy_trio.node")

UNAUTHENTICATED_LIMIT = 100
"""Connections that may be in their handshake at a time."""
CLOSE_GRACE = 5.0
"""Seconds for templates to be killed and reaped when the node stops."""

Key = tuple[str, int]
"""Session and computation."""


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
    template: seams.Template | None = None
    closing: bool = False


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
    host: Host[NodeMachineEvent, c.NodeCommand] = field(init=False)
    _handshakes: dict[trio.CancelScope, None] = field(factory=dict)
    """Of connections that have not proved anything yet, the oldest first."""
    _peers: dict[str, Peer] = field(factory=dict)
    _neighbours: dict[str, int] = field(factory=dict)
    """Session to process id, of the clients on this machine that share segments with us."""
    _computations: dict[Key, _Computation] = field(factory=dict)
    _incoming: dict[tuple[str, int], _Incoming] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.host = Host(self.machine, self._perform)

    # --- commands ------------------------------------------------------------------------------
    def _perform(self, command: c.NodeCommand) -> None:
        match command:
            case c.SendResults(session=session, message=message, segments=segments):
                if (peer := self._peers.get(session)) is None:
                    return
                if segments and session in self._neighbours:
                    for number, (blob, sizes) in message.blobs.items():
                        message.segments[number] = (segments[blob], sizes)
                    message.blobs.clear()
                peer.send_nowait(message)
                for blob, _ in message.blobs.values():
                    peer.send_blob_nowait(blob, [map_segment(segments[blob])])
            case c.SendJobsToWorker(session=session, computation=number, worker=worker, jobs=jobs):
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
            case c.SendStarted(session=session, jobs=started):
                self._send_started(session, started)
            case c.OpenTemplate():
                self.work.start_soon(self._open_template, command)
            case c.CloseTemplate(session=session, computation=number):
                self.work.start_soon(self._close_template, (session, number))
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
            started, when = self._template(session, job.computation).poll(job.worker)
            if started == job.sequence:
                numbers.append(job.number)
                attempts.append(job.attempt)
                starts.append(when)
        peer = self._peers.get(session)
        if numbers and peer is not None:
            peer.send_nowait(messages.JobsStarted(numbers, attempts, starts))

    async def _open_template(self, command: c.OpenTemplate) -> None:
        key = (command.session, command.computation)

        def report(event: seams.TemplateEvent) -> None:
            if isinstance(event, seams.WorkerCall):
                self.work.start_soon(self._answer, key, event)
            else:
                self.host.feed(TemplateReport(*key, event))

        try:
            directory = self.outside.store.make_directory("computation")
            computation = self._computations[key] = _Computation(directory)
            settings = seams.TemplateSettings(
                directory,
                node_name=self.machine.name,
                node_address=self.files.address,
            )
            template = await self.outside.spawner.open_template(
                command.bundle, settings, report, self.work
            )
        except (OSError, DispyError) as exc:
            report(seams.TemplateFailed(f"node {self.machine.name} can't start it: {exc}"))
            return
        computation.template = template
        if computation.closing:
            await self._close_template(key)

    async def _close_template(self, key: Key) -> None:
        computation = self._computations.get(key)
        if computation is not None and computation.template is None and not computation.closing:
            # Still being started; whoever starts it closes it.
            computation.closing = True
            return
        if computation is not None:
            if computation.template is not None:
                await computation.template.aclose()
            self.files.forget(key)
            await trio.to_thread.run_sync(
                self.outside.store.remove_directory, computation.directory
            )
            del self._computations[key]
        self.host.feed(e.TemplateClosed(*key))

    async def _answer(self, key: Key, call: seams.WorkerCall) -> None:
        """A job asks for something; what goes wrong is the job's to hear."""
        computation = self._computations.get(key)
        if computation is None or computation.template is None:
            return
        try:
            body = await self.files.answer(key, computation.directory, call.kind, call.body)
        except (DispyError, OSError) as exc:
            body = {"error": str(exc)}
        if not computation.closing:
            computation.template.answer(call.worker, call.call, body)

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
            try:
                await self.files.serve(stream)
            except (DispyError, OSError) as exc:
                log.warning("a file could not be sent: %s", exc)
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
        peer = Peer(f"client {stream.peer}", theirs, self.settings.pulse_interval, stream)
        if (old := self._peers.get(session)) is not None:
            old.close("the same session came again")
        self._peers[session] = peer
        self.host.feed(e.SessionConnected(session, stream.peer))
        reason: DispyError | None = None
        try:
            await peer.run(
                lambda message: self._on_message(session, peer, message),
                lambda blob, size: self._make_room(session, blob, size),
                lambda blob, _memory: self._on_blob(session, blob),
            )
        except DispyError as exc:
            reason = exc
        if self._peers.get(session) is not peer:
            return
        del self._peers[session]
        self._neighbours.pop(session, None)
        self._drop_incoming(session)
        if reason is None:
            self.host.feed(e.SessionClosed(session))
        else:
            log.warning("lost a client: %s", reason)
            self.host.feed(e.SessionDisconnected(session))

    def _on_message(self, session: str, peer: Peer, message: messages.Message) -> None:
        if isinstance(message, messages.OfferSegments):
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
        for computation in self._computations.values():
            computation.closing = True
            if computation.template is not None:
                await computation.template.aclose()
            self.outside.store.remove_directory(computation.directory)
        self._computations.clear()


async def run_node(
    settings: NodeSettings,
    outside: Outside,
    *,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until cancelled. Reports the address it listens on as started.

    Raises:
        PortInUse: names the port.
        LocalError: the settings can't be met; says which.
    """
    slots = slots_of(settings.cpus, outside.processors)
    # Jobs and results are many short-lived objects in no cycles: looking for cycles among them
    # every few hundred costs more than it finds.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    name = settings.name or platform.node()
    listener = await outside.net.listen(settings.host, settings.port)
    host, port = listener.address
    machine = NodeMachine(name, slots, platform.platform())
    incarnation = outside.draw_token(32)
    async with trio.open_nursery() as services, trio.open_nursery() as work:
        files = FileService(outside, incarnation, f"{host}:{port}")
        service = NodeService(settings, outside, machine, incarnation, work, files)
        services.start_soon(service.host.run_timer, e.Tick())
        services.start_soon(service.forget_absent_clients)
        outside.spawner.prepare()
        task_status.started((host, port))
        try:
            while True:
                work.start_soon(service.serve, await listener.accept())
        finally:
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await listener.aclose()
                await service.stop()
            outside.spawner.close()
            work.cancel_scope.cancel()
            services.cancel_scope.cancel()
