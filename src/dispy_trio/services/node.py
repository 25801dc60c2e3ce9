"""A node: runs the jobs of its clients. This is its wiring; what it decides is `core.node`.

Three nested nurseries, outermost first: *services* (the machine's timer), *work* (one task per
connection, one per template), *accepting* (the listener). To stop is to cancel *accepting*, close
the templates, and leave.
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
from attrs import define, evolve, field

from dispy_trio import messages, seams
from dispy_trio.config import NodeSettings
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import NodeMachine, NodeMachineEvent, TemplateReport
from dispy_trio.core.sessions import NodeJob
from dispy_trio.core.slots import thread_variables
from dispy_trio.errors import ConnectError, DispyError, LocalError, ProtocolError, RemoteError
from dispy_trio.models import Outcome
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.protocol.codec import encode
from dispy_trio.runtime.host import Host
from dispy_trio.runtime.peer import Peer, accept_connection
from dispy_trio.runtime.segments import (
    can_open,
    check_parts,
    content_of,
    map_segment,
    open_segment,
)
from dispy_trio.services.control import NodeControl, NodeReport
from dispy_trio.services.files import FileService
from dispy_trio.services.knocks import MINUTE, Knocks
from dispy_trio.services.outside import Outside
from dispy_trio.services.places import Key, Places
from dispy_trio.texts import NOTE_LIMIT, fit_note, readable, to_bytes

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
LEAST_INTERVAL = 0.1
"""Seconds between two statuses for one client."""


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
    """A computation's process."""

    options: messages.ComputationOptions
    template: seams.Template | None = None
    starting: bool = True
    """Whoever starts it closes it, should it be closed meanwhile."""
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
class _Watch:
    """How a client wants to be told what is free; one task serves all that it ever says."""

    interval: float
    now: bool
    changed: trio.Event = field(factory=trio.Event)

    def change(self, message: messages.WatchNode) -> None:
        self.interval = message.interval
        self.now = self.now or message.now
        self.changed.set()


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
    _knocks: Knocks = field(factory=Knocks)
    _peers: dict[str, Peer] = field(factory=dict)
    _neighbours: dict[str, int] = field(factory=dict)
    """Session to process id, of the clients on this machine that share segments with us."""
    _computations: dict[Key, _Computation] = field(factory=dict)
    _incoming: dict[tuple[str, int], _Incoming] = field(factory=dict)
    _last: Key | None = None
    """Its cleanup has ended the node: when it is closed."""
    _served: int = 0
    """Clients that have come."""
    _provisional: dict[tuple[str, int], trio.Event] = field(factory=dict)
    """Provisional results that clients have not acknowledged, by session and request."""
    _refused: set[tuple[str, int]] = field(factory=set)
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
                    peer.send_blob_nowait(blob, [content_of(segments[blob])])
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
            case c.OpenTemplate(session=session, computation=number, options=options):
                # Before its task runs: that of its end may be the first of the two.
                computation = self._computations[session, number] = _Computation(options)
                self.work.start_soon(self._open_template, command, computation)
            case c.CloseTemplate(session=session, computation=number, release=release):
                self.work.start_soon(self._close_template, (session, number), release)
            case c.ForgetClient(session=session, text=text):
                log.warning("%s", text)
                self.work.start_soon(self._release_unused_places, session)
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
            # It comes from memory that the job itself can write to.
            if started == job.sequence and abs(when) < 1e18:
                numbers.append(job.number)
                attempts.append(job.attempt)
                starts.append(when)
            elif started < job.sequence:
                self.host.feed(e.JobUnstarted(session, job.computation, job.worker, job.sequence))
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
        return _host_of(known.peer) if known is not None else "127.0.0.1"

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
            output_limit=max(0, options.output_limit),
            # What the node's own user has chosen counts more.
            environment={k: v for k, v in threads.items() if k not in os.environ},
        )

    async def _open_template(self, command: c.OpenTemplate, computation: _Computation) -> None:
        key = (command.session, command.computation)
        options = command.options

        def report(event: seams.TemplateEvent) -> None:
            if isinstance(event, seams.WorkerCall):
                self.work.start_soon(self._answer, key, event)
                return
            if isinstance(event, seams.TemplateReady):
                computation.is_set_up = True
            self.host.feed(TemplateReport(*key, event))

        try:
            client = self._client_host(command.session)
            directory = (await self.places.open(key, client, options.dest_path)).directory
            settings = self._template_settings(directory, command.session, options)
            computation.template = await self._start_template(
                command, computation, settings, report
            )
        except Exception as exc:
            if not computation.closing:
                if not isinstance(exc, (OSError, DispyError)):
                    log.error("a computation can't be started: %s", exc, exc_info=exc)
                report(seams.TemplateFailed(f"node {self.machine.name} can't start it: {exc}"))
        computation.starting = False
        if computation.closing:
            await self._close_template(key, computation.release)

    async def _start_template(
        self,
        command: c.OpenTemplate,
        computation: _Computation,
        settings: seams.TemplateSettings,
        report: Callable[[seams.TemplateEvent], None],
    ) -> seams.Template | None:
        """Start the process; None when the computation was closed before there was room for it."""
        open_template = self.outside.spawner.open_template
        for delay in START_AGAIN:
            if computation.closing:
                return None
            try:
                return await open_template(command.bundle, settings, report, self.work)
            except OSError as exc:
                if exc.errno not in SHORTAGE:
                    raise
                log.warning("a computation can't be started now, which is tried again: %s", exc)
            self.host.feed(e.TemplateRefused(command.session, command.computation))
            await trio.sleep(delay)
        if computation.closing:
            return None
        return await open_template(command.bundle, settings, report, self.work)

    async def _close_template(self, key: Key, release: bool) -> None:
        computation = self._computations.get(key)
        if computation is not None and computation.starting:
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
        if (closed := self._computations.pop(key, None)) is not None:
            closed.template = None  # They know each other, and such a circle would stay.
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
        self.files.forget(key)
        await self.places.release(key, keep=keep)

    async def _release_unused_places(self, session: str) -> None:
        """Remove files that came for computations that never did."""
        for key in self.places.of_session(session):
            if key not in self._computations:
                await self._release_place(key, keep=False)

    # --- what jobs ask -------------------------------------------------------------------------
    async def _answer(self, key: Key, call: seams.WorkerCall) -> None:
        """A job asks for something; what goes wrong is the job's to hear."""
        if call.kind == "shut_down":
            self._shut_down_for_client(key)
            return
        computation = self._computations.get(key)
        if computation is None or (template := computation.template) is None:
            return
        try:
            body = await self._do_for_job(key, call)
        except (DispyError, OSError) as exc:
            body = {"error": fit_note(str(exc))}
        except Exception as exc:
            # One job's odd wish is no reason to end those of others.
            log.warning("a job's %r could not be done", call.kind, exc_info=exc)
            body = {"error": fit_note(f"{call.kind}: {type(exc).__name__}: {exc}")}
        template.answer(call.worker, call.call, body)

    async def _do_for_job(self, key: Key, call: seams.WorkerCall) -> dict[str, Any]:
        if (place := self.places.get(key)) is None:
            raise RemoteError("the computation is closed")
        match call.kind, call.body:
            case "log", {"level": int(level), "text": str(text)}:
                # What follows on further lines is seen to be the job's, too.
                jobs_log.log(level, "a job says: %s", "\n    ".join(readable(text).splitlines()))
                return {}
            case "progress", {"fraction": int() | float() as fraction, "text": str(text)}:
                peer, job = self._client_of(key, call)
                peer.send_or_raise(
                    messages.JobProgress(job.number, job.attempt, float(fraction), text)
                )
                return {}
            case "provisional_result", {"timeout": int() | float() as timeout}:
                await self._send_provisional(key, call, _patience(timeout))
                return {}
            case "send_file", {"path": str(path), "timeout": int() | float() as timeout}:
                peer, job = self._client_of(key, call)
                await self.files.offer(
                    peer.send_or_raise, place, job.number, path, _patience(timeout)
                )
                return {}
            case _:
                client = self._client_host(key[0])
                return await self.files.answer(key, client, place, call.kind, call.body)

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
        small = len(call.data) <= messages.BULK_THRESHOLD
        blob = 0 if small else self.machine.next_blob()
        payload = call.data if small else b""
        peer.send_or_raise(messages.JobProvisional(job.number, job.attempt, request, payload, blob))
        if blob:
            peer.send_blob_nowait(blob, [memoryview(call.data)])
        mark = (key[0], request)
        taken = self._provisional[mark] = trio.Event()
        try:
            with trio.move_on_after(timeout):
                await taken.wait()
            if not taken.is_set():
                raise RemoteError(f"the client did not take the result within {timeout:g} s")
            if mark in self._refused:
                raise RemoteError("the client does not wait for this job any more")
        finally:
            del self._provisional[mark]
            self._refused.discard(mark)

    def _shut_down_for_client(self, key: Key) -> None:
        if self.settings.client_shutdown:
            log.warning("client %s ends this node", self._client_host(key[0]))
            self._last = key
        else:
            log.warning("a client wants to end this node, which needs --client-shutdown")

    # --- connections ---------------------------------------------------------------------------
    async def serve(self, stream: seams.ByteStream) -> None:
        """One connection, from its first byte to its last: nothing it does hurts another."""
        try:
            await self._serve(stream)
        except Exception as exc:
            # An error of our own, or of the system: this connection ends, and no other.
            await self._drop_connection(stream, exc)  # noqa: ASYNC120 - shielded there
        except BaseExceptionGroup as group:
            # The node is being ended meanwhile, and goes on with that.
            ours, others = group.split(Exception)
            if ours is not None and others is not None:
                log.error("an error at the end of %s", stream.peer, exc_info=ours)
                raise others from None
            raise

    async def _drop_connection(self, stream: seams.ByteStream, error: Exception) -> None:
        log.error("the connection of %s ends by an error here", stream.peer, exc_info=error)
        with trio.move_on_after(1, shield=True):
            await stream.aclose()

    async def _serve(self, stream: seams.ByteStream) -> None:
        theirs = await self._authenticate(stream)
        if theirs is None:
            return
        if theirs.kind == Kind.BULK:
            peer = self._peers.get(theirs.identity)
            if peer is None or not peer.attach_bulk(stream):
                await stream.aclose()
        elif theirs.kind == Kind.FILE:

            def is_known() -> bool:
                return theirs.role == Role.CLIENT and theirs.identity in self._peers

            try:
                await self.files.serve(stream, theirs, is_known)
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
            self._tell_refusal(stream.peer.rpartition(":")[0], exc)
        finally:
            del self._handshakes[scope]
        return theirs

    def _tell_refusal(self, host: str, exc: DispyError) -> None:
        source = self._knocks.refused(host)
        # Who starts us for itself may end at any moment, and says why.
        broken_off = self.settings.embedded and isinstance(exc, ConnectError)
        level = logging.DEBUG if source is None or broken_off else logging.WARNING
        # As text: whoever keeps records would keep the error, and with it the connection.
        log.log(level, "refused a connection: %s", str(exc))
        if source is not None:
            self.work.start_soon(self._count_refusals, source)

    async def _count_refusals(self, source: str) -> None:
        """Tell each minute how many more there were, until there are none."""
        count = -1
        while count:
            await trio.sleep(MINUTE)
            if count := self._knocks.end_minute(source):
                several = "connection" if count == 1 else "connections"
                log.warning("refused %d more %s of %s within a minute", count, several, source)

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
        peer.on_unsendable = lambda message, why: _send_instead(peer, message, why)
        if (old := self._peers.get(session)) is not None:
            old.close("the same session came again")
        self._peers[session] = peer
        self.host.feed(e.SessionConnected(session, stream.peer))
        # As text: an error has this frame in its traceback, and all that came over the connection.
        reason: str | None = None
        try:
            async with trio.open_nursery() as nursery:
                watching: _Watch | None = None

                def watch(message: messages.WatchNode) -> None:
                    nonlocal watching
                    if watching is None:
                        watching = _Watch(message.interval, message.now)
                        nursery.start_soon(self._report_status, session, peer, watching)
                    else:
                        watching.change(message)

                try:
                    await peer.run(
                        lambda message: self._on_message(session, peer, message, watch),
                        lambda blob, size: self._make_room(session, blob, size),
                        lambda blob, _memory: self._on_blob(session, blob),
                    )
                except DispyError as exc:
                    reason = str(exc)
                nursery.cancel_scope.cancel()
        except Exception as exc:
            # It is this session's alone, whatever it is: what is left of it is settled below.
            log.error("the session of %s ended by an error of ours", peer.name, exc_info=exc)
            reason = f"{peer.name}: an error of this node's own"
        if self._peers.get(session) is not peer:
            return
        del self._peers[session]
        self._neighbours.pop(session, None)
        self._drop_incoming(session)
        if reason is None:
            self.host.feed(e.SessionClosed(session))
            await self._release_unused_places(session)
        else:
            if not self.settings.embedded:  # We end with it, and it has nobody to tell.
                log.warning("lost a client: %s", reason)
            self.host.feed(e.SessionDisconnected(session))

    async def _report_status(self, session: str, peer: Peer, watch: _Watch) -> None:
        """Tell a client what is free here, as often as it wants to know, and who holds slots."""
        while True:
            watch.changed = trio.Event()
            if watch.now:
                watch.now = False
                await self._send_status(session, peer, FIRST_LOOK)
            while not watch.changed.is_set():
                with trio.move_on_after(max(LEAST_INTERVAL, watch.interval)):
                    await watch.changed.wait()
                    break
                await self._send_status(session, peer, None)

    async def _send_status(self, session: str, peer: Peer, seconds: float | None) -> None:
        try:
            status = await self.outside.read_status(seconds)
        except (OSError, RuntimeError) as exc:
            # No descriptor or no thread to be had now: the next one may be.
            log.info("no status for %s this time: %s", peer.name, exc)
            return
        holders = self.machine.holders(session, now=trio.current_time())
        peer.send_nowait(evolve(status, holders=holders))

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
            if (taken := self._provisional.get((session, message.request))) is not None:
                if not message.taken:
                    self._refused.add((session, message.request))
                taken.set()
        elif isinstance(message, messages.OfferSegments):
            agreed = can_open(message.process, message.descriptor, message.token)
            if agreed:
                self._neighbours[session] = message.process
            peer.send_nowait(messages.AnswerSegments(os.getpid() if agreed else 0))
        elif isinstance(message, messages.RunBulkJob) and message.segment >= 0:
            if (process := self._neighbours.get(session)) is None:
                raise ProtocolError(f"{peer.name} lends a segment, which was not agreed upon")
            segment = open_segment(process, message.segment)
            self._take_bulk_job(session, message, segment)
        elif isinstance(message, messages.RunBulkJob) or (
            isinstance(message, messages.OpenComputation) and message.blob
        ):
            incoming = self._incoming.setdefault((session, message.blob), _Incoming())
            incoming.message = message
            self._settle(session, message.blob, incoming)
        else:
            self.host.feed(e.MessageReceived(session, message))

    def _take_bulk_job(self, session: str, message: messages.RunBulkJob, segment: int) -> None:
        try:
            check_parts(segment, message.sizes, f"client {self._client_host(session)}")
        except ProtocolError:
            os.close(segment)
            raise
        self.host.feed(e.BulkJobReceived(session, message, segment))

    def _make_room(self, session: str, blob: int, size: int) -> memoryview:
        incoming = self._incoming.setdefault((session, blob), _Incoming())
        if incoming.segment is not None:
            raise ProtocolError(
                f"client {self._client_host(session)} sends the blob {blob} a second time"
            )
        incoming.segment, memory = self.outside.store.make_segment(size)
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
            self._take_bulk_job(session, incoming.message, segment)
            return
        bundle = map_segment(segment)
        os.close(segment)
        message = incoming.message
        if message.arguments_size > len(bundle):
            raise ProtocolError(
                f"client {self._client_host(session)} promised arguments of"
                f" {message.arguments_size} bytes in a blob of {len(bundle)}"
            )
        if message.arguments_size:
            end = len(bundle) - message.arguments_size
            arguments = bytes(bundle[end:])
            bundle = bundle[:end]
            message = evolve(message, options=evolve(message.options, arguments=arguments))
        self.host.feed(e.BundleReceived(session, message, bundle))

    def _drop_incoming(self, session: str) -> None:
        for key in [key for key in self._incoming if key[0] == session]:
            segment = self._incoming.pop(key).segment
            if segment is not None:
                os.close(segment)

    # --- life ----------------------------------------------------------------------------------
    async def stop(self) -> None:
        """Say goodbye to the clients and kill what runs."""
        for peer in list(self._peers.values()):
            peer.close("the node stops")
        async with trio.open_nursery() as closing:
            for key, computation in self._computations.items():
                computation.closing = True
                closing.start_soon(self._stop_computation, key, computation)
        self._computations.clear()

    async def _stop_computation(self, key: Key, computation: _Computation) -> None:
        keep = computation.options.keep_files and not self.settings.force_cleanup
        try:
            await self._end_template(computation)
            await self._release_place(key, keep=keep)
        except Exception as exc:
            log.error("a computation was not closed in good order: %s", exc, exc_info=exc)

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

    def _release_absent(self, client: str) -> int:
        absent = [s for s in self.machine.sessions.values() if not (s.connected or s.closed)]
        if not client:
            meant = [s for s in absent if not s.jobs]
        elif client == "all":
            meant = absent
        else:
            meant = [s for s in absent if client in (s.peer, _host_of(s.peer))]
            if not meant:
                peers = ", ".join(s.peer for s in absent)
                raise LocalError(f"no client {client} is away; away: {peers or 'none'}")
        for session in meant:
            self.host.feed(e.SessionReleased(session.key))
        return len(meant)

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
            holders=machine.holders("", now=trio.current_time()),
        )


def _patience(timeout: float) -> float:
    """Seconds that a job wants to wait.

    Raises:
        RemoteError: nobody can wait for so long.
    """
    if not timeout >= 0:
        raise RemoteError(f"timeout is {timeout}; it has to be a number of seconds, 0 or more")
    return float(timeout)


def _send_instead(peer: Peer, message: messages.Message, reason: str) -> None:
    """What a client hears instead of a message that can't be sent: it is not to wait for ever."""
    log.warning("%s is not sent what it waits for: %s", peer.name, reason)
    if isinstance(message, messages.JobsFinished):
        (number,), (attempt,) = message.numbers, message.attempts
        text = to_bytes(f"what the job left could not be sent: {reason}")[: 4 * NOTE_LIMIT]
        message = messages.JobsFinished(
            [number],
            [attempt],
            [Outcome.UNPICKLABLE],
            message.starts,
            message.ends,
            [text],
            {},
            {},
            {},
        )
        try:
            peer.send_or_raise(message)
        except LocalError as exc:
            log.error("the end of job %d can't be sent to %s: %s", number, peer.name, exc)


def _host_of(peer: str) -> str:
    return peer.rpartition(":")[0].strip("[]")


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
    resources = dict(settings.resources)
    if settings.gpus:
        resources["gpus"] = settings.gpus
    # No client could be told of what does not fit in there.
    encode(messages.SessionState(name, slots, platform.platform(), [], [], [], resources))
    listener = await outside.net.listen(settings.host, settings.port)
    host, port = listener.address
    machine = NodeMachine(
        name,
        platform.platform(),
        slots=slots,
        resources=resources,
        slot_threads=max(1, outside.processors // slots),
        zombie_seconds=settings.zombie_interval,
        ends_zombie_jobs=settings.zombie_jobs == "end",
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
        services.start_soon(outside.store.run)
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
                await outside.store.aclose()
            outside.spawner.close()
            work.cancel_scope.cancel()
            services.cancel_scope.cancel()
