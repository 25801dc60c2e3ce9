"""One authenticated session with one other side: its control connection and its bulk connection.

Who owns what: `Peer.run` holds one reader and one writer per connection and the heartbeat, in one
nursery. Whatever goes wrong with either connection ends the session, as a whole and at once; it is
for the owner to dial again.

The outbox is bounded: a peer that lets more than `OUTBOX_LIMIT` bytes pile up, and takes nothing of
them for a pulse, is ended as too slow, and what was not sent is settled at the next contact, as after
any lost connection. More than that alone is no reason: all the results that wait for a client which
comes back are sent to it at once.
"""

from __future__ import annotations

import math
import select
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence

import trio
from attrs import define, field, frozen

from dispy_trio.errors import (
    ConnectError,
    ConnectionLost,
    DispyError,
    LocalError,
    OutboxFull,
    ProtocolError,
)
from dispy_trio.logs import log
from dispy_trio.messages import Goodbye, Message, Ping, Pong
from dispy_trio.protocol.auth import Hello
from dispy_trio.protocol.codec import FRAME_LIMITS, decode, encode
from dispy_trio.protocol.framing import (
    CHUNK_HEADER,
    CHUNK_LIMIT,
    ChunkHeader,
    FrameDecoder,
    encode_chunk_header,
    parse_chunk_header,
)
from dispy_trio.protocol.handshake import DiallerHandshake, Handshake, ListenerHandshake
from dispy_trio.protocol.splitting import halves
from dispy_trio.runtime.segments import Content
from dispy_trio.seams import ByteStream, Net

__all__ = ["Peer", "PeerStatistics", "accept_connection", "dial_connection"]

HANDSHAKE_TIMEOUT = 5.0
OUTBOX_LIMIT = 64 * 1024 * 1024
READ_SIZE = 256 * 1024
WRITE_SIZE = 1024 * 1024
MISSED_PULSES = 3
MOST_ARRIVING = 8
"""Blobs that may arrive at a time, each of which has a descriptor; our own come one by one."""
BULK_GRACE = 1.0
LEAD_PAUSE = 0.002
"""Seconds for which the reader keeps away after somebody else has read."""
LINGER_RUN = 16
"""Messages in a row that may be waited for without letting others run."""


async def dial_connection(
    net: Net, host: str, port: int, secret: bytes, hello: Hello
) -> tuple[ByteStream, Hello]:
    """Dial and prove who we are; return the stream and what the listener said of itself.

    Raises:
        ConnectError: nobody answers there, or not in time.
        AuthenticationError, VersionMismatch, PythonMismatch: we do not fit together.
        ProtocolError: it is no node.
    """
    stream = await net.dial(host, port)
    handshake = DiallerHandshake(hello, secret, stream.peer, stream.secure)
    await _shake_hands(stream, handshake)
    assert handshake.theirs is not None
    return stream, handshake.theirs


async def accept_connection(stream: ByteStream, secret: bytes, hello: Hello) -> Hello:
    """The listening side of `dial_connection`; closes the stream when it raises.

    Raises:
        ConnectError: the dialler said nothing in time, or left.
        AuthenticationError, VersionMismatch, PythonMismatch: we do not fit together.
        ProtocolError: it is no dialler of ours.
    """
    handshake = ListenerHandshake(hello, secret, stream.peer, stream.secure)
    await _shake_hands(stream, handshake)
    assert handshake.theirs is not None
    return handshake.theirs


async def _shake_hands(stream: ByteStream, handshake: Handshake) -> None:
    completed = False
    try:
        # Not `fail_after`: some versions of Python keep what passes through such a generator in
        # a circle with its frames, and those know the stream.
        with trio.move_on_after(HANDSHAKE_TIMEOUT) as scope:
            while True:
                if data := handshake.data_to_send():
                    await stream.send_all(data)
                if not handshake.wanted:
                    break
                buffer = bytearray(handshake.wanted)
                try:
                    count = await stream.receive_into(memoryview(buffer))
                except ConnectionLost:
                    count = 0  # The handshake knows best what a close at this point means.
                handshake.receive_data(buffer[:count])
        if scope.cancelled_caught:
            raise ConnectError(
                f"{stream.peer}: no handshake within {HANDSHAKE_TIMEOUT:.0f} s{handshake.doubt}"
            )
        if handshake.error is not None:
            raise handshake.error
        completed = True
    except ConnectionLost as exc:
        # There was no session to lose.
        raise ConnectError(f"{exc} during the handshake") from exc
    finally:
        # By its traceback the error knows this frame, and so the handshake, which knows the error:
        # the three would stay, and the stream with them, until somebody looks for such circles.
        handshake.error = None
        if not completed:
            with trio.move_on_after(1, shield=True):
                await stream.aclose()


@frozen
class PeerStatistics:
    """What a session has carried."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    outbox_bytes: int
    blobs_waiting: int
    silent_for: float
    """Seconds since the last byte from the other side."""


@define(eq=False)
class _Blob:
    """A blob on its way out."""

    number: int
    buffers: Sequence[Content]
    total: int


def _drop(message: Message, reason: str) -> None:
    """What is done with a message that can't be sent, when its owner has nothing better."""
    log.error("a message was not sent: %s", reason)


@define(eq=False)
class Peer:
    """One session; see the module's head."""

    name: str
    """For error texts."""
    hello: Hello
    """What the other side said of itself."""
    pulse_interval: float
    _control: ByteStream
    on_unsendable: Callable[[Message, str], None] = _drop
    """Called with a message that no receiver would take, and why; the session goes on without it."""
    _outbox: deque[memoryview] = field(factory=deque)
    _outbox_bytes: int = 0
    _last_taken: float = -math.inf
    """When some of it was written."""
    _writing: bool = False
    _wake_writer: trio.Event = field(factory=trio.Event)
    _bulk: ByteStream | None = None
    _bulk_attached: trio.Event = field(factory=trio.Event)
    _blobs: deque[_Blob] = field(factory=deque)
    _wake_bulk: trio.Event = field(factory=trio.Event)
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    _ended: bool = False
    _closing: bool = False
    _failure: DispyError | None = None
    _linger_until: float = 0.0
    _reading: threading.Lock = field(factory=threading.Lock)
    """Held by whoever reads the control connection and hands on what it says."""
    _led_until: float = -math.inf
    _our_turn: trio.Event = field(factory=trio.Event)
    _lead_buffer: memoryview | None = None
    _decoder: FrameDecoder = field(init=False)
    _clock: trio.abc.Clock = field(factory=trio.lowlevel.current_clock)
    _last_heard: float = math.nan
    _bytes_in: int = 0
    _bytes_out: int = 0
    _messages_in: int = 0
    _messages_out: int = 0

    def __attrs_post_init__(self) -> None:
        self._decoder = FrameDecoder(self.name, FRAME_LIMITS)

    # --- sending -------------------------------------------------------------------------------
    def send_nowait(self, message: Message) -> None:
        """Send a message; at once when nothing waits before it, without a task switch.

        After the session has ended it does nothing: the owner has been told, or is about to be.
        """
        if self._ended or self._closing:
            return
        try:
            frame = encode(message)
        except LocalError as exc:
            self._send_in_parts(message, str(exc))
            return
        self._send_frame(memoryview(frame))

    def send_or_raise(self, message: Message) -> None:
        """As `send_nowait`, for who can say himself what is to become of it.

        Raises:
            LocalError: no receiver would take it; says why.
        """
        frame = encode(message)
        if not (self._ended or self._closing):
            self._send_frame(memoryview(frame))

    def _send_in_parts(self, message: Message, reason: str) -> None:
        """It does not fit into a frame: perhaps its halves do, or all of it but one job."""
        parts = halves(message)
        if parts is None:
            self.on_unsendable(message, reason)
        else:
            for part in parts:
                self.send_nowait(part)

    def _send_frame(self, frame: memoryview) -> None:
        self._bytes_out += len(frame)
        self._messages_out += 1
        if not self._outbox and not self._writing:
            try:
                frame = frame[self._control.send_nowait(frame) :]
            except ConnectionLost as exc:
                self.fail(exc)
                return
            if not frame:
                return
            self._last_taken = trio.current_time()
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self._wake_writer.set()
        if self._outbox_bytes > OUTBOX_LIMIT and (
            trio.current_time() - self._last_taken > self.pulse_interval
        ):
            self.fail(OutboxFull(f"{self.name} reads too slowly: its outbox is full"))

    def try_send(self, message: Message) -> bool:
        """Send a message now and whole, or not at all; safe from another thread.

        For whoever holds the lock that also keeps `send_nowait` from running meanwhile.
        """
        if self._ended or self._closing or self._outbox or self._writing:
            return False
        try:
            frame = memoryview(encode(message))
            rest = frame[self._control.send_nowait(frame) :]
        except (ConnectionLost, LocalError):
            return False  # The owner's thread is to find out by itself.
        if rest:
            # The socket took a part; `flush` has to follow on the owner's thread.
            self._outbox.append(rest)
            self._outbox_bytes += len(rest)
        self._bytes_out += len(frame)
        self._messages_out += 1
        return True

    def flush(self) -> None:
        """Have the writer send what `try_send` could not."""
        self._wake_writer.set()

    @property
    def is_backed_up(self) -> bool:
        """Is anything left to be written?"""
        return bool(self._outbox)

    def send_blob_nowait(self, blob: int, buffers: Sequence[Content]) -> None:
        """Queue a blob for the bulk connection. The buffers must not change until it is sent."""
        if self._ended:
            return
        self._blobs.append(_Blob(blob, buffers, sum(len(b) for b in buffers)))
        self._wake_bulk.set()

    def fail(self, error: DispyError) -> None:
        """End the session; `run` raises this error."""
        if self._failure is None:
            self._failure = error
        self._ended = True
        self._scope.cancel()

    def close(self, reason: str) -> None:
        """Say goodbye and end the session; `run` returns."""
        self.send_nowait(Goodbye(reason))
        self._closing = True
        if self._outbox or self._writing:
            return  # The writer ends the session when the goodbye is out.
        self._ended = True
        self._scope.cancel()

    # --- the session ---------------------------------------------------------------------------
    def attach_bulk(self, stream: ByteStream) -> bool:
        """Give the session its bulk connection.

        False when it does not take it, so that the caller has to close it: the session has ended,
        or has such a connection. The latter ends it, for which of the two the other side means to
        use can't be told.
        """
        if self._bulk is not None:
            self.fail(ProtocolError(f"{self.name} opened a second bulk connection"))
        if self._ended:
            return False
        self._bulk = stream
        self._bulk_attached.set()
        return True

    async def run(
        self,
        on_message: Callable[[Message], None],
        blob_sink: Callable[[int, int], memoryview],
        on_blob: Callable[[int, memoryview], None],
    ) -> None:
        """Carry the session until it ends; returns after a goodbye, from either side.

        Args:
            on_message: called with each message, but heartbeats, which are answered here.
            blob_sink: called with a blob's number and size, gives the memory to receive it into.
            on_blob: called with a blob's number and that memory when it is complete.

        Raises:
            ConnectionLost: it broke, or the other side was silent for three pulses.
            ProtocolError: the other side does not keep to the protocol.
            OutboxFull: the other side reads too slowly.
        """
        self._last_heard = trio.current_time()
        failure: DispyError | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._heartbeat)
                    nursery.start_soon(self._carry_blobs, blob_sink, on_blob)
                    try:
                        await self._read(on_message)
                    except DispyError as exc:
                        # Not through the nursery: the errors of the tasks that it cancels would
                        # hang on its frame, and hold what came, until garbage is collected.
                        failure = exc
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = _only_ours(group)
        finally:
            self._ended = True
            self.on_unsendable = _drop  # We may be in it ourselves, and such a circle would stay.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                with self._reading:  # Who leads sees that it has ended, within its time.
                    await self._control.aclose()
                if self._bulk is not None:
                    await self._bulk.aclose()
        if failure is not None:
            _clear_frames(failure)
        failure = self._failure or failure
        try:
            # Once we have said goodbye it does not matter how the connection ends.
            if failure is not None and not self._closing:
                raise failure
        finally:
            # It has this frame in its traceback, and would wait for the collector of garbage.
            del failure

    async def _read(self, on_message: Callable[[Message], None]) -> None:
        decoder = self._decoder
        buffer = memoryview(bytearray(READ_SIZE))
        lingered = 0
        while True:
            count: int | None = None
            if self._linger_until:
                count = self._receive_lingering(buffer)
                lingered += 1
                if lingered % LINGER_RUN == 0:
                    await trio.lowlevel.checkpoint()
            if count is None:
                if self._control.descriptor is not None:
                    await self._wait_for_turn(self._control.descriptor)
                    if not self._reading.acquire(blocking=False):
                        await trio.sleep(LEAD_PAUSE / 4)  # Somebody leads after all.
                        continue
                    try:
                        count = self._control.receive_nowait(buffer)
                        if count and self._take_in(decoder, buffer[:count], on_message):
                            return
                    finally:
                        self._reading.release()
                    if count is not None and not count:
                        raise ConnectionLost(f"{self.name} closed the connection")
                    continue
                count = await self._control.receive_into(buffer)
            if not count:
                raise ConnectionLost(f"{self.name} closed the connection")
            if self._take_in(decoder, buffer[:count], on_message):
                return

    def _take_in(
        self, decoder: FrameDecoder, data: memoryview, on_message: Callable[[Message], None]
    ) -> bool:
        """Hand on the messages that are complete; True after a goodbye."""
        self._last_heard = self._clock.current_time()
        self._bytes_in += len(data)
        for kind, body in decoder.receive_data(data):
            message = decode(kind, body, self.name)
            self._messages_in += 1
            if isinstance(message, Ping):
                self.send_nowait(Pong(message.token))
            elif isinstance(message, Goodbye):
                return True
            elif not isinstance(message, Pong):
                self._hand_on(message, on_message)
        return False

    def _hand_on(self, message: Message, on_message: Callable[[Message], None]) -> None:
        """Whatever goes wrong with one message ends this session, and nobody else's.

        Raises:
            DispyError: of the owner, or one that stands for an error that is nobody's.
        """
        try:
            on_message(message)
        except DispyError:
            raise
        except Exception as exc:
            raise self.blame(f"a {type(message).__name__}", exc) from exc

    def blame(self, what: str, exc: Exception) -> ProtocolError:
        """An error that ends the session, for one that was not foreseen; it is logged."""
        log.error("%s could not be handled that came from %s", what, self.name, exc_info=exc)
        return ProtocolError(f"{self.name} sent {what} that could not be handled: {exc!r}")

    async def _wait_for_turn(self, descriptor: int) -> None:
        """Wait until there is something to read, and nobody else is about to read it."""
        while True:
            if (until := self._led_until) > trio.current_time():
                self._our_turn = trio.Event()
                with trio.move_on_at(until):
                    await self._our_turn.wait()
                continue
            try:
                await trio.lowlevel.wait_readable(descriptor)
            except trio.ClosedResourceError as exc:
                raise ConnectionLost(f"{self.name}: closed") from exc
            if self._led_until <= trio.current_time():
                return

    def lead(
        self, take: Callable[[Message], bool], done: Callable[[], bool], seconds: float
    ) -> None:
        """Read the next messages on the calling thread, which is not the session's own.

        It saves two switches of threads when that thread waits for just one message. Meanwhile
        and a moment longer the session's reader keeps away from the connection.

        Args:
            take: called with each message; False when only the session's thread can handle it,
                which it is left to do by `take`; then, and at any heartbeat, the lead ends.
            done: is what was waited for there?
            seconds: how long to try.
        """
        descriptor = self._control.descriptor
        if descriptor is None or self._ended or not self._reading.acquire(blocking=False):
            return
        try:
            now = self._clock.current_time()
            self._led_until = now + seconds + LEAD_PAUSE
            until = now + seconds
            while not done() and not self._ended:
                left = until - self._clock.current_time()
                if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                    break
                if not self._read_leading(take):
                    break
        finally:
            self._led_until = self._clock.current_time() + LEAD_PAUSE
            self._reading.release()

    def _read_leading(self, take: Callable[[Message], bool]) -> bool:
        if self._lead_buffer is None:
            self._lead_buffer = memoryview(bytearray(READ_SIZE))
        count = self._control.receive_nowait(self._lead_buffer)
        if not count:
            return False  # Nothing, or the end: the reader finds out by itself.
        self._last_heard = self._clock.current_time()
        self._bytes_in += count
        go_on = True
        for kind, body in self._decoder.receive_data(self._lead_buffer[:count]):
            self._messages_in += 1
            go_on = take(decode(kind, body, self.name)) and go_on
        return go_on

    def end_lead(self) -> None:
        """Nobody will lead next: have the reader read again at once."""
        self._led_until = -math.inf
        self._our_turn.set()

    def handle_later(self, message: Message, on_message: Callable[[Message], None]) -> None:
        """What `lead` left to the session's own thread."""
        if isinstance(message, Ping):
            self.send_nowait(Pong(message.token))
        elif isinstance(message, Goodbye):
            self._ended = True
            self._scope.cancel()
        elif not isinstance(message, Pong):
            try:
                self._hand_on(message, on_message)
            except DispyError as exc:
                self.fail(exc)

    def linger(self, seconds: float) -> None:
        """Look for the next message without sleeping, once, for at most that many seconds.

        Everybody else waits meanwhile, so it is for moments when nobody else has anything to do.
        """
        self._linger_until = trio.current_time() + seconds

    def _receive_lingering(self, buffer: memoryview) -> int | None:
        until, self._linger_until = self._linger_until, 0.0
        before = -math.inf
        while (count := self._control.receive_nowait(buffer)) is None:
            now = trio.current_time()
            # A mock clock stands still for as long as we look at it.
            if now > until or now == before:
                break
            before = now
        return count

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        while True:
            while self._outbox:
                # Everything that waits goes out in one piece.
                whole = b"".join(self._outbox) if len(self._outbox) > 1 else self._outbox[0]
                batch = memoryview(whole)
                # In this order: `try_send` looks from another thread.
                self._writing = True
                self._outbox.clear()
                try:
                    while batch:
                        await self._control.send_all(batch[:WRITE_SIZE])
                        self._outbox_bytes -= len(batch[:WRITE_SIZE])
                        self._last_taken = trio.current_time()
                        batch = batch[WRITE_SIZE:]
                finally:
                    self._writing = False
            if self._closing:
                self._scope.cancel()
            self._wake_writer = trio.Event()
            await self._wake_writer.wait()

    @trio.lowlevel.enable_ki_protection
    async def _heartbeat(self) -> None:
        """Ping when we heard nothing, and also when we said nothing: while a large message is on
        its way to us, the other side's own pings wait behind it, and it hears from us alone."""
        token = 0
        said = self._messages_out
        patience = MISSED_PULSES * self.pulse_interval
        next_ping = trio.current_time() + self.pulse_interval
        while True:
            due = min(next_ping, self._last_heard + patience)
            await trio.sleep_until(due)
            now = trio.current_time()
            if now - due > self.pulse_interval:
                # It is us who were away: suspended, stopped or overloaded. What the other side
                # sent meanwhile is still to be read.
                self._last_heard = now
            if now >= self._last_heard + patience:
                silent = now - self._last_heard
                raise ConnectionLost(f"{self.name}: no sign of life for {silent:.1f} s")
            if now >= next_ping:
                next_ping = now + self.pulse_interval
                heard_lately = now - self._last_heard < self.pulse_interval / 2
                if not heard_lately or said == self._messages_out:
                    token += 1
                    self.send_nowait(Ping(token))
                said = self._messages_out

    # --- blobs ---------------------------------------------------------------------------------
    @trio.lowlevel.enable_ki_protection
    async def _carry_blobs(
        self,
        blob_sink: Callable[[int, int], memoryview],
        on_blob: Callable[[int, memoryview], None],
    ) -> None:
        await self._bulk_attached.wait()
        stream = self._bulk
        assert stream is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_blobs, stream)
            await self._read_blobs(stream, blob_sink, on_blob)

    @trio.lowlevel.enable_ki_protection
    async def _write_blobs(self, stream: ByteStream) -> None:
        while True:
            while self._blobs:
                blob = self._blobs.popleft()
                if not blob.total:
                    await stream.send_all(encode_chunk_header(blob.number, 0, 0, 0))
                offset = 0
                for buffer in blob.buffers:
                    for start in range(0, len(buffer), CHUNK_LIMIT):
                        chunk = buffer[start : start + CHUNK_LIMIT]
                        header = encode_chunk_header(blob.number, blob.total, offset, len(chunk))
                        await stream.send_all(header)
                        await stream.send_all(chunk)
                        offset += len(chunk)
                self._bytes_out += blob.total
            self._wake_bulk = trio.Event()
            await self._wake_bulk.wait()

    async def _read_blobs(
        self,
        stream: ByteStream,
        blob_sink: Callable[[int, int], memoryview],
        on_blob: Callable[[int, memoryview], None],
    ) -> None:
        arriving: dict[int, tuple[memoryview, int]] = {}
        header_buffer = memoryview(bytearray(CHUNK_HEADER.size))
        while True:
            try:
                more = await self._read_exactly(stream, header_buffer)
            except ConnectionLost:
                more = False  # TLS takes an end without ceremony for an attack.
            if not more:
                # The control connection's end is what ends the session, with its goodbye perhaps
                # still unread. A bulk connection that ends alone is no way to go on.
                await trio.sleep(BULK_GRACE)
                raise ConnectionLost(f"{self.name} closed the bulk connection")
            header = parse_chunk_header(header_buffer, self.name)
            memory, received = arriving.get(header.blob, (None, 0))
            if memory is None:
                if len(arriving) >= MOST_ARRIVING:
                    raise ProtocolError(f"{self.name} began too many blobs before it ended one")
                memory = self._make_room(blob_sink, header)
            if len(memory) != header.total or header.offset != received:
                raise ProtocolError(f"{self.name} sent a chunk out of order: {header}")
            received += header.length
            if not await self._read_exactly(stream, memory[header.offset : received]):
                raise ConnectionLost(f"{self.name} closed the bulk connection inside of a blob")
            if received == header.total:
                arriving.pop(header.blob, None)
                try:
                    on_blob(header.blob, memory)
                except DispyError:
                    raise
                except Exception as exc:
                    raise self.blame("a blob", exc) from exc
            else:
                arriving[header.blob] = (memory, received)

    def _make_room(
        self, blob_sink: Callable[[int, int], memoryview], header: ChunkHeader
    ) -> memoryview:
        try:
            return blob_sink(header.blob, header.total)
        except (MemoryError, OSError, OverflowError) as exc:
            raise ProtocolError(
                f"{self.name} sends {header.total} bytes, for which there is no room: {exc}"
            ) from exc
        except DispyError:
            raise
        except Exception as exc:
            raise self.blame(f"a blob of {header.total} bytes", exc) from exc

    async def _read_exactly(self, stream: ByteStream, buffer: memoryview) -> bool:
        """Fill the buffer; False when the stream ends."""
        while buffer:
            count = await stream.receive_into(buffer)
            if not count:
                return False
            self._last_heard = trio.current_time()
            self._bytes_in += count
            buffer = buffer[count:]
        return True

    def statistics(self) -> PeerStatistics:
        """A snapshot, for monitors."""
        return PeerStatistics(
            self._bytes_in,
            self._bytes_out,
            self._messages_in,
            self._messages_out,
            self._outbox_bytes,
            len(self._blobs),
            trio.current_time() - self._last_heard,
        )


def _only_ours(group: BaseExceptionGroup[BaseException]) -> DispyError:
    """What has ended a session.

    Raises:
        BaseExceptionGroup: of what is not about the session.
    """
    ours, others = group.split(DispyError)
    try:
        if others is not None and others.split(trio.Cancelled)[1] is None:
            # The owner is cancelled: that the connection broke at that moment, as it does when
            # the other side ends us by its own end, is no news to anybody.
            raise others from None
        if ours is None or others is not None:
            raise group  # An error of the owner's callbacks.
        return _first(ours)
    finally:
        del ours, others, group


def _clear_frames(error: BaseException | None) -> None:
    """Blobs of any size hang on the frames of a traceback: they are not to wait for the collector
    of garbage, which a node seldom calls."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _first(group: BaseExceptionGroup[DispyError]) -> DispyError:
    """One cause is enough: the others follow from it."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            return _first(exc)
        return exc
    raise AssertionError("an exception group is never empty")
