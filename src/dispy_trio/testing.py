"""A network in memory, and runs that repeat exactly: whole clusters in one process, for tests.

::

    async def main() -> None:
        network = MemoryNetwork(seed=7)
        node, client = network.host("10.0.0.1"), network.host("10.0.0.2")
        listener = await node.listen("0.0.0.0", 9701)
        stream = await client.dial("10.0.0.1", 9701)
        network.cut("10.0.0.1", "10.0.0.2")

    deterministic_run(main, seed=7)

Each host is a `seams.Net`. A stream is two pipes, one each way; a pipe runs over the link from its
sender's host to its receiver's. The links, not the streams, have latency, bandwidth and faults, so
a fault hits what is open now and what is opened later.

Nothing here is a task: bytes carry the time at which they arrive, and whoever receives sleeps until
then. All order comes from lists and from the seed, never from hashes or addresses.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing
from attrs import define, field

from dispy_trio.errors import ConnectError, ConnectionLost, LocalError, PortInUse
from dispy_trio.seams import ByteStream

__all__ = [
    "Link",
    "MemoryHost",
    "MemoryListener",
    "MemoryNetwork",
    "MemoryStream",
    "deterministic_run",
    "seeded_tokens",
]

T = TypeVar("T")

BACKLOG = 256
"""Connections that wait to be accepted; a dialler beyond them gets no answer."""
DIAL_TIMEOUT = 5.0
"""Seconds, as of `runtime.net.TcpNet`."""
FIRST_PORT = 40_000
"""Ports the network chooses itself count from here."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WILDCARD = ("", "0.0.0.0", "::")


@define(eq=False)
class Link:
    """One direction between two hosts."""

    latency: float
    """Seconds."""
    jitter: float
    """Seconds added at most, drawn for each piece; order is kept."""
    bandwidth: float
    """Bytes per second."""
    up: bool = True
    """What is sent while it is down arrives after it is up again."""
    healed_at: float = -math.inf
    carried: int = 0
    """Bytes so far."""
    breaks_at: float = math.inf
    """The stream that carries this byte is reset there; once."""


@define(eq=False)
class _Pipe:
    """One direction of a stream."""

    link: Link
    back: Link
    """Carries the acknowledgements."""
    capacity: int
    """Bytes sent and not yet acknowledged, at most."""
    random: random.Random
    whole: bool
    """Pieces are never cut."""
    flying: deque[tuple[float, bytes | None]] = field(factory=deque)
    """Arrival and bytes; None is the end of the stream."""
    arrived: bytearray = field(factory=bytearray)
    sent: int = 0
    received: int = 0
    acknowledged: int = 0
    last_arrival: float = -math.inf
    ended: bool = False
    """The receiver has seen the end."""
    reader_gone: bool = False
    """Whatever still arrives is answered with a reset."""
    reset_at: float = math.inf
    """From then on the receiver finds the stream broken."""
    changed: trio.Event = field(factory=trio.Event)

    def wake(self) -> None:
        """Have everybody look again who waits for this pipe."""
        event, self.changed = self.changed, trio.Event()
        event.set()

    # --- the sender's end ----------------------------------------------------------------------
    def room(self) -> int:
        if self.back.up:
            self.acknowledged = self.received
        return self.capacity - (self.sent - self.acknowledged)

    def push(self, data: memoryview) -> int:
        """Take what there is room for."""
        room = self.room()
        # As TCP does: a window that opened by a little is not worth a piece of its own, or the
        # pieces get smaller and smaller.
        if room < min(len(data), self.capacity // 4):
            return 0
        count = min(len(data), room)
        breaks = self.link.carried + count >= self.link.breaks_at
        if breaks:
            count = int(self.link.breaks_at) - self.link.carried
            self.link.breaks_at = math.inf
        self.link.carried += count
        self.sent += count
        self.fly(bytes(data[:count]), count)
        if breaks:
            raise _BrokeHere
        return count

    def fly(self, data: bytes | None, size: int) -> None:
        link = self.link
        delay = link.latency + link.jitter * self.random.random()
        arrival = trio.current_time() + delay
        self.last_arrival = max(arrival, self.last_arrival) + size / link.bandwidth
        self.flying.append((self.last_arrival, data))
        self.wake()

    # --- the receiver's end --------------------------------------------------------------------
    def next_arrival(self) -> float:
        """When the next bytes, or a reset, get to the receiver."""
        first = self.flying[0][0] if self.flying else math.inf
        return self._not_before(min(first, self.reset_at))

    def reset_arrival(self) -> float:
        return self._not_before(self.reset_at)

    def _not_before(self, when: float) -> float:
        return max(when, self.link.healed_at) if self.link.up else math.inf

    def land(self) -> None:
        """Let arrive what is due."""
        now = trio.current_time()
        while self.flying and self._not_before(self.flying[0][0]) <= now:
            _, data = self.flying.popleft()
            if data is None:
                self.ended = True
            else:
                self.arrived += data

    def is_reset(self) -> bool:
        return self.reset_arrival() <= trio.current_time()

    def pull(self, buffer: memoryview) -> int:
        """Put what has arrived into the buffer, or a random part of it."""
        count = min(len(buffer), len(self.arrived))
        if count > 1 and not self.whole and self.random.random() < 0.5:
            count = self.random.randint(1, count)
        buffer[:count] = self.arrived[:count]
        del self.arrived[:count]
        self.received += count
        if count:
            self.wake()
        return count


class _BrokeHere(Exception):
    """The link's byte of doom was sent."""


@define(eq=False)
class MemoryStream:
    """One end of a stream."""

    peer: str
    host: MemoryHost
    other: MemoryHost
    _outward: _Pipe
    _inward: _Pipe
    secure: bytes = b""
    _closed: str = ""
    """Why we can't go on; empty while open."""

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Hand over what there is room for, or with a random network perhaps less."""
        self._check()
        view = memoryview(data)
        cuts = self._outward.random
        if not self._outward.whole and len(view) > 1 and cuts.random() < 0.25:
            view = view[: cuts.randint(0, len(view))]
        return self._push(view)

    def _push(self, view: memoryview) -> int:
        try:
            count = self._outward.push(view)
        except _BrokeHere:
            self.reset()
            raise ConnectionLost(f"{self.peer}: {self._closed}") from None
        self.answer_absence()
        return count

    def answer_absence(self) -> None:
        """When what we sent finds nobody there, a reset comes back."""
        out, back = self._outward, self._inward
        if out.reader_gone and out.sent > out.acknowledged and self.other.on:
            delay = out.link.latency + back.link.latency
            back.reset_at = min(back.reset_at, trio.current_time() + delay)
            back.wake()
            out.wake()

    def _check(self) -> None:
        if not self._closed and self._inward.is_reset():
            self._end("Connection reset by peer")
        if self._closed:
            raise ConnectionLost(f"{self.peer}: {self._closed}")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while True:
            self._check()
            view = view[self._push(view) :]
            if not view:
                return
            await self._wait(self._outward, self._inward.reset_arrival())

    def receive_nowait(self, buffer: memoryview) -> int | None:
        """Put what is there at the start of `buffer`; None when nothing is."""
        if self._closed:
            return None
        self._inward.land()
        return self._inward.pull(buffer) or None

    @property
    def descriptor(self) -> int | None:
        """None: there is none."""
        return None

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; 0 means the other end closed."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                self._check()
            self._inward.land()
            # What arrived before a reset can still be read, as from a Linux socket.
            if count := self._inward.pull(buffer):
                return count
            self._check()
            if self._inward.ended:
                return 0
            await self._wait(self._inward, self._inward.next_arrival())

    async def _wait(self, pipe: _Pipe, until: float) -> None:
        changed = pipe.changed
        with trio.move_on_at(until):
            await changed.wait()

    def _end(self, reason: str) -> None:
        self._closed = self._closed or reason
        self._inward.reader_gone = True
        self.host.forget(self)
        self._inward.wake()
        self._outward.wake()

    async def aclose(self) -> None:
        """Close at once."""
        self.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def close(self) -> None:
        """Close; the other end reads what was sent before, and can't send any more."""
        if self._closed:
            return
        self._inward.land()
        self._outward.fly(None, 0)
        self._end("closed")
        if self._inward.arrived:
            # Who closes without having read everything resets.
            self.reset()

    def reset(self) -> None:
        """Break the stream; the other end finds out after the latency."""
        arrival = trio.current_time() + self._outward.link.latency
        self._outward.reset_at = max(arrival, self._outward.last_arrival)
        self._end("Connection reset by peer")

    def wake(self) -> None:
        """Have everybody look again who waits at this end."""
        self._inward.wake()
        self._outward.wake()

    def go_silent(self) -> None:
        """End as with the power cut: the other end hears nothing, ever."""
        self._outward.flying.clear()
        self._end("the host is off")


@define(eq=False)
class MemoryListener:
    """A bound port of a host."""

    host: MemoryHost
    address: tuple[str, int]
    reaches_beyond: bool
    """False when bound to the loopback interface."""
    _arrivals: trio.MemorySendChannel[MemoryStream]
    _queue: trio.MemoryReceiveChannel[MemoryStream]

    async def accept(self) -> ByteStream:
        """Wait for the next connection."""
        try:
            return await self._queue.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as exc:
            raise ConnectionLost(f"the listener on {_text(*self.address)} is closed") from exc

    def offer(self, stream: MemoryStream) -> bool:
        """Queue a connection; False when the queue is full."""
        try:
            self._arrivals.send_nowait(stream)
        except trio.WouldBlock:
            return False
        return True

    async def aclose(self) -> None:
        """Free the port; who waited to be accepted is reset."""
        self.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def close(self) -> None:
        """As `aclose`."""
        self.host.forget_listener(self)
        while True:
            try:
                self._queue.receive_nowait().reset()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
        self._arrivals.close()


@define(eq=False)
class MemoryHost:
    """One machine of the network, as a `seams.Net`."""

    name: str
    network: MemoryNetwork
    on: bool = True
    _listeners: dict[int, MemoryListener] = field(factory=dict)
    _streams: dict[MemoryStream, None] = field(factory=dict)
    """In the order in which they were opened."""

    async def dial(self, host: str, port: int) -> ByteStream:
        """Open a stream.

        Raises:
            ConnectError: nobody listens there, or nobody answered within 5 s.
        """
        local = host in LOOPBACK or host == self.name
        target = self.network.host(self.name if local else host)
        there = self.network.link(self.name, target.name)
        back = self.network.link(target.name, self.name)
        with trio.move_on_after(DIAL_TIMEOUT):
            while True:
                await self.network.wait_up(there, back, target)
                await trio.sleep(there.latency + back.latency)
                if not (there.up and back.up and target.on):
                    continue
                listener = target._listeners.get(port)
                if listener is None or not (local or listener.reaches_beyond):
                    raise ConnectError(f"{_text(host, port)}: Connection refused")
                stream = self._connect(target, listener, host, port)
                if stream is not None:
                    return stream
                await trio.sleep_forever()
        raise ConnectError(f"{_text(host, port)}: no answer within {DIAL_TIMEOUT:.0f} s")

    def _connect(
        self, target: MemoryHost, listener: MemoryListener, host: str, port: int
    ) -> MemoryStream | None:
        network = self.network
        to, fro = network.make_pipes(self.name, target.name)
        here = MemoryStream(_text(host, port), self, target, to, fro)
        there = MemoryStream(_text(self.name, network.draw_port()), target, self, fro, to)
        if not listener.offer(there):
            return None
        self._streams[here] = None
        target._streams[there] = None
        return here

    async def listen(self, host: str, port: int) -> MemoryListener:
        """Bind; port 0 lets the network choose.

        Raises:
            PortInUse: names the address.
            LocalError: the address is not this host's.
        """
        await trio.lowlevel.checkpoint()
        if host not in (self.name, *WILDCARD, *LOOPBACK):
            raise LocalError(f"can't listen on {_text(host, port)}: no address of {self.name}")
        port = port or self.network.draw_port()
        if port in self._listeners:
            raise PortInUse(f"{_text(host, port)}: port {port} is taken; choose another")
        arrivals, queue = trio.open_memory_channel[MemoryStream](BACKLOG)
        listener = MemoryListener(self, (host, port), host not in LOOPBACK, arrivals, queue)
        self._listeners[port] = listener
        return listener

    def forget(self, stream: MemoryStream) -> None:
        """The stream's end here is gone."""
        self._streams.pop(stream, None)

    def forget_listener(self, listener: MemoryListener) -> None:
        """The port is free."""
        if self._listeners.get(listener.address[1]) is listener:
            del self._listeners[listener.address[1]]

    def crash(self) -> None:
        """Its process dies: every stream is reset, every port free. It can listen again at once."""
        for listener in list(self._listeners.values()):
            listener.close()
        for stream in list(self._streams):
            stream.reset()

    def vanish(self) -> None:
        """Its power is cut: nobody is told anything. It is off until `revive`."""
        self.on = False
        for stream in list(self._streams):
            stream.go_silent()
        for listener in list(self._listeners.values()):
            listener.close()

    def revive(self) -> None:
        """Its power is back, and nothing runs on it. Who still sends to it is reset."""
        self.on = True
        self.network.wake()

    def wake_streams(self) -> None:
        """Have everybody look again who waits for a stream of this host."""
        for stream in list(self._streams):
            stream.answer_absence()
            stream.wake()


@define(eq=False)
class MemoryNetwork:
    """Hosts and the links between them."""

    seed: int = 0
    latency: float = 0.0005
    """Seconds each way between two hosts, unless `set_link` says otherwise."""
    jitter: float = 0.0
    bandwidth: float = 125e6
    """Bytes per second."""
    capacity: int = 256 * 1024
    """Bytes that a pipe holds; a sender beyond them waits."""
    whole: bool = False
    """Deliver pieces as they were sent, and take all there is room for. Faster, less wicked."""
    _hosts: dict[str, MemoryHost] = field(factory=dict)
    _links: dict[tuple[str, str], Link] = field(factory=dict)
    _isolated: set[str] = field(factory=set)
    _next_port: int = FIRST_PORT
    _streams_made: int = 0
    _changed: trio.Event = field(factory=trio.Event)

    # --- the parts -----------------------------------------------------------------------------
    def host(self, name: str) -> MemoryHost:
        """The host of that name, made when it is new."""
        if name not in self._hosts:
            self._hosts[name] = MemoryHost(name, self)
        return self._hosts[name]

    def link(self, sender: str, receiver: str) -> Link:
        """The link of that direction."""
        key = (sender, receiver)
        if key not in self._links:
            latency = 0.0 if sender == receiver else self.latency
            up = sender == receiver or self._isolated.isdisjoint(key)
            self._links[key] = Link(latency, self.jitter, self.bandwidth, up)
        return self._links[key]

    def set_link(
        self,
        one: str,
        other: str,
        *,
        latency: float | None = None,
        jitter: float | None = None,
        bandwidth: float | None = None,
    ) -> None:
        """Change what is given, in both directions, for what is sent from now on."""
        for link in (self.link(one, other), self.link(other, one)):
            link.latency = link.latency if latency is None else latency
            link.jitter = link.jitter if jitter is None else jitter
            link.bandwidth = link.bandwidth if bandwidth is None else bandwidth

    # --- faults --------------------------------------------------------------------------------
    def cut(self, sender: str, receiver: str, *, both: bool = True) -> None:
        """Carry nothing from one to the other, nor back unless `both` is false.

        Nothing is lost: as with TCP, what was sent arrives after `heal`.
        """
        self.link(sender, receiver).up = False
        if both:
            self.link(receiver, sender).up = False

    def heal(self, sender: str, receiver: str) -> None:
        """End a cut, in both directions. What has waited arrives after the latency."""
        for link in (self.link(sender, receiver), self.link(receiver, sender)):
            if not link.up:
                link.up = True
                link.healed_at = trio.current_time() + link.latency
        self.wake()

    def isolate(self, name: str) -> None:
        """Cut a host off from all others, also from those that are made later."""
        self._isolated.add(name)
        for other in [*self._hosts]:
            if other != name:
                self.cut(name, other)

    def rejoin(self, name: str) -> None:
        """End `isolate`, and every other cut of this host from hosts that are not isolated."""
        self._isolated.discard(name)
        for other in [*self._hosts]:
            if other != name and other not in self._isolated:
                self.heal(name, other)

    def reset_after(self, sender: str, receiver: str, count: int) -> None:
        """Reset the stream that carries the byte `count` from now on this link, right there."""
        link = self.link(sender, receiver)
        link.breaks_at = link.carried + count

    # --- for the parts -------------------------------------------------------------------------
    async def wait_up(self, there: Link, back: Link, target: MemoryHost) -> None:
        while not (there.up and back.up and target.on):
            await self._changed.wait()

    def wake(self) -> None:
        """Have everybody look again."""
        event, self._changed = self._changed, trio.Event()
        event.set()
        for host in self._hosts.values():
            host.wake_streams()

    def draw_port(self) -> int:
        self._next_port += 1
        return self._next_port - 1

    def make_pipes(self, one: str, other: str) -> tuple[_Pipe, _Pipe]:
        to, back = self.link(one, other), self.link(other, one)
        self._streams_made += 1

        def make(link: Link, reverse: Link, label: str) -> _Pipe:
            source = random.Random(f"{self.seed} {self._streams_made} {label}")
            return _Pipe(link, reverse, self.capacity, source, self.whole)

        return make(to, back, "to"), make(back, to, "fro")


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- runs that repeat ------------------------------------------------------------------------------
def seeded_tokens(seed: int, label: str) -> Callable[[int], str]:
    """Draws that many hex digits, the same ones in each run; for `draw_token` and nonces."""
    source = random.Random(f"{seed} {label}")

    def draw(digits: int) -> str:
        return f"{source.getrandbits(4 * digits):0{digits}x}"

    return draw


def deterministic_run(
    main: Callable[..., Awaitable[T]],
    *args: Any,
    seed: int,
    instruments: tuple[trio.abc.Instrument, ...] = (),
) -> T:
    """Run `main` so that the seed decides the order of tasks, on a clock that skips all waiting.

    The same seed gives the same run, another seed another order, as long as nothing but the seed
    and `trio.current_time()` is looked at: no sockets, threads or processes.
    """
    # Private names of Trio, and the only place that knows them; a test tells when they change.
    from trio._core import _run as scheduler

    allowed = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    try:
        return trio.run(
            main,
            *args,
            clock=trio.testing.MockClock(autojump_threshold=0),
            instruments=instruments,
        )
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        scheduler._r.setstate(state)
