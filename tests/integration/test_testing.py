"""The network in memory behaves like one, and runs on it repeat exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dispy_trio.errors import ConnectError, ConnectionLost, LocalError, PortInUse
from dispy_trio.seams import ByteStream
from dispy_trio.testing import (
    DIAL_TIMEOUT,
    MemoryListener,
    MemoryNetwork,
    deterministic_run,
    seeded_tokens,
)

A, B = "10.0.0.1", "10.0.0.2"
PORT = 9701


async def connect(network: MemoryNetwork) -> tuple[ByteStream, ByteStream, MemoryListener]:
    """A stream from `A` to `B`: A's end, B's end, and B's listener."""
    listener = await network.host(B).listen("0.0.0.0", PORT)
    ours = await network.host(A).dial(B, PORT)
    return ours, await listener.accept(), listener


async def receive(stream: ByteStream, size: int) -> bytes:
    data = bytearray()
    buffer = memoryview(bytearray(size))
    while len(data) < size:
        count = await stream.receive_into(buffer[: size - len(data)])
        if not count:
            break
        data += buffer[:count]
    return bytes(data)


def run(main: Callable[[MemoryNetwork], Awaitable[None]], **options: object) -> None:
    """Run under three seeds."""
    for seed in range(3):
        deterministic_run(main, MemoryNetwork(seed, **options), seed=seed)  # type: ignore[arg-type]


# --- streams ---------------------------------------------------------------------------------------
def test_bytes_arrive_whole_and_in_order() -> None:
    sent = bytes(range(256)) * 4000

    async def main(network: MemoryNetwork) -> None:
        network.set_link(A, B, jitter=0.01)
        ours, theirs, _ = await connect(network)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, sent)
            nursery.start_soon(theirs.send_all, sent[::-1])
            assert await receive(theirs, len(sent)) == sent
            assert await receive(ours, len(sent)) == sent[::-1]

    run(main)


def test_latency_and_bandwidth_take_their_time() -> None:
    async def main(network: MemoryNetwork) -> None:
        network.set_link(A, B, latency=0.25, bandwidth=1000)
        ours, theirs, _ = await connect(network)
        start = trio.current_time()
        await ours.send_all(bytes(500))
        await receive(theirs, 500)
        assert trio.current_time() - start == pytest.approx(0.25 + 0.5)

    run(main)


def test_a_reader_that_does_not_read_holds_the_writer_back() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, _ = await connect(network)
        with trio.move_on_after(60) as scope:
            await ours.send_all(bytes(network.capacity + 1))
        assert scope.cancelled_caught
        assert ours.send_nowait(b"x") == 0
        assert len(await receive(theirs, network.capacity)) == network.capacity
        await ours.send_all(b"y")
        assert await receive(theirs, 1) == b"y"

    run(main)


def test_a_close_is_read_after_the_data_and_breaks_the_writer() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, _ = await connect(network)
        await ours.send_all(b"last words")
        await ours.aclose()
        assert await receive(theirs, 100) == b"last words"
        assert await theirs.receive_into(memoryview(bytearray(1))) == 0
        await theirs.send_all(b"too late")
        await trio.sleep(1)
        with pytest.raises(ConnectionLost, match=r"10\.0\.0\.1:4\d+: Connection reset"):
            await theirs.send_all(b"really")
        with pytest.raises(ConnectionLost, match="closed"):
            await ours.send_all(b"x")

    run(main)


def test_closing_one_s_own_end_wakes_who_waits_on_it() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, _, _ = await connect(network)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.testing.wait_all_tasks_blocked)
            nursery.start_soon(ours.aclose)
            with pytest.raises(ConnectionLost):
                await ours.receive_into(memoryview(bytearray(1)))

    run(main)


# --- dialling --------------------------------------------------------------------------------------
def test_where_nobody_listens() -> None:
    async def main(network: MemoryNetwork) -> None:
        with pytest.raises(ConnectError, match=r"10\.0\.0\.2:9701: Connection refused"):
            await network.host(A).dial(B, PORT)
        listener = await network.host(B).listen("127.0.0.1", PORT)
        with pytest.raises(ConnectError, match="refused"):
            await network.host(A).dial(B, PORT)
        await network.host(B).dial("localhost", PORT)
        with pytest.raises(PortInUse, match=f"{PORT} is taken"):
            await network.host(B).listen(B, PORT)
        with pytest.raises(LocalError, match="no address of"):
            await network.host(B).listen(A, PORT)
        await listener.aclose()
        assert (await network.host(B).listen(B, 0)).address[0] == B

    run(main)


def test_no_answer_over_a_cut_link() -> None:
    async def main(network: MemoryNetwork) -> None:
        await network.host(B).listen("", PORT)
        network.cut(B, A, both=False)
        start = trio.current_time()
        with pytest.raises(ConnectError, match="no answer within 5 s"):
            await network.host(A).dial(B, PORT)
        assert trio.current_time() - start == pytest.approx(DIAL_TIMEOUT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.host(A).dial, B, PORT)
            await trio.sleep(DIAL_TIMEOUT / 2)
            network.heal(A, B)

    run(main)


# --- faults ----------------------------------------------------------------------------------------
def test_a_cut_delays_and_loses_nothing() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, _ = await connect(network)
        network.cut(A, B)
        await ours.send_all(b"patience")
        with trio.move_on_after(100) as scope:
            await receive(theirs, 1)
        assert scope.cancelled_caught
        network.heal(A, B)
        start = trio.current_time()
        assert await receive(theirs, 8) == b"patience"
        assert trio.current_time() - start == pytest.approx(network.latency)

    run(main)


def test_a_cut_one_way_lets_the_other_pass_until_the_window_is_full() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, _ = await connect(network)
        network.cut(B, A, both=False)
        await ours.send_all(bytes(network.capacity))
        await receive(theirs, network.capacity)
        assert ours.send_nowait(b"x") == 0, "no acknowledgement came back"
        network.heal(A, B)
        await ours.send_all(b"x")

    run(main)


def test_who_is_isolated_reaches_nobody_old_or_new() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, listener = await connect(network)
        network.isolate(B)
        for name in (A, "10.0.0.3"):
            with pytest.raises(ConnectError, match="no answer"):
                await network.host(name).dial(B, PORT)
        network.rejoin(B)
        await network.host("10.0.0.3").dial(B, PORT)
        await listener.accept()
        await theirs.send_all(b"again")
        assert await receive(ours, 5) == b"again"

    run(main)


@pytest.mark.parametrize("offset", [0, 1, 999, 1000])
def test_a_reset_at_a_byte(offset: int) -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, listener = await connect(network)
        network.reset_after(A, B, offset)
        with pytest.raises(ConnectionLost, match="reset"):
            await ours.send_all(bytes(1000))
        assert await receive(theirs, offset) == bytes(offset)
        with pytest.raises(ConnectionLost, match="reset"):
            await theirs.receive_into(memoryview(bytearray(1)))
        again = await network.host(A).dial(B, PORT)
        await again.send_all(bytes(1000))
        assert await receive(await listener.accept(), 1000) == bytes(1000), "it happens once"

    run(main)


def test_a_crashed_host_resets_and_may_listen_again() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, _theirs, listener = await connect(network)
        waiting = await network.host(A).dial(B, PORT)
        network.host(B).crash()
        for stream in (ours, waiting):
            with pytest.raises(ConnectionLost, match="reset"):
                await stream.receive_into(memoryview(bytearray(1)))
        with pytest.raises(ConnectionLost, match="closed"):
            await listener.accept()
        await connect(network)

    run(main)


def test_a_vanished_host_says_nothing() -> None:
    async def main(network: MemoryNetwork) -> None:
        ours, theirs, _ = await connect(network)
        network.host(B).vanish()
        await ours.send_all(b"hello?")
        with trio.move_on_after(1000) as scope:
            await ours.receive_into(memoryview(bytearray(1)))
        assert scope.cancelled_caught
        with pytest.raises(ConnectionLost, match="off"):
            await theirs.send_all(b"x")
        with pytest.raises(ConnectError, match="no answer"):
            await network.host(A).dial(B, PORT)
        network.host(B).revive()
        with pytest.raises(ConnectionLost, match="reset"):
            await ours.receive_into(memoryview(bytearray(1)))
        await connect(network)

    run(main)


def test_a_writer_that_is_stuck_hears_of_a_reset_while_data_waits_for_it() -> None:
    """The data that has arrived and is not read must not make the writer spin."""

    async def main(network: MemoryNetwork) -> None:
        ours, theirs, _ = await connect(network)
        await theirs.send_all(b"unread")

        async def crash() -> None:
            await trio.sleep(10)
            network.host(B).crash()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            with pytest.raises(ConnectionLost, match="reset"):
                await ours.send_all(bytes(2 * network.capacity))
        assert trio.current_time() == pytest.approx(10 + 5 * network.latency, abs=0.01)

    run(main)


# --- repetition ------------------------------------------------------------------------------------
async def trace(seed: int) -> str:
    """What happens when eight hosts talk to each other, as text."""
    network = MemoryNetwork(seed, jitter=0.001)
    events: list[str] = []

    async def serve(listener: MemoryListener, nursery: trio.Nursery) -> None:
        while True:
            nursery.start_soon(echo, await listener.accept())

    async def echo(stream: ByteStream) -> None:
        buffer = memoryview(bytearray(100))
        while count := await stream.receive_into(buffer):
            events.append(f"{trio.current_time():.9f} {stream.peer} {count}")
            await stream.send_all(bytes(buffer[:count]))

    async def talk(name: str, port: int) -> None:
        stream = await network.host(name).dial("server", port)
        for size in (1, 10, 100):
            await stream.send_all(bytes(size))
            await receive(stream, size)
            events.append(f"{name} {size}")
        await stream.aclose()

    async with trio.open_nursery() as servers:
        listener = await network.host("server").listen("", 0)
        servers.start_soon(serve, listener, servers)
        async with trio.open_nursery() as nursery:
            for index in range(8):
                nursery.start_soon(talk, f"h{index}", listener.address[1])
        servers.cancel_scope.cancel()
    return "\n".join(events)


def test_the_same_seed_gives_the_same_run() -> None:
    assert len({deterministic_run(trace, 1, seed=1) for _ in range(5)}) == 1


def test_other_seeds_give_other_runs() -> None:
    assert len({deterministic_run(trace, 1, seed=seed) for seed in range(5)}) == 5, "of the tasks"
    assert len({deterministic_run(trace, seed, seed=1) for seed in range(5)}) == 5, "of the network"


def test_the_order_of_tasks_is_the_seed_s_and_not_the_hash_s() -> None:
    program = (
        "from tests.integration.test_testing import trace\n"
        "from dispy_trio.testing import deterministic_run\n"
        "print(deterministic_run(trace, 3, seed=3))\n"
    )
    path = os.pathsep.join(["src", ".", *(p for p in sys.path if p)])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in (0, 1, 2)
    }
    assert outputs == {deterministic_run(trace, 3, seed=3).encode() + b"\n"}


def test_trio_is_left_as_it_was() -> None:
    from trio._core import _run

    before = _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING
    deterministic_run(trace, 1, seed=1)
    assert (_run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_tokens_come_from_the_seed() -> None:
    draws = [seeded_tokens(seed, label) for seed, label in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))]
    texts = [(draw(64), draw(16)) for draw in draws]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    assert [len(text) for text in texts[0]] == [64, 16]
