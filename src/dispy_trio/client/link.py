"""One node as a client sees it: a session that is dialled, kept, and dialled again."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import define, evolve, field

from dispy_trio import messages, seams
from dispy_trio.client.troubles import Troubles, is_for_good
from dispy_trio.compute.packaging import (
    Parts,
    map_private,
    rewrite_segment,
    split_parts,
    write_segment,
)
from dispy_trio.core import events as e
from dispy_trio.core.aside import seconds_left
from dispy_trio.core.cluster import ClusterEvent
from dispy_trio.errors import ConnectionLost, DispyError, LocalError, ProtocolError
from dispy_trio.logs import log
from dispy_trio.models import Job, Outcome
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.runtime.peer import MISSED_PULSES, Peer, dial_connection
from dispy_trio.runtime.segments import offer, open_segment
from dispy_trio.texts import fit_note, to_bytes

__all__ = ["NodeLink"]

FIRST_RETRY = 0.1
LAST_RETRY = 5.0
"""Seconds between attempts to reach a node: doubled each time, up to this."""
ODD_LIMIT = 3
"""Sessions in a row that a node may break the protocol in before its jobs are given up."""
SPARE_SEGMENTS = 4
"""Memory files kept for large arguments: fresh pages cost more than copying into old ones."""
KEPT_OUTPUT = 1024 * 1024
"""Bytes of output from which it stays in the memory that it came in, until it is looked at."""


@define(eq=False)
class NodeLink:
    """Keeps the session with one node."""

    key: str
    host: str
    port: int
    net: seams.Net
    secret: bytes = field(repr=False)
    pulse_interval: float
    make_hello: Callable[[Role, Kind], Hello]
    draw_token: Callable[[int], str]
    feed: Callable[[ClusterEvent], None]
    troubles: Troubles
    """Shared with the other nodes of the cluster."""
    awaits: Callable[[int, int], bool]
    """Is that job, in that attempt, awaited from this node?"""
    on_offer: Callable[[messages.FileOffered], None]
    """A job on this node has a file for us."""
    watch_now: bool = False
    """Its status is needed to decide whether to use it."""
    _peer: Peer | None = None
    _leaving: trio.Event = field(factory=trio.Event)
    _gone: trio.Event = field(factory=trio.Event)
    """The session has ended."""
    _was_there: bool = False
    _since: float | None = None
    """When the session that ended last had begun, if it had."""
    _odd: int = 0
    """Sessions in a row in which the node broke the protocol."""
    _next_blob: int = 1
    _neighbour: int = 0
    """Process id of a node on this machine that shares segments with us."""
    _offered: int = -1
    _lent: dict[int, tuple[int, bool]] = field(factory=dict)
    """Job to segment, and whether it can be used again."""
    _spare: list[int] = field(factory=list)
    _received: dict[int, memoryview] = field(factory=dict)
    """Blobs of results that are complete."""
    _held: list[messages.JobsFinished] = field(factory=list)
    """Results whose blobs are not complete."""
    _state: messages.SessionState | None = None
    """The first part of what the node has told first, while more follows."""
    _held_news: list[messages.JobProvisional] = field(factory=list)
    """Provisional results whose blobs are not complete."""

    # --- sending -------------------------------------------------------------------------------
    def send(self, message: messages.Message) -> None:
        """Send now, or never: after a lost connection the core settles what was not sent."""
        if self._peer is None:
            return
        if isinstance(message, messages.OpenComputation):
            self._open(self._peer, message)
        else:
            self._peer.send_nowait(message)

    def _open(self, peer: Peer, message: messages.OpenComputation) -> None:
        options = message.options
        bundle, arguments = message.bundle, options.arguments
        if len(bundle) + len(arguments) > messages.BULK_THRESHOLD:
            # Setup's arguments are of a user's size, as the bundle is.
            message = evolve(
                message,
                bundle=b"",
                blob=self._take_blob(),
                options=evolve(options, arguments=b""),
                arguments_size=len(arguments),
            )
        try:
            peer.send_or_raise(message)
        except LocalError as exc:
            self._on_unsendable(message, str(exc))
            return
        if message.blob:
            peer.send_blob_nowait(message.blob, [memoryview(bundle), memoryview(arguments)])

    def try_send(self, message: messages.Message) -> bool:
        """Send from the user's thread; False when only the engine's can."""
        return self._peer is not None and self._peer.try_send(message)

    def lead(
        self,
        take: Callable[[messages.JobsFinished], None],
        later: Callable[..., None],
        done: Callable[[], bool],
        seconds: float,
    ) -> None:
        """Read for results on the user's thread; see `Peer.lead`.

        Args:
            take: is given small results.
            later: calls a function with its arguments on the engine's thread.
            done: has the awaited job ended?
            seconds: how long to try.
        """
        peer = self._peer
        if peer is None:
            return

        def take_or_leave(message: messages.Message) -> bool:
            small = isinstance(message, messages.JobsFinished) and not (
                message.blobs or message.segments
            )
            if small:
                take(message)  # type: ignore[arg-type]  # mypy can't see through `small`
            else:
                later(peer.handle_later, message, self._on_message)
            return small

        try:
            peer.lead(take_or_leave, done, seconds)
        except DispyError as exc:
            # The session's own thread ends it; the caller waits for his job as ever.
            later(peer.fail, exc)
        except Exception as exc:
            later(peer.fail, peer.blame("results", exc))

    @property
    def is_backed_up(self) -> bool:
        return self._peer is not None and self._peer.is_backed_up

    def flush(self) -> None:
        """Have written what `try_send` could not."""
        if self._peer is not None:
            self._peer.flush()

    def end_lead(self) -> None:
        """Results are for the engine's thread to read again."""
        if self._peer is not None:
            self._peer.end_lead()

    def send_bulk_job(self, computation: int, job: Job) -> None:
        """Send a job whose arguments are `Parts`."""
        if self._peer is None:
            return
        parts: Parts = job.payload
        number, attempt = job.number, job.attempt
        conditions = None if job.extras is None else job.extras.options.conditions
        blob, segment = 0, -1
        if self._neighbour:
            segment = self._lend(number, parts)
        else:
            blob = self._take_blob()
        left = seconds_left(job, trio.current_time())
        message = messages.RunBulkJob(
            computation, number, attempt, blob, parts.sizes, segment, conditions, left
        )
        try:
            self._peer.send_or_raise(message)
        except LocalError as exc:
            self._on_unsendable(message, str(exc))
            return
        if blob:
            self._peer.send_blob_nowait(blob, parts.padded())

    def _on_unsendable(self, message: messages.Message, reason: str) -> None:
        """No node would take it: whoever waits for what it asks for is told so, as by the node."""
        log.error("node %s: a message was not sent: %s", self.key, reason)
        answer: messages.Message
        match message:
            case (
                messages.RunJobs(numbers=[number], attempts=[attempt])
                | messages.RunBulkJob(number=number, attempt=attempt)
            ):
                text = fit_note(f"it could not be sent: {reason}")
                answer = messages.JobsFinished(
                    [number],
                    [attempt],
                    [Outcome.REFUSED],
                    [0.0],
                    [0.0],
                    [to_bytes(text)],
                    {},
                    {},
                    {},
                )
            case messages.OpenComputation(computation=number):
                text = f"the computation could not be sent: {reason}"
                answer = messages.ComputationFailed(number, text)
            case _:
                return
        self.feed(e.MessageReceived(self.key, answer))

    def _lend(self, number: int, parts: Parts) -> int:
        """A segment with these parts, an old one if there is one."""
        if parts.copied and self._spare:
            segment = self._spare.pop()
            rewrite_segment(segment, parts.buffers)
        else:
            segment = write_segment(parts.buffers)
        self._lent[number] = (segment, parts.copied)
        return segment

    def take_back(self, number: int) -> None:
        """A job has ended: the segment it was lent can be used for another, or goes."""
        segment, reusable = self._lent.pop(number, (-1, False))
        if reusable and len(self._spare) < SPARE_SEGMENTS:
            self._spare.append(segment)
        elif segment >= 0:
            os.close(segment)

    def _take_blob(self) -> int:
        self._next_blob += 1
        return self._next_blob - 1

    async def leave(self) -> None:
        """Leave for good; waits until the goodbye is out."""
        self._leaving.set()
        if self._peer is not None:
            self._peer.close("the cluster is closed")
            await self._gone.wait()

    # --- receiving -----------------------------------------------------------------------------
    def _on_message(self, message: messages.Message) -> None:
        if isinstance(message, messages.AnswerSegments):
            self._neighbour = message.process
            self._withdraw_offer()
        elif isinstance(message, messages.JobsFinished) and message.segments:
            for index, number in enumerate(message.numbers):
                if number in message.segments:
                    descriptor, sizes = message.segments[number]
                    segment = open_segment(self._neighbour, descriptor)
                    try:
                        _take_parts(message, index, map_private(segment), sizes)
                    finally:
                        os.close(segment)
            self.feed(e.MessageReceived(self.key, message))
        elif isinstance(message, messages.JobsFinished) and message.blobs:
            self._held.append(message)
            self._release_held()
        elif isinstance(message, messages.JobProvisional):
            self._held_news.append(message)
            self._release_news()
        elif isinstance(message, messages.FileOffered):
            self.on_offer(message)
        else:
            self.feed(e.MessageReceived(self.key, message))

    def _make_room(self, blob: int, size: int) -> memoryview:
        # Pages of it are had as bytes arrive: who only says a size gets nothing.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        return memoryview(mmap.mmap(-1, size, flags=private)) if size else memoryview(b"")

    def _on_blob(self, blob: int, memory: memoryview) -> None:
        self._received[blob] = memory
        self._release_held()
        self._release_news()

    def _release_held(self) -> None:
        """Hand on the results whose blobs are here: only then may the node forget them."""
        still: list[messages.JobsFinished] = []
        for message in self._held:
            if any(blob not in self._received for blob, _ in message.blobs.values()):
                still.append(message)
                continue
            for index, number in enumerate(message.numbers):
                if number in message.blobs:
                    blob, sizes = message.blobs[number]
                    _take_parts(message, index, self._received.pop(blob), sizes)
            self.feed(e.MessageReceived(self.key, message))
        self._held = still

    def _release_news(self) -> None:
        """Hand on the provisional results that are complete, in order, and say so to the node."""
        while self._held_news:
            message = self._held_news[0]
            if message.blob:
                if message.blob not in self._received:
                    return
                payload = bytes(self._received.pop(message.blob))
                message = evolve(message, payload=payload)
            del self._held_news[0]
            taken = self.awaits(message.number, message.attempt)
            self.feed(e.MessageReceived(self.key, message))
            self.send(messages.AckProvisional(message.request, taken))

    async def dial_files(self) -> seams.ByteStream:
        """Open a connection for files.

        Raises:
            ConnectError, ConnectionLost, AuthenticationError: the node is not there.
        """
        hello = self.make_hello(Role.CLIENT, Kind.FILE)
        stream, _ = await dial_connection(self.net, self.host, self.port, self.secret, hello)
        return stream

    # --- the life of the session ---------------------------------------------------------------
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the session until `leave`. An unreachable node is retried for ever."""
        retry = FIRST_RETRY
        lost_since: float | None = None
        while not self._leaving.is_set():
            try:
                await self._one_session()
                if self._leaving.is_set():
                    return
                reason = "it said goodbye"
                self._tell(reason)
                self.feed(e.NodeLost(self.key, reason))
                retry = FIRST_RETRY
                lost_since = None
            except DispyError as exc:
                reason = str(exc)
                if self._tell(reason):
                    retry = FIRST_RETRY
                if self._since is not None or isinstance(exc, ConnectionLost):
                    self._odd = self._odd + 1 if isinstance(exc, ProtocolError) else 0
                    if self._odd < ODD_LIMIT:
                        self.feed(e.NodeDisconnected(self.key, reason))
                    else:
                        self.feed(e.NodeLost(self.key, reason))
                    lost_since = trio.current_time()
                elif is_for_good(exc):
                    self.feed(e.NodeLost(self.key, reason, for_good=True))
                    self._was_there = False
                    lost_since = None
                else:
                    now = trio.current_time()
                    if not self._was_there:
                        # Nobody need wait for it to decide anything.
                        self.feed(e.NodeLost(self.key, reason))
                    # Nobody listens there any more, or nobody came back in time.
                    refused = "refused" in reason
                    patience = MISSED_PULSES * self.pulse_interval
                    if lost_since is not None and (refused or now - lost_since > patience):
                        self.feed(e.NodeLost(self.key, reason))
                        lost_since = None
            if self._leaving.is_set():
                return
            await trio.sleep(retry)
            retry = min(2 * retry, LAST_RETRY)

    def _tell(self, reason: str) -> bool:
        """There is no session any more, or still none; did the last one work for a while?

        One that breaks each time at once is not dialled ten times a second, nor told of each time.
        """
        lasted = self._since is not None and trio.current_time() - self._since > LAST_RETRY
        if lasted:
            self.troubles.forget(self.key)
        self.troubles.note(self.key, reason)
        return lasted

    async def _one_session(self) -> None:
        self._since = None
        hello = self.make_hello(Role.CLIENT, Kind.CONTROL)
        stream, theirs = await dial_connection(self.net, self.host, self.port, self.secret, hello)
        name = f"node {self.key}"
        peer = Peer(name, theirs, self.pulse_interval, stream)
        peer.on_unsendable = self._on_unsendable
        failure: DispyError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._open_bulk, peer, theirs)
            try:
                await peer.run(
                    lambda message: self._first_or_later(peer, theirs, message),
                    self._make_room,
                    self._on_blob,
                )
            except DispyError as exc:
                failure = exc  # Raised below: a nursery would wrap it into a group.
            finally:
                self._forget_session()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _forget_session(self) -> None:
        self._peer = None
        self._state = None
        self._received.clear()
        self._held.clear()
        self._held_news.clear()
        self._gone.set()
        self._neighbour = 0
        self._withdraw_offer()
        for segment in [*(segment for segment, _ in self._lent.values()), *self._spare]:
            os.close(segment)
        self._lent.clear()
        self._spare.clear()

    def _first_or_later(self, peer: Peer, theirs: Hello, message: messages.Message) -> None:
        if isinstance(message, messages.SessionState):
            if self._peer is peer:
                raise ProtocolError(f"{peer.name} tells its state a second time")
            if self._state is not None:
                message = evolve(
                    message,
                    numbers=[*self._state.numbers, *message.numbers],
                    attempts=[*self._state.attempts, *message.attempts],
                )
            if message.more:
                self._state = message
                return
            self._peer = peer
            self._gone = trio.Event()
            self._was_there = True
            self._since = trio.current_time()
            self.troubles.mend(self.key)
            self._offer_segments(peer)
            peer.send_nowait(messages.WatchNode(self.pulse_interval, self.watch_now))
            self.feed(e.NodeConnected(self.key, theirs.identity, message))
        else:
            self._on_message(message)

    def _offer_segments(self, peer: Peer) -> None:
        token = bytes.fromhex(self.draw_token(32))
        self._offered = offer(token)
        peer.send_nowait(messages.OfferSegments(os.getpid(), self._offered, token))

    def _withdraw_offer(self) -> None:
        if self._offered >= 0:
            os.close(self._offered)
            self._offered = -1

    @trio.lowlevel.enable_ki_protection
    async def _open_bulk(self, peer: Peer, theirs: Hello) -> None:
        hello = self.make_hello(Role.CLIENT, Kind.BULK)
        try:
            stream, again = await dial_connection(
                self.net, self.host, self.port, self.secret, hello
            )
        except DispyError as exc:
            peer.fail(ConnectionLost(f"{peer.name}: no bulk connection: {exc}"))
            return
        if again.identity != theirs.identity:
            await stream.aclose()
            peer.fail(ConnectionLost(f"{peer.name} was restarted"))
            return
        if not peer.attach_bulk(stream):
            await stream.aclose()


def _take_parts(
    message: messages.JobsFinished, index: int, memory: memoryview, sizes: Sequence[int]
) -> None:
    """Give a result what came beside its message: its payload, unless that is there, and output.

    Sizes that a job has made up are about that job alone.
    """
    payloads: list[Any] = message.payloads
    try:
        *payload, stdout, stderr = split_parts(memory, sizes)
    except ValueError as exc:
        message.outcomes[index] = Outcome.UNPICKLABLE
        payloads[index] = to_bytes(fit_note(f"what the job returned can't be read: {exc}"))
        return
    if not payloads[index]:
        payloads[index] = payload
    if stdout or stderr:
        outputs: dict[int, Any] = message.outputs
        outputs[message.numbers[index]] = (_keep(stdout), _keep(stderr))


def _keep(output: memoryview) -> bytes | memoryview:
    """Little output is not to hold on to the memory of a large result."""
    return output if len(output) > KEPT_OUTPUT else bytes(output)
