"""Sessions: on a network in memory with all its faults, then over real sockets.

In the tests with real sockets one side always closes first, ports are the system's choice, and an
absolute limit of time stands round everything.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from attrs import define, field

from dispy_trio.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    DispyError,
    LocalError,
    OutboxFull,
    PortInUse,
    ProtocolError,
    PythonMismatch,
    VersionMismatch,
)
from dispy_trio.messages import (
    CloseComputation,
    ComputationFailed,
    ComputationReady,
    JobOutput,
    Message,
    NodeStatus,
    Ping,
    RunJobs,
    SetCpus,
)
from dispy_trio.protocol.auth import NONCE_SIZE, Hello, Kind, Role
from dispy_trio.protocol.codec import encode
from dispy_trio.protocol.framing import CHUNK_LIMIT, FRAME_HEADER, encode_chunk_header
from dispy_trio.runtime.net import TcpNet, is_loopback
from dispy_trio.runtime.peer import (
    HANDSHAKE_TIMEOUT,
    OUTBOX_LIMIT,
    Peer,
    accept_connection,
    dial_connection,
)
from dispy_trio.seams import ByteStream, Net
from dispy_trio.testing import MemoryListener, MemoryNetwork, deterministic_run, seeded_tokens

SECRET = b"known to both, and to nobody else"
CLIENT_HOST, NODE_HOST = "10.0.0.1", "10.0.0.2"
PORT = 9701
PULSE = 5.0
LOST_WITHIN = 3 * PULSE

draw = seeded_tokens(0, "nonces")


def client_hello(kind: Kind = Kind.CONTROL) -> Hello:
    return Hello(1, (3, 11), Role.CLIENT, kind, "5e" * 16, bytes.fromhex(draw(2 * NONCE_SIZE)))


def node_hello() -> Hello:
    nonce = bytes.fromhex(draw(2 * NONCE_SIZE))
    return Hello(1, (3, 11), Role.NODE, Kind.CONTROL, "1c" * 16, nonce)


@define(eq=False)
class Side:
    """One end of a session, and what happened to it."""

    peer: Peer
    stream: ByteStream
    bulk: ByteStream
    received: list[Message] = field(factory=list)
    blobs: dict[int, bytes] = field(factory=dict)
    error: DispyError | None = None
    ended: trio.Event = field(factory=trio.Event)
    ended_at: float = 0.0
    owner: trio.CancelScope = field(factory=trio.CancelScope)

    async def run(self) -> None:
        try:
            with self.owner:
                await self.peer.run(
                    self.received.append,
                    lambda _blob, size: memoryview(bytearray(size)),
                    lambda blob, memory: self.blobs.update({blob: bytes(memory)}),
                )
        except DispyError as exc:
            self.error = exc
        self.ended_at = trio.current_time()
        self.ended.set()


async def connect(net: Net, host: str, port: int, listener: Any, kind: Kind) -> list[ByteStream]:
    """Dial, and accept; the dialler's stream comes first."""
    streams: list[ByteStream] = []

    async def accept() -> None:
        stream = await listener.accept()
        assert (await accept_connection(stream, SECRET, node_hello())).kind == kind
        streams.append(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        ours, theirs = await dial_connection(net, host, port, SECRET, client_hello(kind))
        assert theirs.identity == "1c" * 16
    return [ours, *streams]


async def make_sides(
    net: Net, host: str, port: int, listener: Any, *, bulk: bool = True
) -> tuple[Side, Side]:
    control = await connect(net, host, port, listener, Kind.CONTROL)
    second = await connect(net, host, port, listener, Kind.BULK)
    client = Peer(f"node {host}", node_hello(), PULSE, control[0])
    node = Peer("client", client_hello(), PULSE, control[1])
    if bulk:
        assert client.attach_bulk(second[0])
        assert node.attach_bulk(second[1])
    return Side(client, control[0], second[0]), Side(node, control[1], second[1])


@asynccontextmanager
async def open_session(
    network: MemoryNetwork, *, bulk: bool = True
) -> AsyncIterator[tuple[Side, Side]]:
    """A running session between `CLIENT_HOST` and `NODE_HOST`; waits until both ends are over."""
    listener = await network.host(NODE_HOST).listen("", PORT)
    net = network.host(CLIENT_HOST)
    client, node = await make_sides(net, NODE_HOST, PORT, listener, bulk=bulk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)  # noqa: ASYNC113 - nothing has to be ready at the yield
        nursery.start_soon(node.run)  # noqa: ASYNC113
        yield client, node
    if not bulk:
        await client.bulk.aclose()
        await node.bulk.aclose()
    await listener.aclose()
    for name in (CLIENT_HOST, NODE_HOST):
        assert not network.host(name)._streams, "every stream is closed"


def run(main: Callable[..., Awaitable[None]], *args: Any, seeds: int = 3, **options: Any) -> None:
    for seed in range(seeds):
        deterministic_run(main, MemoryNetwork(seed, **options), *args, seed=seed)


async def settle() -> None:
    """Let everything arrive that is under way."""
    await trio.sleep(1)


# --- messages --------------------------------------------------------------------------------------
def test_messages_go_both_ways_in_order() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            for number in range(100):
                client.peer.send_nowait(ComputationReady(number))
                node.peer.send_nowait(JobOutput(number, 0, b"x" * (number * 37), b""))
                if number % 10 == 0:
                    await trio.sleep(0.0003)
            await settle()
            assert node.received == [ComputationReady(n) for n in range(100)]
            assert client.received == [JobOutput(n, 0, b"x" * (n * 37), b"") for n in range(100)]
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main)


def test_a_lone_message_is_on_the_wire_before_send_returns() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, _node):
            before = network.link(CLIENT_HOST, NODE_HOST).carried
            client.peer.send_nowait(ComputationReady(1))
            frame = encode(ComputationReady(1))
            assert network.link(CLIENT_HOST, NODE_HOST).carried == before + len(frame)
            assert client.peer.try_send(ComputationReady(1))
            assert network.link(CLIENT_HOST, NODE_HOST).carried == before + 2 * len(frame)
            client.peer.close("done")

    run(main, whole=True)


def test_what_try_send_could_only_begin_is_flushed() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            large = JobOutput(1, 0, b"x" * (3 * network.capacity), b"")
            assert client.peer.try_send(large)
            assert client.peer.is_backed_up
            assert not client.peer.try_send(ComputationReady(2)), "never out of order"
            client.peer.flush()
            client.peer.send_nowait(ComputationReady(2))
            await settle()
            assert node.received == [large, ComputationReady(2)]
            assert client.peer.statistics().outbox_bytes == 0
            client.peer.close("done")

    run(main)


def test_lingering_ends_though_the_clock_stands_still() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            for number in range(40):
                node.peer.linger(1.0)
                client.peer.send_nowait(ComputationReady(number))
                await trio.sleep(0.01)
            assert len(node.received) == 40
            client.peer.close("done")

    run(main)


def test_a_goodbye_comes_after_all_that_was_sent() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            large = JobOutput(1, 0, b"x" * (4 * network.capacity), b"")
            client.peer.send_nowait(large)
            client.peer.close("done")
            client.peer.send_nowait(ComputationReady(1))  # Nobody is there for it any more.
            client.peer.close("done again")
        assert node.received == [large]
        assert (client.error, node.error) == (None, None)

    run(main)


def test_statistics() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            client.peer.send_nowait(ComputationReady(1))
            client.peer.send_blob_nowait(1, [memoryview(bytes(1000))])
            await trio.sleep(2)
            out, into = client.peer.statistics(), node.peer.statistics()
            assert (out.messages_out, into.messages_in) == (1, 1)
            assert out.bytes_out == len(encode(ComputationReady(1))) + 1000
            assert into.bytes_in > out.bytes_out
            assert (out.outbox_bytes, out.blobs_waiting) == (0, 0)
            assert 1.9 < into.silent_for < 2
            client.peer.close("done")

    run(main)


# --- signs of life ---------------------------------------------------------------------------------
def test_an_idle_session_lives() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            await trio.sleep(3600)
            assert not client.received
            assert not node.received
            assert not client.ended.is_set()
            assert client.peer.statistics().silent_for <= 2 * PULSE
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main)


def test_a_busy_session_sends_no_pings() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            for _ in range(60):
                client.peer.send_nowait(ComputationReady(1))
                node.peer.send_nowait(ComputationReady(1))
                await trio.sleep(1)
            assert client.peer.statistics().messages_out == 60
            client.peer.close("done")

    run(main)


def test_a_ping_is_answered() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            client.peer.send_nowait(Ping(77))
            await settle()
            assert node.peer.statistics().messages_out == 1
            assert client.peer.statistics().messages_in == 1
            assert (client.received, node.received) == ([], [])
            client.peer.close("done")

    run(main)


@pytest.mark.parametrize("fault", ["vanish", "cut", "cut there", "cut back"])
def test_silence_is_noticed_in_time(fault: str) -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            await trio.sleep(100)
            match fault:
                case "vanish":
                    network.host(NODE_HOST).vanish()
                case "cut":
                    network.cut(CLIENT_HOST, NODE_HOST)
                case "cut there":
                    network.cut(CLIENT_HOST, NODE_HOST, both=False)
                case "cut back":
                    network.cut(NODE_HOST, CLIENT_HOST, both=False)
            begin = trio.current_time()
        for side in (client, node):
            assert type(side.error) is ConnectionLost
            assert side.ended_at - begin <= LOST_WITHIN + 0.01
        # Who hears nothing says so; whom he can still reach learns it from the close.
        first = node if fault == "cut there" else client
        assert str(first.error) == f"{first.peer.name}: no sign of life for 15.0 s"

    run(main)


def test_a_short_cut_goes_unnoticed() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            for _ in range(5):
                network.cut(CLIENT_HOST, NODE_HOST)
                client.peer.send_nowait(ComputationReady(1))
                await trio.sleep(2 * PULSE - 0.1)
                network.heal(CLIENT_HOST, NODE_HOST)
                await trio.sleep(PULSE)
            assert node.received == [ComputationReady(1)] * 5
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main)


def test_slow_progress_is_a_sign_of_life() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            network.set_link(CLIENT_HOST, NODE_HOST, latency=0.3, bandwidth=10_000)
            message = JobOutput(1, 0, b"x" * 3_000_000, b"")  # Five minutes of it.
            client.peer.send_nowait(message)
            await trio.sleep(600)
            assert node.received == [message]
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main, seeds=1, capacity=16 * 1024)


def test_a_large_blob_delays_no_message() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            client.peer.send_blob_nowait(1, [memoryview(bytes(20_000_000))])
            await trio.sleep(0.05)
            assert client.peer.statistics().bytes_out < 20_000_000
            client.peer.send_nowait(ComputationReady(1))
            await trio.sleep(0.01)
            assert node.received == [ComputationReady(1)]
            await settle()
            assert len(node.blobs[1]) == 20_000_000
            client.peer.close("done")

    run(main, seeds=1)


def test_our_own_absence_is_not_the_other_side_s_silence() -> None:
    """A laptop that wakes up, or a process that goes on after SIGSTOP."""

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            for seconds in (PULSE, 3 * PULSE, 1000.0):
                await trio.sleep(1)
                clock.jump(seconds)
            await trio.sleep(60)
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main)


# --- ends ------------------------------------------------------------------------------------------
def test_a_crash_is_noticed_at_once() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            network.host(NODE_HOST).crash()
            begin = trio.current_time()
        assert type(client.error) is type(node.error) is ConnectionLost
        assert client.ended_at - begin < 0.01

    run(main)


def test_an_end_without_a_goodbye_is_a_loss() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            await node.stream.aclose()
        assert type(client.error) is ConnectionLost
        assert str(client.error) == "node 10.0.0.2 closed the connection"

    run(main)


@pytest.mark.parametrize("attached", [True, False])
def test_a_full_outbox_ends_the_session(attached: bool) -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network, bulk=attached) as (client, _node):
            network.cut(CLIENT_HOST, NODE_HOST)
            message = JobOutput(1, 0, b"x" * 1_000_000, b"")
            for _ in range(OUTBOX_LIMIT // 1_000_000 - 1):
                client.peer.send_nowait(message)
            await trio.sleep(PULSE + 1)
            assert not client.ended.is_set()
            for _ in range(3):
                client.peer.send_nowait(message)
            await client.ended.wait()
            assert type(client.error) is OutboxFull
            assert str(client.error) == "node 10.0.0.2 reads too slowly: its outbox is full"
            client.peer.send_nowait(message)  # Of no effect, and no error: the owner was told.
            network.heal(CLIENT_HOST, NODE_HOST)

    run(main, seeds=1)


def test_what_piles_up_while_it_is_taken_is_sent() -> None:
    """As all the results of a client that was away for long."""

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            message = JobOutput(1, 0, b"x" * 1_000_000, b"")
            for _ in range(2 * OUTBOX_LIMIT // 1_000_000):
                client.peer.send_nowait(message)
            await trio.sleep(2 * PULSE)
            assert len(node.received) == 2 * OUTBOX_LIMIT // 1_000_000
            assert client.peer.statistics().outbox_bytes == 0
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main, seeds=1)


def test_a_message_that_no_receiver_takes_is_its_owner_s_and_the_session_goes_on() -> None:
    large = JobOutput(1, 0, bytes(5_000_000), b"")

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            told: list[tuple[Message, str]] = []
            client.peer.on_unsendable = lambda message, reason: told.append((message, reason))
            client.peer.send_nowait(large)
            assert told[0][0] is large
            assert told[0][1].endswith("bytes is over the limit of 4194304")
            assert not client.peer.try_send(large)
            with pytest.raises(LocalError, match="over the limit"):
                client.peer.send_or_raise(large)
            client.peer.send_nowait(SetCpus(1, 2**70))
            assert "can't be encoded" in told[1][1]
            client.peer.send_or_raise(ComputationReady(1))
            await settle()
            assert node.received == [ComputationReady(1)]
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)

    run(main)


def test_the_many_rows_of_a_message_go_in_several_and_only_the_large_one_stays() -> None:
    payloads = [b"a", bytes(5_000_000), b"b", bytes(3_000_000), bytes(3_000_000)]

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            told: list[Message] = []
            client.peer.on_unsendable = lambda message, _reason: told.append(message)
            client.peer.send_nowait(RunJobs(7, [1, 2, 3, 4, 5], [0] * 5, payloads, [9]))
            await settle()
            assert told == [RunJobs(7, [2], [0], [payloads[1]], [])]
            arrived = [message for message in node.received if isinstance(message, RunJobs)]
            assert [number for message in arrived for number in message.numbers] == [1, 3, 4, 5]
            assert [number for message in arrived for number in message.acknowledged] == [9]
            client.peer.close("done")

    run(main, seeds=1)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (FRAME_HEADER.pack(2**31, 11), "announces a frame of 2147483648 bytes"),
        (FRAME_HEADER.pack(0, 200), "unknown type 200"),
        (FRAME_HEADER.pack(1, 1) + b"\xc1", "malformed Ping"),
    ],
)
def test_what_is_no_message_ends_the_session(data: bytes, text: str) -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            await node.stream.send_all(data)
        assert type(client.error) is ProtocolError
        assert str(client.error).startswith("node 10.0.0.2 ")
        assert text in str(client.error)
        assert type(node.error) is ConnectionLost

    run(main)


def test_an_error_of_the_owner_ends_this_session_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stumbling(list[Message]):
        def append(self, _message: Message) -> None:
            raise ZeroDivisionError("of the owner")

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            client.received = Stumbling()
            node.peer.send_nowait(ComputationReady(1))
        assert type(client.error) is ProtocolError
        assert "ComputationReady that could not be handled: ZeroDivisionError" in str(client.error)
        assert type(node.error) is ConnectionLost

    run(main)
    assert "of the owner" in caplog.text
    assert "Traceback" in caplog.text


def test_an_error_with_a_blob_ends_this_session() -> None:
    class Stumbling(dict[int, bytes]):
        def update(self, *_args: object, **_kwargs: object) -> None:
            raise ZeroDivisionError

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            client.blobs = Stumbling()
            node.peer.send_blob_nowait(1, [memoryview(b"content")])
        assert type(client.error) is ProtocolError

    run(main)


def test_a_cancelled_owner_leaves_nothing_open() -> None:
    """At many instants of a session in full swing."""

    async def main(network: MemoryNetwork, after: float) -> None:
        async with open_session(network) as (client, node):
            for number in range(50):
                client.peer.send_nowait(JobOutput(number, 0, b"x" * 10_000, b""))
                node.peer.send_blob_nowait(number, [memoryview(bytes(100_000))])
            await trio.sleep(after)
            client.owner.cancel()
        assert client.error is None
        assert type(node.error) is ConnectionLost

    for step in range(40):
        deterministic_run(main, MemoryNetwork(step), 0.002 * step, seed=step)


def test_a_reset_at_any_byte_is_an_end_and_never_a_hang() -> None:
    messages: list[Message] = [
        ComputationReady(1),
        NodeStatus(1.5, 2, 3, 4.0),
        ComputationFailed(2, "text"),
        CloseComputation(3, True),
    ]
    total = sum(len(encode(message)) for message in messages)

    async def main(network: MemoryNetwork, offset: int) -> None:
        async with open_session(network) as (client, node):
            network.reset_after(CLIENT_HOST, NODE_HOST, offset)
            for message in messages:
                client.peer.send_nowait(message)
            client.peer.close("done")
        whole = 0
        for count, message in enumerate(messages, 1):
            whole += len(encode(message))
            assert (message in node.received) == (whole <= offset), count
        assert type(node.error) is ConnectionLost
        assert client.error is None, "it was leaving anyway"

    for offset in range(total + 1):
        deterministic_run(main, MemoryNetwork(offset), offset, seed=offset)


# --- blobs -----------------------------------------------------------------------------------------
SIZES = [0, 1, 1000, CHUNK_LIMIT - 1, CHUNK_LIMIT, CHUNK_LIMIT + 1, 3 * CHUNK_LIMIT + 7]


def test_blobs_go_both_ways() -> None:
    source = random.Random(5)
    contents = [source.randbytes(size) for size in SIZES]

    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            for number, content in enumerate(contents):
                client.peer.send_blob_nowait(number, [memoryview(content)])
                node.peer.send_blob_nowait(number, [memoryview(content[::-1])])
            await trio.sleep(5)
            assert [node.blobs[n] for n in range(len(SIZES))] == contents
            assert [client.blobs[n][::-1] for n in range(len(SIZES))] == contents
            client.peer.close("done")

    run(main, seeds=2)


def test_a_blob_in_parts() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            parts = [b"", b"a", bytes(CHUNK_LIMIT + 5), b"", b"xyz", b""]
            client.peer.send_blob_nowait(2**63, [memoryview(part) for part in parts])
            await settle()
            assert node.blobs == {2**63: b"".join(parts)}
            client.peer.close("done")

    run(main)


def test_blobs_wait_for_their_connection() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network, bulk=False) as (client, node):
            client.peer.send_blob_nowait(1, [memoryview(b"early")])
            await settle()
            assert client.peer.statistics().blobs_waiting == 1
            client.peer.attach_bulk(client.bulk)
            node.peer.attach_bulk(node.bulk)
            await settle()
            assert node.blobs == {1: b"early"}
            client.peer.close("done")

    run(main)


def test_a_second_bulk_connection_is_one_too_many() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            spare = await network.host(CLIENT_HOST).dial(NODE_HOST, PORT)
            assert not node.peer.attach_bulk(spare)
            await node.ended.wait()
            assert not node.peer.attach_bulk(spare), "nor when it is over"
            await spare.aclose()
        assert str(node.error) == "client opened a second bulk connection"
        assert type(client.error) is ConnectionLost

    run(main)


@pytest.mark.parametrize("inside", [True, False])
def test_a_bulk_connection_that_ends_alone_ends_the_session(inside: bool) -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network, bulk=False) as (client, node):
            node.peer.attach_bulk(node.bulk)
            if inside:
                await client.bulk.send_all(encode_chunk_header(1, 100, 0, 100) + bytes(50))
            await client.bulk.aclose()
        for side in (client, node):
            assert type(side.error) is ConnectionLost
        text = "client closed the bulk connection"
        assert str(node.error) == text + (" inside of a blob" if inside else "")
        assert not node.blobs

    run(main)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (encode_chunk_header(1, 10, 0, 11), "an impossible chunk"),
        (encode_chunk_header(1, 10, 5, 5), "out of order"),
        (encode_chunk_header(1, 10, 0, 5) + bytes(5) + encode_chunk_header(1, 10, 0, 5), "order"),
        (encode_chunk_header(1, 10, 0, 5) + bytes(5) + encode_chunk_header(1, 11, 5, 5), "order"),
        (
            b"".join(encode_chunk_header(n, 10, 0, 5) + bytes(5) for n in range(9)),
            "too many blobs",
        ),
        (encode_chunk_header(1, 2**63, 0, 5), f"{2**63} bytes, for which there is no room"),
    ],
)
def test_chunks_that_make_no_blob(data: bytes, text: str) -> None:
    async def main(network: MemoryNetwork) -> None:
        async with open_session(network) as (client, node):
            await client.bulk.send_all(data)
        assert type(node.error) is ProtocolError
        assert text in str(node.error)
        assert str(node.error).startswith("client ")

    run(main)


# --- the handshake on a stream ---------------------------------------------------------------------
async def shake(
    network: MemoryNetwork, client: Hello, node: Hello, node_secret: bytes = SECRET
) -> tuple[DispyError | None, DispyError | None]:
    """What the two sides of a handshake end with."""
    listener = await network.host(NODE_HOST).listen("", PORT)
    errors: dict[str, DispyError] = {}

    async def accept() -> None:
        stream = await listener.accept()
        try:
            await accept_connection(stream, node_secret, node)
        except DispyError as exc:
            errors["node"] = exc
        else:
            await stream.aclose()

    with trio.fail_after(HANDSHAKE_TIMEOUT / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            try:
                stream, _ = await dial_connection(
                    network.host(CLIENT_HOST), NODE_HOST, PORT, SECRET, client
                )
            except DispyError as exc:
                errors["client"] = exc
            else:
                await stream.aclose()
    assert not network.host(NODE_HOST)._streams
    assert not network.host(CLIENT_HOST)._streams
    return errors.get("client"), errors.get("node")


@pytest.mark.parametrize(
    ("change", "secret", "error", "texts"),
    [
        ({}, b"x" * 32, AuthenticationError, ["does not accept our secret", "not know our secret"]),
        ({"version": 9}, SECRET, VersionMismatch, ["version 9", "version 1"]),
        ({"python": (3, 13)}, SECRET, PythonMismatch, ["3.13", "3.11"]),
    ],
)
def test_each_misfit_has_its_error_on_both_sides(
    change: dict[str, Any], secret: bytes, error: type[DispyError], texts: list[str]
) -> None:
    async def main(network: MemoryNetwork) -> None:
        node = attrs.evolve(node_hello(), **change)
        ours, theirs = await shake(network, client_hello(), node, secret)
        assert type(ours) is type(theirs) is error
        assert texts[0] in str(ours)
        assert texts[1] in str(theirs)
        assert str(ours).startswith("10.0.0.2:9701 ")

    run(main)


def test_who_says_nothing_is_given_five_seconds() -> None:
    async def main(network: MemoryNetwork) -> None:
        listener = await network.host(NODE_HOST).listen("", PORT)
        stream = await network.host(CLIENT_HOST).dial(NODE_HOST, PORT)
        begin = trio.current_time()
        with pytest.raises(ConnectError, match="no handshake within 5 s"):
            await accept_connection(await listener.accept(), SECRET, node_hello())
        assert trio.current_time() - begin == pytest.approx(HANDSHAKE_TIMEOUT)
        await stream.aclose()
        with pytest.raises(ConnectError, match="no handshake within 5 s"):
            await dial_connection(
                network.host(CLIENT_HOST), NODE_HOST, PORT, SECRET, client_hello()
            )

    run(main)


def test_dripping_bytes_buys_no_time() -> None:
    async def main(network: MemoryNetwork) -> None:
        listener = await network.host(NODE_HOST).listen("", PORT)
        stream = await network.host(CLIENT_HOST).dial(NODE_HOST, PORT)

        async def drip() -> None:
            for byte in client_hello().encode():
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)

        async def be_cut_off() -> None:
            with pytest.raises(ConnectionLost):
                await drip()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_cut_off)
            with pytest.raises(ConnectError, match="no handshake within"):
                await accept_connection(await listener.accept(), SECRET, node_hello())

    run(main)


def test_a_loss_during_the_handshake_is_no_lost_session() -> None:
    """A node link tells the two apart: there was nothing to lose."""

    async def main(network: MemoryNetwork, offset: int) -> None:
        listener = await network.host(NODE_HOST).listen("", PORT)

        async def accept(listener: MemoryListener) -> None:
            stream = await listener.accept()
            try:
                await accept_connection(stream, SECRET, node_hello())
            except ConnectError:
                return
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener)
            network.reset_after(NODE_HOST, CLIENT_HOST, offset)
            with pytest.raises(ConnectError, match="during the handshake"):
                await dial_connection(
                    network.host(CLIENT_HOST), NODE_HOST, PORT, SECRET, client_hello()
                )

    for offset in range(95):
        deterministic_run(main, MemoryNetwork(offset), offset, seed=offset)


# --- real sockets ----------------------------------------------------------------------------------
@asynccontextmanager
async def limit() -> AsyncIterator[None]:
    with trio.fail_after(20):  # noqa: ASYNC100 - its checkpoints are those of the block
        yield


@pytest.mark.parametrize(
    ("host", "dialled", "tls"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "localhost", False),
        ("::1", "::1", False),
        ("::", "127.0.0.1", False),
    ],
)
async def test_a_session_over_tcp(host: str, dialled: str, tls: bool) -> None:
    net = TcpNet(force_tls=tls)
    content = random.Random(1).randbytes(5 * CHUNK_LIMIT)
    async with limit():
        listener = await net.listen(host, 0)
        client, node = await make_sides(net, dialled, listener.address[1], listener)
        assert client.stream.secure == node.stream.secure
        assert len(client.stream.secure) == (32 if tls else 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            nursery.start_soon(node.run)
            client.peer.send_blob_nowait(1, [memoryview(content)])
            for number in range(300):
                client.peer.send_nowait(JobOutput(number, 0, b"x" * 10_000, b""))
            while len(node.received) < 300 or not node.blobs:
                # The kernel tells nobody when it has delivered: the node answers.
                node.peer.send_nowait(ComputationReady(1))
                seen = len(client.received)
                while len(client.received) == seen:  # noqa: ASYNC110 - one turn is what is meant
                    await trio.lowlevel.checkpoint()
            client.peer.close("done")
        assert (client.error, node.error) == (None, None)
        assert node.blobs == {1: content}
        assert [m.number for m in node.received] == list(range(300))  # type: ignore[union-attr]
        await listener.aclose()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("change", "error"), [({"version": 9}, VersionMismatch), ({"python": (3, 13)}, PythonMismatch)]
)
async def test_a_misfit_over_tcp(
    change: dict[str, Any], error: type[DispyError], tls: bool
) -> None:
    """The dialler hangs up first, which TLS takes for a fault: the listener must know better."""
    net = TcpNet(force_tls=tls)
    async with limit():
        listener = await net.listen("127.0.0.1", 0)

        async def accept() -> None:
            hello = attrs.evolve(node_hello(), **change)
            with pytest.raises(error):
                await accept_connection(await listener.accept(), SECRET, hello)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with pytest.raises(error):
                await dial_connection(net, *listener.address, SECRET, client_hello())
        await listener.aclose()


async def test_a_man_in_the_middle_of_tls_is_found_out() -> None:
    """He speaks TLS with both and passes on every byte of the handshake."""
    net = TcpNet(force_tls=True)
    async with limit():
        node = await net.listen("127.0.0.1", 0)
        middle = await net.listen("127.0.0.1", 0)

        async def forward(source: ByteStream, target: ByteStream) -> None:
            buffer = memoryview(bytearray(1000))
            try:
                while count := await source.receive_into(buffer):
                    await target.send_all(buffer[:count])
            except ConnectionLost:
                pass  # The two have hung up on him, each in his own way.
            await target.aclose()

        async def interpose() -> None:
            one = await middle.accept()
            other = await net.dial(*node.address)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(forward, one, other)
                nursery.start_soon(forward, other, one)

        async def accept() -> None:
            with pytest.raises(AuthenticationError, match="does not know our secret"):
                await accept_connection(await node.accept(), SECRET, node_hello())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interpose)
            nursery.start_soon(accept)
            with pytest.raises(AuthenticationError, match="does not accept our secret"):
                await dial_connection(net, *middle.address, SECRET, client_hello())
        await node.aclose()
        await middle.aclose()


async def test_addresses_that_cannot_be_had() -> None:
    net = TcpNet()
    async with limit():
        listener = await net.listen("127.0.0.1", 0)
        port = listener.address[1]
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{port}: port {port} is taken"):
            await net.listen("127.0.0.1", port)
        await listener.aclose()
        with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port}: Connection refused"):
            await net.dial("127.0.0.1", port)
        with pytest.raises(LocalError, match=r"can't listen on 192\.0\.2\.1:0: Cannot assign"):
            await net.listen("192.0.2.1", 0)
        with pytest.raises(ConnectError, match="this is no host name"):
            await net.dial("a" * 70 + ".example", port)


async def test_plain_bytes_to_a_tls_port_and_the_reverse() -> None:
    plain, tls = TcpNet(), TcpNet(force_tls=True)
    async with limit():
        for speaker, hearer in ((plain, tls), (tls, plain)):
            listener = await hearer.listen("127.0.0.1", 0)

            async def accept(listener: Any = listener) -> None:
                with pytest.raises((ConnectError, ProtocolError)):
                    await accept_connection(await listener.accept(), SECRET, node_hello())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                with pytest.raises((ConnectError, ProtocolError)):
                    await dial_connection(speaker, *listener.address, SECRET, client_hello())
            await listener.aclose()


def test_which_addresses_are_loopback() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "example.org"):
        assert not is_loopback(host), host
