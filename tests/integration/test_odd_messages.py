"""A holder of the secret says odd things to a node, or a node to a client: the others do not feel it.

Everything is real but the network, the clock and the workers.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
import os
import random
import typing
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import trio
from attrs import define, field

from dispy_trio import messages
from dispy_trio.client.engine import Doors, Engine, open_engine
from dispy_trio.client.link import _take_parts
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.config import NodeSettings
from dispy_trio.errors import ConnectionLost, DispyError
from dispy_trio.messages import MESSAGE_TYPES, Message
from dispy_trio.models import Conditions, Outcome
from dispy_trio.protocol.auth import Kind, Role
from dispy_trio.protocol.codec import decode, encode
from dispy_trio.protocol.framing import FRAME_HEADER, FrameDecoder, encode_chunk_header
from dispy_trio.runtime.peer import accept_connection, dial_connection
from dispy_trio.runtime.store import DiskStore
from dispy_trio.runtime.transfer import receive_message
from dispy_trio.seams import ByteStream, Store
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import Outside
from dispy_trio.testing import MemoryNetwork, deterministic_run, seeded_tokens
from dispy_trio.texts import FilePath
from tests.simulation.kit import PORT, SECRET, History, NoDirectories, ScriptedSpawner, Simulation

NUMBERS = {message_type: number for number, message_type in MESSAGE_TYPES.items()}
ODD: dict[object, list[object]] = {
    int: [-1, -(2**63), 2**63 - 1, 2**64 - 1, 0.5, "1"],
    float: [-1, -1e300, 1e300, 2**64 - 1, math.nan, math.inf, -math.inf, "1"],
    str: ["", "a\0b", "x" * 70_000, b"\xff", "../../x", 1],
    bytes: [b"", b"\xff" * 70_000, "text", None],
    FilePath: [
        b"",
        b"d/" * 1000 + b"x",
        b"d/" * 240 + b"x",
        b"a\0b",
        b"../../x",
        b"/x",
        b"\xe9",
        "",
    ],
    bool: [1, None],
    list: [None, [], [[]], [-1], [2**64 - 1], [0] * 100_000, [math.nan], [b""], [b"\xff" * 70_000]],
    dict: [None, {"x": -1}, {-1: -1}, {1: [1, [1]]}, {1: [1, [-1]]}, {"x": 2**63}],
}
"""What may be said in place of a value of some type."""

draw = seeded_tokens(1, "strangers")


def plain(hint: object) -> object:
    """A value that is nothing special."""
    bounds = msgspec.Meta()
    while typing.get_origin(hint) is typing.Annotated:
        hint, bounds = typing.get_args(hint)
    if hint is bytes:
        return bytes(bounds.min_length or 0)
    if hint in (int, float):
        return 1
    if attrs.has(hint if isinstance(hint, type) else object):
        return {name: plain(part) for name, part in fields(hint).items()}  # type: ignore[arg-type]
    origin = typing.get_origin(hint)
    if origin is list:
        return [plain(typing.get_args(hint)[0])]
    if origin is dict:
        return {}
    if hint is FilePath:
        return b"name"
    return None if origin is not None else hint()  # type: ignore[operator]


def odd(hint: object) -> list[object]:
    """What may be said instead."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return ODD.get(typing.get_origin(hint) or hint, [1, []])


def fields(message_type: type[Message]) -> dict[str, object]:
    return typing.get_type_hints(message_type, include_extras=True)


def frame(number: int, values: object) -> bytes:
    body = msgspec.msgpack.encode(values, enc_hook=FilePath.to_wire)
    return FRAME_HEADER.pack(len(body), number) + body


OF_NODES = {
    messages.Pong,
    messages.Goodbye,
    messages.SessionState,
    messages.NodeStatus,
    messages.NodeCpus,
    messages.AnswerSegments,
    messages.ComputationReady,
    messages.ComputationFailed,
    messages.ComputationClosed,
    messages.JobsStarted,
    messages.JobsReturned,
    messages.JobsFinished,
    messages.JobProvisional,
    messages.JobProgress,
    messages.JobOutput,
    messages.FileOffered,
}
"""What nodes say to clients. All else is said to nodes, who are to bear these nonetheless."""


def odd_frames(kinds: Collection[type[Message]] = tuple(NUMBERS)) -> Iterator[bytes]:
    """Every field of these messages, and of what lies in them, with every odd value."""
    for message_type in kinds:
        number = NUMBERS[message_type]
        usual = {name: plain(hint) for name, hint in fields(message_type).items()}
        yield frame(number, usual)
        for name, hint in fields(message_type).items():
            for value in odd(hint):
                yield frame(number, {**usual, name: value})
        for name, inner in (
            ("options", messages.ComputationOptions),
            ("conditions", Conditions),
        ):
            if name not in usual:
                continue
            inside = {part: plain(hint) for part, hint in fields(inner).items()}  # type: ignore[arg-type]
            for part, hint in fields(inner).items():  # type: ignore[arg-type]
                for value in odd(hint):
                    yield frame(number, {**usual, name: {**inside, part: value}})


@define(eq=False)
class Stranger:
    """A client of a node that says what it likes."""

    network: MemoryNetwork
    identity: str
    stream: ByteStream | None = None
    sessions: int = 0

    async def dial(self, kind: Kind = Kind.CONTROL) -> ByteStream:
        outside = make_outside(self.network, "10.0.0.9", [])
        hello = outside.hello(Role.CLIENT, kind, self.identity)
        net = self.network.host("10.0.0.9")
        stream, _ = await dial_connection(net, "10.0.0.2", PORT, SECRET.value, hello)
        return stream

    async def say(self, data: bytes | bytearray) -> None:
        """Say it, and wait until it is heard: the node answers, or ends the session."""
        if self.stream is None:
            self.stream = await self.dial()
            self.sessions += 1
        decoder = FrameDecoder("node")
        buffer = memoryview(bytearray(65536))
        try:
            await self.stream.send_all(data + encode(messages.Ping(77)))
            while count := await self.stream.receive_into(buffer):
                for kind, body in decoder.receive_data(buffer[:count]):
                    if decode(kind, body, "node") == messages.Pong(77):
                        return
        except DispyError:
            pass  # It was ended for what it said.
        await self.stream.aclose()
        self.stream = None

    async def leave(self) -> None:
        stream = self.stream or await self.dial()
        self.stream = None
        await stream.send_all(encode(messages.Goodbye("enough")))
        while await stream.receive_into(memoryview(bytearray(65536))):
            pass


def make_outside(
    network: MemoryNetwork, host: str, history: list[Any], store: Store | None = None
) -> Outside:
    async def read_status(seconds: float | None) -> messages.NodeStatus:
        await trio.sleep(seconds or 0)
        return messages.NodeStatus(50.0, 10**9, 10**10, 100.0)

    return Outside(
        net=network.host(host),
        spawner=ScriptedSpawner(random.Random(1), history),
        store=store or NoDirectories(Path("/nowhere")),
        secret=SECRET,
        processors=4,
        most_workers=100,
        draw_token=draw,
        read_status=read_status,
    )


def segments() -> int:
    """Memory files that this process has open, but for what nobody refers to any more."""
    gc.collect()
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            found += "memfd:dispy-trio" in os.readlink(entry.path)
        except OSError:
            pass  # The directory's own descriptor.
    return found


@define(eq=False)
class Beside:
    """An honest client of the same node."""

    simulation: Simulation
    engine: Engine
    ends: dict[int, list[str]] = field(factory=dict)

    async def works(self) -> None:
        """Ten jobs of its own are all right."""
        before = len(self.simulation.jobs)
        self.simulation.submit(self.engine, 10)
        with trio.fail_after(60):
            await self.engine.wait_drained()
        for number in range(before + 1, before + 11):
            assert self.simulation.ends[number] == ["Finished"]


@asynccontextmanager
async def honest(network: MemoryNetwork, store: Store | None = None) -> AsyncIterator[Beside]:
    """A node, and a client of it that has nothing to do with what else is said there."""
    simulation = Simulation(seed=1)
    simulation.network = network
    settings = NodeSettings(host="10.0.0.2", port=PORT, name="node", pulse_interval=1.0)
    cluster = ClusterSettings(choose_nodes([f"10.0.0.2:{PORT}"]), pulse_interval=1.0)
    work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
    doors = Doors(network.host("10.0.0.1"), SECRET, seeded_tokens(1, "honest"))
    async with trio.open_nursery() as nursery:
        await nursery.start(run_node, settings, make_outside(network, "10.0.0.2", [], store))
        async with open_engine(work, cluster, History(simulation), doors=doors) as engine:
            yield Beside(simulation, engine)
        nursery.cancel_scope.cancel()


def run(main: Callable[[MemoryNetwork], Any]) -> None:
    async def limited() -> None:
        with trio.fail_after(36_000):
            await main(MemoryNetwork(seed=1, jitter=0.0005))

    deterministic_run(limited, seed=1)


@pytest.mark.parametrize("opened", ["before", "never", "after its end"])
def test_no_message_to_a_node_is_felt_by_another_client(opened: str) -> None:
    opening = encode(messages.OpenComputation(1, "odd", "00", b"bundle", 0))
    closing = encode(messages.CloseComputation(1, terminate=True))
    frames = list(odd_frames())

    async def main(network: MemoryNetwork) -> None:
        before = segments()
        async with honest(network) as beside:
            await beside.works()
            for start in range(0, len(frames), 200):
                stranger = Stranger(network, f"{start:032x}")
                if opened != "never":
                    await stranger.say(opening)
                    await trio.sleep(1)
                if opened == "after its end":
                    await stranger.say(closing)
                    await stranger.say(closing)
                for data in frames[start : start + 200]:
                    await stranger.say(data)
                assert stranger.sessions
                await beside.works()
                await stranger.leave()
            await trio.sleep(100)
        assert segments() <= before

    run(main)


def test_no_blob_to_a_node_is_felt_by_another_client() -> None:
    job = messages.RunBulkJob(1, 1, 0, 5, [10], -1)
    opening = messages.OpenComputation(2, "odd", "00", b"", 5, arguments_size=100)
    chunks = [
        encode_chunk_header(5, 2**63, 0, 4) + b"more",
        encode_chunk_header(5, 2**40, 0, 4) + b"more",
        encode_chunk_header(5, 4, 0, 4) + b"less",
        encode_chunk_header(5, 4, 0, 4) + b"once" + encode_chunk_header(5, 4, 0, 4) + b"more",
        encode_chunk_header(5, 40, 0, 4) + b"part" + encode_chunk_header(5, 40, 8, 4) + b"gap!",
        encode_chunk_header(5, 0, 0, 0),
        encode_chunk_header(0, 4, 0, 4) + b"none",
        encode_chunk_header(6, 400, 0, 4) + b"part",
    ]

    async def main(network: MemoryNetwork) -> None:
        before = segments()
        async with honest(network) as beside:
            for index, (chunk, first) in enumerate((c, f) for c in chunks for f in (job, opening)):
                stranger = Stranger(network, f"{index:032x}")
                await stranger.say(encode(messages.OpenComputation(1, "odd", "00", b"b", 0)))
                bulk = await stranger.dial(Kind.BULK)
                await stranger.say(encode(first))
                await bulk.send_all(chunk)
                await trio.sleep(0.1)
                await stranger.say(encode(messages.Ping(1)))
                await beside.works()
                await stranger.leave()
                await bulk.aclose()
            await trio.sleep(100)
        assert segments() <= before

    run(main)


def test_a_watcher_that_asks_again_is_told_no_more_often() -> None:
    async def main(network: MemoryNetwork) -> None:
        async with honest(network):
            stranger = Stranger(network, "aa" * 16)
            for _ in range(500):
                await stranger.say(encode(messages.WatchNode(1.0, False)))
            assert stranger.stream is not None
            await trio.sleep(10)
            buffer = memoryview(bytearray(1 << 20))
            decoder = FrameDecoder("node")
            told = 0
            with trio.move_on_after(1):
                while count := await stranger.stream.receive_into(buffer):
                    for kind, _body in decoder.receive_data(buffer[:count]):
                        told += MESSAGE_TYPES[kind] is messages.NodeStatus
            assert 0 < told <= 12
            await stranger.leave()

    run(main)


# --- files -----------------------------------------------------------------------------------------
async def test_no_file_is_felt_by_another_client(tmp_path: Path) -> None:
    """On a real clock: files are handled in threads."""
    network = MemoryNetwork(seed=1, latency=0.0, jitter=0.0)
    store = DiskStore(tmp_path / "node")
    usual = {name: plain(hint) for name, hint in fields(messages.PutFile).items()}
    usual |= {"size": 4, "digest": hashlib.sha256(b"text").hexdigest(), "dest_path": b""}
    changes = [
        {},
        *({name: value} for name, hint in fields(messages.PutFile).items() for value in odd(hint)),
    ]
    with trio.fail_after(120):
        async with honest(network, store) as beside:
            stranger = Stranger(network, "cd" * 16)
            await stranger.say(b"")
            stored = 0
            for change in changes:
                stream = await stranger.dial(Kind.FILE)
                try:
                    await stream.send_all(frame(NUMBERS[messages.PutFile], {**usual, **change}))
                    answer = await receive_message(stream)
                    if isinstance(answer, messages.FileWanted):
                        await stream.send_all(b"text")
                        answer = await receive_message(stream)
                    stored += isinstance(answer, messages.FileStored)
                except DispyError:
                    pass  # That connection was ended for it.
                await stream.aclose()
            assert stored > 3, "what is not odd is stored"
            await stranger.say(b"")
            assert stranger.sessions == 1, "its session has not suffered either"
            await beside.works()
            await stranger.leave()
    assert not list(tmp_path.parent.glob("x")), "nothing was stored elsewhere"


# --- a node to a client ----------------------------------------------------------------------------
@define(eq=False)
class OddNode:
    """A node that says something odd in each of its sessions."""

    frames: Iterator[bytes]
    done: trio.Event = field(factory=trio.Event)

    async def serve(self, stream: ByteStream) -> None:
        hello = make_outside(MemoryNetwork(), "10.0.0.3", []).hello
        try:
            theirs = await accept_connection(
                stream, SECRET.value, hello(Role.NODE, Kind.CONTROL, "0dd" * 10 + "00")
            )
            if theirs.kind == Kind.CONTROL:
                await self.be_odd(stream)
            await stream.receive_into(memoryview(bytearray(65536)))
        except DispyError:
            pass  # The client has had enough.
        await stream.aclose()

    async def be_odd(self, stream: ByteStream) -> None:
        await stream.send_all(encode(messages.SessionState("odd", 1, "", [], [], [1])))
        for data in self.frames:
            await stream.send_all(data + encode(messages.Ping(77)))
            decoder = FrameDecoder("client")
            buffer = memoryview(bytearray(1 << 20))
            answered = False
            while not answered:
                if not (count := await stream.receive_into(buffer)):
                    return
                for kind, body in decoder.receive_data(buffer[:count]):
                    answered |= decode(kind, body, "client") == messages.Pong(77)
        self.done.set()


def test_no_message_of_a_node_is_felt_by_another_node() -> None:
    async def main(network: MemoryNetwork) -> None:
        simulation = Simulation(seed=1)
        settings = NodeSettings(host="10.0.0.2", port=PORT, name="node", pulse_interval=60.0)
        addresses = choose_nodes([f"10.0.0.2:{PORT}", f"10.0.0.3:{PORT}"])
        cluster = ClusterSettings(addresses, pulse_interval=60.0, reentrant=True)
        work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
        doors = Doors(network.host("10.0.0.1"), SECRET, seeded_tokens(1, "honest"))
        odd_node = OddNode(odd_frames(sorted(OF_NODES, key=NUMBERS.__getitem__)))
        listener = await network.host("10.0.0.3").listen("10.0.0.3", PORT)

        async def accept() -> None:
            with contextlib.suppress(ConnectionLost):
                while True:
                    nursery.start_soon(odd_node.serve, await listener.accept())

        async with trio.open_nursery() as nursery:
            await nursery.start(run_node, settings, make_outside(network, "10.0.0.2", []))
            async with open_engine(work, cluster, History(simulation), doors=doors) as engine:
                await engine.usable.wait()
                session = engine.links[f"10.0.0.2:{PORT}"]._peer
                nursery.start_soon(accept)
                while not odd_node.done.is_set():
                    simulation.submit(engine, 3)
                    await trio.sleep(100)
                network.host("10.0.0.3").crash()
                simulation.submit(engine, 10)
                with trio.fail_after(600):
                    await engine.wait_drained()
                assert engine.links[f"10.0.0.2:{PORT}"]._peer is session, "it was never lost"
            nursery.cancel_scope.cancel()
        assert len(simulation.ends) == len(simulation.jobs)
        for number in range(len(simulation.jobs) - 9, len(simulation.jobs) + 1):
            assert simulation.ends[number] == ["Finished"]

    run(main)


def test_a_result_with_sizes_that_do_not_fit_is_its_job_s_alone() -> None:
    """They come out of the job's own process."""
    message = messages.JobsFinished(
        [1, 2], [0, 0], [0, 0], [1.0, 1.0], [2.0, 2.0], [b"", b""],
        outputs={}, blobs={}, segments={},
    )  # fmt: skip
    _take_parts(message, 0, memoryview(b"four".ljust(64)), [65, 0, 0])
    _take_parts(message, 1, memoryview(b"four".ljust(64)), [4, 0, 0])
    assert message.outcomes == [Outcome.UNPICKLABLE, Outcome.RETURNED]
    assert b"do not fit" in message.payloads[0]
    assert message.payloads[1] == [b"four"]
