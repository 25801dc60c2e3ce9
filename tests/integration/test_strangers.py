"""Connections that a node refuses, or that fail as they come: nothing of them stays."""

from __future__ import annotations

import errno
import gc
import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from attrs import define, field

from dispy_trio import seams
from dispy_trio.config import NodeSettings
from dispy_trio.errors import ConnectionLost, DispyError
from dispy_trio.messages import Goodbye
from dispy_trio.protocol.auth import (
    NONCE_SIZE,
    PROOF_SIZE,
    PROTOCOL_VERSION,
    Hello,
    Kind,
    Role,
)
from dispy_trio.protocol.codec import encode
from dispy_trio.protocol.framing import encode_chunk_header
from dispy_trio.runtime import net
from dispy_trio.runtime.net import TcpNet, TcpStream
from dispy_trio.runtime.peer import dial_connection
from dispy_trio.runtime.secret import choose_secret
from dispy_trio.services.node import NodeService, run_node
from dispy_trio.services.outside import real_outside

SECRET = "known to the node, and to no stranger"
LIMIT = 30.0
STRANGERS = 40
"""Of each kind; a TLS connection that stays is 50 KiB, and one object to be counted."""


def make_hello() -> Hello:
    nonce = os.urandom(NONCE_SIZE)
    return Hello(PROTOCOL_VERSION, sys.version_info[:2], Role.CLIENT, Kind.CONTROL, "5" * 32, nonce)


@define(eq=False)
class Refusals(logging.Handler):
    """Waits for what the node says of refused connections."""

    count: int = 0
    changed: trio.Event = field(factory=trio.Event)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().startswith("refused a connection")
        self.changed.set()
        self.changed = trio.Event()

    async def wait(self, count: int) -> None:
        while self.count < count:
            await self.changed.wait()


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    handler = Refusals()
    log = logging.getLogger("dispy_trio.node")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)  # Most of one source are told to nobody else.
    yield handler
    log.setLevel(logging.NOTSET)
    log.removeHandler(handler)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what nothing refers to goes: a node looks for circles too seldom to count on it."""
    thresholds = gc.get_threshold()
    gc.disable()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()
    gc.collect()


async def start(nursery: trio.Nursery, where: seams.Net, tmp_path: Path) -> int:
    settings = NodeSettings(port=0, cpus=1, secret=SECRET, dest_path_prefix=tmp_path)
    outside = attrs.evolve(real_outside(settings), net=where)
    control = await nursery.start(run_node, settings, outside)
    port: int = control.port
    return port


async def says_nothing(stream: trio.abc.Stream) -> None:
    """Connects and goes."""


async def babbles(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
    await stream.receive_some()


async def leaves_halfway(stream: trio.abc.Stream) -> None:
    await stream.send_all(make_hello().encode())


async def proves_nothing(stream: trio.abc.Stream) -> None:
    await stream.send_all(make_hello().encode() + b"?" * PROOF_SIZE)
    while await stream.receive_some():
        pass


async def is_dropped(stream: trio.abc.Stream) -> None:
    """Waits until the node has had enough of it."""
    await stream.receive_some()


Behaviour = Callable[[trio.abc.Stream], object]


async def be_stranger(port: int, encrypted: bool, behaviour: Behaviour) -> None:
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(trio.aclose_forcefully, stream)
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            stream = trio.SSLStream(stream, context)
        try:
            await behaviour(stream)  # type: ignore[misc]
        except trio.BrokenResourceError:
            pass  # It was refused.


def connections(kind: type) -> int:
    """Of ours, that are still in memory. The strangers here have streams of Trio's own."""
    return sum(1 for thing in gc.get_objects() if type(thing) is kind)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "behaviour", [says_nothing, babbles, leaves_halfway, proves_nothing, is_dropped]
)
async def test_a_refused_connection_leaves_nothing_in_memory(
    behaviour: Behaviour,
    encrypted: bool,
    refusals: Refusals,
    no_collector: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispy_trio.runtime.peer.HANDSHAKE_TIMEOUT", 0.5)
    kind = net.TlsStream if encrypted else TcpStream
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await start(nursery, TcpNet(force_tls=encrypted), tmp_path)
            async with trio.open_nursery() as strangers:
                for _ in range(STRANGERS):
                    strangers.start_soon(be_stranger, port, encrypted, behaviour)
            await refusals.wait(STRANGERS)
            await trio.testing.wait_all_tasks_blocked()
            assert connections(kind) == 0
            # The TLS of the strangers themselves is in circles of Trio's; the node's is not.
            nodes = [o for o in gc.get_objects() if isinstance(o, ssl.SSLObject) and o.server_side]
            assert not nodes
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
async def test_a_client_that_is_refused_again_and_again_keeps_nothing(
    encrypted: bool, no_collector: None, tmp_path: Path
) -> None:
    network = TcpNet(force_tls=encrypted)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await start(nursery, network, tmp_path)
            for _ in range(STRANGERS):
                with pytest.raises(DispyError, match="does not accept our secret"):
                    await dial_connection(network, "127.0.0.1", port, b"another", make_hello())
            await trio.testing.wait_all_tasks_blocked()
            assert connections(net.TlsStream) == connections(TcpStream) == 0
            assert connections(ssl.SSLObject) == 0
            nursery.cancel_scope.cancel()


async def test_a_dialler_keeps_nothing_of_who_does_not_speak_tls(no_collector: None) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example.org ESMTP\r\n")

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, answer, 0)
            port = listeners[0].socket.getsockname()[1]
            for _ in range(STRANGERS):
                with pytest.raises(DispyError, match="TLS failed"):
                    await TcpNet(force_tls=True).dial("127.0.0.1", port)
            await trio.testing.wait_all_tasks_blocked()
            # But for one, perhaps: that of the last error, which may be at hand still.
            assert connections(ssl.SSLObject) <= 1
            nursery.cancel_scope.cancel()


async def test_a_tls_stream_that_is_closed_under_its_reader_breaks_for_it() -> None:
    network = TcpNet(force_tls=True)
    broken = trio.Event()

    async def read(stream: seams.ByteStream) -> None:
        with pytest.raises(ConnectionLost):
            await stream.receive_into(memoryview(bytearray(10)))
        broken.set()

    with trio.fail_after(LIMIT):
        listener = await network.listen("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            accepted: list[seams.ByteStream] = []

            async def accept() -> None:
                accepted.append(await listener.accept())
                nursery.start_soon(read, accepted[0])

            nursery.start_soon(accept)
            dialled = await network.dial(*listener.address)
            await trio.testing.wait_all_tasks_blocked()
            await accepted[0].aclose()
            await broken.wait()
            with pytest.raises(ConnectionLost, match="closed"):
                await accepted[0].send_all(b"too late")
            await accepted[0].aclose()
            await dialled.aclose()
        await listener.aclose()


# --- errors of accept ------------------------------------------------------------------------
@define(eq=False)
class FailingSocket:
    """A listening socket whose `accept` fails so and so often."""

    inner: trio.socket.SocketType
    error: BaseException
    times: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def accept(self) -> object:
        if self.times:
            self.times -= 1
            raise self.error
        return await self.inner.accept()


ERRNOS = sorted(set(errno.errorcode) - {errno.EAGAIN})


async def accept_after(
    error: BaseException, times: int, monkeypatch: pytest.MonkeyPatch
) -> seams.ByteStream:
    monkeypatch.setattr(net, "ACCEPT_PAUSE", 0.001)
    listener = await TcpNet().listen("127.0.0.1", 0)
    listener._socket = FailingSocket(listener._socket, error, times)  # type: ignore[assignment]
    client = await TcpNet().dial(*listener.address)
    with trio.fail_after(LIMIT):
        stream = await listener.accept()
    await client.aclose()
    await listener.aclose()
    return stream


@pytest.mark.parametrize("number", ERRNOS, ids=[errno.errorcode[n] for n in ERRNOS])
async def test_no_error_of_accept_ends_a_listener(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await (await accept_after(OSError(number, os.strerror(number)), 3, monkeypatch)).aclose()
    # Of a single connection nobody need hear; of what lasts, once.
    assert len(caplog.records) == (0 if number in net._OF_ONE_CONNECTION else 1)


async def test_an_error_of_single_connections_that_never_ends_is_told_and_waited_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = PermissionError(errno.EPERM, "not permitted")
    await (await accept_after(error, 2 * net.MOST_FAILURES, monkeypatch)).aclose()
    (record,) = caplog.records
    assert "can't take new connections" in record.getMessage()


async def test_a_closed_listener_ends_accepting() -> None:
    listener = await TcpNet().listen("127.0.0.1", 0)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept() -> None:
                with pytest.raises(ConnectionLost, match=r"listener .* is closed"):
                    await listener.accept()

            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
        with pytest.raises(ConnectionLost, match=r"listener .* is closed"):
            await listener.accept()


@pytest.mark.parametrize("error", [OSError(errno.EINVAL, "gone"), ssl.SSLError(1, "no memory")])
async def test_a_connection_that_can_not_be_set_up_is_closed_and_the_next_one_taken(
    error: OSError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = TcpNet()
    listener = await network.listen("127.0.0.1", 0)
    tuned: list[object] = []

    def tune(sock: object) -> None:
        tuned.append(sock)
        if len(tuned) == 1:
            raise error

    with trio.fail_after(LIMIT):
        first = await trio.open_tcp_stream(*listener.address)
        second = await trio.open_tcp_stream(*listener.address)
        monkeypatch.setattr(net, "_tune", tune)
        stream = await listener.accept()
        assert await first.receive_some() == b""
        assert len(caplog.records) == 1
        await second.send_all(b"x")
        assert await stream.receive_into(memoryview(bytearray(1))) == 1
        for closable in (first, second, stream, listener):
            await closable.aclose()


@pytest.mark.parametrize("ending", ["goodbye", "control first", "bulk first"])
async def test_a_client_that_is_lost_as_it_sends_leaves_no_memory(
    ending: str, no_collector: None, tmp_path: Path
) -> None:
    """What comes goes into memory files: each would keep its memory, and a descriptor or two."""
    network = TcpNet()
    before = memory_files()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await start(nursery, network, tmp_path)
            secret = choose_secret(text=SECRET).value
            for _ in range(5):
                control, bulk = [
                    (await dial_connection(network, "127.0.0.1", port, secret, hello))[0]
                    for hello in (make_hello(), attrs.evolve(make_hello(), kind=Kind.BULK))
                ]
                await bulk.send_all(encode_chunk_header(1, 4, 0, 4) + b"blob")
                await bulk.send_all(encode_chunk_header(2, 4000, 0, 4) + b"part")
                await has_memory_files(before + 2)
                if ending == "goodbye":
                    await control.send_all(encode(Goodbye("enough")))
                    while await control.receive_into(memoryview(bytearray(1000))):
                        pass
                streams = (bulk, control) if ending == "bulk first" else (control, bulk)
                for stream in streams:
                    await stream.aclose()
                await has_memory_files(before)
            nursery.cancel_scope.cancel()


async def has_memory_files(count: int) -> None:
    while memory_files() != count:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)


def memory_files() -> int:
    """Those of the node that are open, in this very process, also where nobody knows them any more."""
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            found += os.readlink(entry.path).startswith("/memfd:dispy-trio")
        except OSError:
            pass  # The directory's own descriptor.
    return found


# --- one connection's barrier ----------------------------------------------------------------
@pytest.mark.parametrize("where", ["_authenticate", "_serve_session"])
async def test_an_error_in_the_service_of_one_connection_ends_that_one_alone(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = True
    honest = getattr(NodeService, where)

    async def fail_once(self: NodeService, *args: object) -> object:
        nonlocal failing
        if failing:
            failing = False
            raise ExceptionGroup("several", [ZeroDivisionError("of our own")])
        return await honest(self, *args)

    monkeypatch.setattr(NodeService, where, fail_once)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await start(nursery, TcpNet(), tmp_path)
            arguments = ("127.0.0.1", port, choose_secret(text=SECRET).value, make_hello())
            if where == "_authenticate":
                with pytest.raises(DispyError):
                    await dial_connection(TcpNet(), *arguments)
            else:
                stream, _ = await dial_connection(TcpNet(), *arguments)
                assert await stream.receive_into(memoryview(bytearray(1))) == 0
                await stream.aclose()
            stream, _ = await dial_connection(TcpNet(), *arguments)
            assert await stream.receive_into(memoryview(bytearray(1))) == 1
            await stream.aclose()
            nursery.cancel_scope.cancel()
    assert any("by an error here" in record.getMessage() for record in caplog.records)
