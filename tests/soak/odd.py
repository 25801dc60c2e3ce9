"""A holder of the secret that says odd things to a node, in odd states, roles and amounts.

What each of these needs to have been said before, it says; whether it was heard is of no interest.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import secrets
import sys
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field

from dispy_trio import messages
from dispy_trio.errors import DispyError
from dispy_trio.messages import Message
from dispy_trio.protocol.auth import NONCE_SIZE, PROTOCOL_VERSION, Hello, Kind, Role
from dispy_trio.protocol.codec import encode
from dispy_trio.protocol.framing import encode_chunk_header
from dispy_trio.runtime.net import TcpNet
from dispy_trio.runtime.peer import dial_connection
from dispy_trio.runtime.secret import choose_secret
from dispy_trio.runtime.segments import offer
from dispy_trio.seams import ByteStream
from dispy_trio.texts import FilePath
from tests.integration.test_odd_messages import odd_frames

__all__ = ["ODDITIES", "be_odd"]

PATIENCE = 10.0
"""Seconds for one oddity: what it waits for may never come."""
MANY = 5000
FRAMES = list(odd_frames())


@define(eq=False)
class Odd:
    """One session with a node."""

    host: str
    port: int
    draw: random.Random
    identity: str = field(factory=lambda: secrets.token_hex(16))
    stream: ByteStream | None = None

    async def dial(self, kind: Kind = Kind.CONTROL, role: Role = Role.CLIENT) -> ByteStream:
        nonce = secrets.token_bytes(NONCE_SIZE)
        hello = Hello(PROTOCOL_VERSION, sys.version_info[:2], role, kind, self.identity, nonce)
        secret = choose_secret().value
        stream, _ = await dial_connection(TcpNet(), self.host, self.port, secret, hello)
        return stream

    async def say(self, *said: Message | bytes | bytearray) -> None:
        """Say it in one piece."""
        if self.stream is None:
            self.stream = await self.dial()
        await self.stream.send_all(
            b"".join(m if isinstance(m, bytes | bytearray) else encode(m) for m in said)
        )

    async def open(self, number: int = 1) -> None:
        await self.say(messages.OpenComputation(number, "odd", "00", b"no bundle", 0))

    async def hear(self, seconds: float) -> None:
        """Read what comes for so long, or until the end."""
        assert self.stream is not None
        buffer = memoryview(bytearray(65536))
        with trio.move_on_after(seconds):
            while await self.stream.receive_into(buffer):
                pass

    async def leave(self) -> None:
        """At random as one should, or as if the cable was pulled."""
        if self.stream is not None and self.draw.random() < 0.5:
            await self.say(messages.Goodbye("enough"))
            await self.hear(1)
        if self.stream is not None:
            await self.stream.aclose()


async def say_odd_values(odd: Odd) -> None:
    for data in odd.draw.sample(FRAMES, 50):
        odd.stream = None
        await odd.open()
        await odd.say(data)
        await odd.hear(0.02)


async def say_much(odd: Odd) -> None:
    """Numbers of jobs that were never there, a hundred thousand in a message."""
    numbers = list(range(100_000))
    await odd.say(messages.CancelJobs(numbers, numbers))
    await odd.say(messages.CancelJobs(numbers, numbers[1:]))
    await odd.say(messages.AckResults(numbers), messages.AckResults([7] * 100_000))
    await odd.hear(0.2)


async def open_many(odd: Odd) -> None:
    await odd.say(*[messages.OpenComputation(n, "odd", "00", b"none", 0) for n in range(1, 30)])
    await odd.hear(0.5)


async def open_and_close(odd: Odd) -> None:
    for _ in range(100):
        await odd.open()
        await odd.say(messages.CloseComputation(1, True), messages.CloseComputation(1, False))
    await odd.hear(0.5)


async def watch_often(odd: Odd) -> None:
    await odd.say(*[messages.WatchNode(0.0, n % 2 == 0) for n in range(MANY)])
    await odd.hear(0.5)


async def jobs_without_blobs(odd: Odd) -> None:
    await odd.open()
    await odd.say(*[messages.RunBulkJob(1, n, 0, n, [10], -1) for n in range(1, MANY)])
    await odd.hear(0.3)


async def blobs_that_never_end(odd: Odd) -> None:
    """Each of them has a descriptor and memory of the node's."""
    await odd.open()
    bulk = await odd.dial(Kind.BULK)
    for number in range(1, MANY):
        await bulk.send_all(encode_chunk_header(number, 10_000_000, 0, 4) + b"part")
    await odd.hear(0.5)


async def blobs_for_no_message(odd: Odd) -> None:
    await odd.open()
    bulk = await odd.dial(Kind.BULK)
    for number in range(1, MANY):
        await bulk.send_all(encode_chunk_header(number, 4, 0, 4) + b"blob")
    await odd.hear(0.5)


async def segments_of_others(odd: Odd) -> None:
    """Descriptors that are none, or no memory, or shorter than is said, or shrink."""
    token = secrets.token_bytes(32)
    offered = offer(token)
    null, pipe = os.open("/dev/zero", os.O_RDWR), os.pipe()
    short = os.memfd_create("short")
    os.ftruncate(short, 1000)
    try:
        for process in (os.getpid(), os.getppid(), 1, 2**31 - 1):
            await odd.say(messages.OfferSegments(process, offered, token))
        for descriptor in (0, offered, null, *pipe, short, 2**31 - 1):
            for sizes in ([0], [2**50], [2**50] * 9000, [1001], [1000], [1, 1000], []):
                odd.stream = None
                await odd.say(messages.OfferSegments(os.getpid(), offered, token))
                await odd.open()
                await odd.say(messages.RunBulkJob(1, 1, 0, 0, sizes, descriptor))
            await odd.hear(0.02)
        os.ftruncate(short, 0)
        await odd.hear(0.2)
    finally:
        for descriptor in (offered, null, *pipe, short):
            os.close(descriptor)


async def lend_much(odd: Odd) -> None:
    """The same memory for thousands of jobs, each of which holds it open."""
    token = secrets.token_bytes(32)
    offered = offer(token)
    try:
        await odd.say(messages.OfferSegments(os.getpid(), offered, token))
        await odd.open()
        await odd.say(*[messages.RunBulkJob(1, n, 0, 0, [32], offered) for n in range(1, MANY)])
        await odd.hear(0.5)
    finally:
        os.close(offered)


async def put_odd_files(odd: Odd) -> None:
    await odd.say(messages.Ping(1))
    digest = hashlib.sha256(b"text").hexdigest()
    names = (b"/etc/x", b"../x", b"a/../../x", b"d/" * 300 + b"x", b"x" * 250, b"", b".", b"a\0b")
    for path, place in itertools.product(names, (b"", b"/tmp", b"../..", b"d")):
        stream = await odd.dial(Kind.FILE, odd.draw.choice((Role.CLIENT, Role.NODE)))
        try:
            to, name = FilePath(place), FilePath(path)
            message = messages.PutFile(1, 1, 0, to, name, 4, digest, 0o7777, 0.0)
            await stream.send_all(
                encode(message) + odd.draw.choice((b"text", b"more than that", b""))
            )
        except DispyError:
            pass  # It was ended for it, or no receiver would take it.
        await stream.aclose()


async def guess_files(odd: Odd) -> None:
    for _ in range(50):
        stream = await odd.dial(Kind.FILE)
        await stream.send_all(encode(messages.FetchFile(1, secrets.token_hex(16))))
        await stream.aclose()


async def come_often(odd: Odd) -> None:
    """The same session again and again, and its bulk connection twice."""
    kept = [await odd.dial(odd.draw.choice((Kind.CONTROL, Kind.BULK))) for _ in range(60)]
    for stream in kept:
        await stream.aclose()


async def sessions(odd: Odd) -> None:
    for _ in range(200):
        odd.identity = secrets.token_hex(16)
        odd.stream = None
        await odd.say(messages.WatchNode(0.1, True))


ODDITIES: tuple[Callable[[Odd], Awaitable[None]], ...] = (
    say_odd_values,
    say_much,
    open_many,
    open_and_close,
    watch_often,
    jobs_without_blobs,
    blobs_that_never_end,
    blobs_for_no_message,
    segments_of_others,
    lend_much,
    put_odd_files,
    guess_files,
    come_often,
    sessions,
)


def be_odd(address: str, seed: int, count: int = 3) -> None:
    """Do some of all this to a node."""
    draw = random.Random(seed)
    host, _, port = address.rpartition(":")

    async def main() -> None:
        for oddity in draw.sample(ODDITIES, count):
            odd = Odd(host, int(port), draw)
            with trio.move_on_after(PATIENCE):
                try:
                    await oddity(odd)
                    await odd.leave()
                except DispyError:
                    pass  # The node has ended it, as it may.

    trio.run(main)
