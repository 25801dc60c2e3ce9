"""The files of clients and jobs on a node, over a network in memory and on a real disk."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.client.files import fetch_offered, put_files
from dispy_trio.config import NodeSettings
from dispy_trio.errors import DispyError, RemoteError
from dispy_trio.models import JobFile
from dispy_trio.protocol.auth import PROTOCOL_VERSION, Hello, Kind, Role
from dispy_trio.protocol.codec import decode, encode
from dispy_trio.protocol.framing import FRAME_HEADER
from dispy_trio.runtime.removal import Removal
from dispy_trio.runtime.store import DiskStore
from dispy_trio.services.files import FileService
from dispy_trio.services.outside import Outside, real_outside
from dispy_trio.services.places import Place, Places
from dispy_trio.testing import MemoryHost, MemoryNetwork

CLIENT, NODE, PORT = "10.0.0.1", "10.0.0.2", 9701
LONG = "n" * 240
LONGEST = "\N{SNOWMAN}" * 85
"""255 bytes."""
NO_TEXT = "caf\udce9.txt"
"""A name that is no UTF-8."""


@define(eq=False)
class Bench:
    """A node's files, and clients that put some there."""

    store: DiskStore
    places: Places
    files: FileService
    here: MemoryHost
    sessions: set[str] = field(factory=set)

    async def serve(self, listener: seams.Listener) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._serve, await listener.accept())

    async def _serve(self, stream: seams.ByteStream) -> None:
        length = memoryview(bytearray(4))
        await stream.receive_into(length)
        session = bytes(length).decode()
        theirs = Hello(PROTOCOL_VERSION, (3, 11), Role.CLIENT, Kind.FILE, session, b"")
        try:
            await self.files.serve(stream, theirs, lambda: True)
        except DispyError:
            pass  # The client is gone.

    async def dial(self, session: str) -> seams.ByteStream:
        stream = await self.here.dial(NODE, PORT)
        await stream.send_all(session.encode())
        return stream

    async def put(
        self, session: str, source: Path, target: str, *, job: int = 0, dest_path: str = ""
    ) -> int:
        """Put a file there; returns the bytes sent."""
        file = JobFile(str(source), target)
        return await put_files(lambda: self.dial(session), "n", [file], 1, job, dest_path)

    async def place(self, session: str) -> Place:
        return await self.places.open((session, 1), CLIENT, "")

    async def ask(self, session: str, kind: str, **body: Any) -> dict[str, Any]:
        """As a job of that session does."""
        key = (session, 1)
        return await self.files.answer(key, CLIENT, await self.place(session), kind, body)

    async def offer(self, session: str, job: int, path: str) -> None:
        """Send a job's file to the client, right into its current directory."""
        async with trio.open_nursery() as nursery:

            async def fetch(offered: messages.FileOffered) -> None:
                await fetch_offered(lambda: self.dial(session), "n", offered)
                self.files.answered(messages.FileAnswer(offered.request, ""))

            def send(message: messages.Message) -> None:
                assert isinstance(message, messages.FileOffered)
                nursery.start_soon(fetch, message)

            await self.files.offer(send, await self.place(session), job, path, 5)


@asynccontextmanager
async def open_bench(root: Path) -> AsyncIterator[Bench]:
    network = MemoryNetwork(whole=True, latency=0)
    real = real_outside(NodeSettings(dest_path_prefix=root, secret="x" * 32))
    store = real.store
    assert isinstance(store, DiskStore)
    outside = Outside(
        net=network.host(NODE),
        spawner=real.spawner,
        store=store,
        secret=real.secret,
        processors=1,
        most_workers=100,
        draw_token=real.draw_token,
        read_status=real.read_status,
    )
    places = Places(store)
    bench = Bench(
        store,
        places,
        FileService(outside, "0" * 32, NODE, PORT, places),
        network.host(CLIENT),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)  # noqa: ASYNC113 - nothing waits for it
        listener = await network.host(NODE).listen(NODE, PORT)
        nursery.start_soon(bench.serve, listener)  # noqa: ASYNC113 - it listens already
        yield bench
        await store.aclose()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path / "root") as bench:
        yield bench


def fill(path: Path, content: str | bytes = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def content_of(*parts: str | Path) -> bytes:
    return Path(*parts).read_bytes()


def is_there(path: str | Path) -> bool:
    return os.path.lexists(path)


async def wait_until_gone(*paths: str | Path) -> None:
    """Removal is not announced; it is short."""
    with trio.fail_after(10):
        while any(is_there(path) for path in paths):  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.002)


# --- off the loop ----------------------------------------------------------------------------
TOUCHES = ("os.", "open", "shutil.", "glob.", "pathlib.", "fcntl.", "tempfile.")
_watched: list[tuple[int, list[str]]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event.startswith(TOUCHES) and threading.get_ident() == _watched[0][0]:
        _watched[0][1].append(f"{event} {args}")


@contextmanager
def watch_this_thread() -> Iterator[list[str]]:
    """What this thread does with files."""
    if not hasattr(sys, "_dispy_trio_audited"):
        sys.addaudithook(_audit)
        sys._dispy_trio_audited = True  # type: ignore[attr-defined]
    seen: list[str] = []
    _watched.append((threading.get_ident(), seen))
    try:
        yield seen
    finally:
        _watched.clear()


async def test_no_file_is_touched_where_messages_are_served(bench: Bench, tmp_path: Path) -> None:
    source = fill(tmp_path / "source")
    with watch_this_thread() as seen:
        await bench.put("aaaa", source, "shared/file")
        await bench.put("bbbb", source, "shared/copy")
        await bench.put("aaaa", source, "shared/of job", job=1)
        await bench.put("cccc", source, "file", dest_path="lasting")
        place = await bench.place("aaaa")
        directory = place.jobs[1]
        kept = await bench.ask("aaaa", "keep_file", path=f"{directory}/shared/of job")
        await bench.ask("aaaa", "fetch_file", **kept)
        await bench.put("aaaa", source, "again", job=1)
        place.forget_jobs([1, 2])
        for session in "aaaa", "bbbb", "cccc":
            bench.files.forget((session, 1))
            await bench.places.release((session, 1), keep=False)
        await bench.store.aclose()
    assert seen == []
    assert os.listdir(tmp_path / "root" / "clients" / CLIENT) == []


async def test_who_waits_for_a_removal_is_nobody(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, free = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    work = Removal.work

    def work_slowly(removal: Removal, seconds: float) -> bool:
        token.run_sync_soon(begun.set)
        assert free.wait(30)
        return work(removal, seconds)

    monkeypatch.setattr(Removal, "work", work_slowly)
    source = fill(tmp_path / "source")
    try:
        await bench.put("aaaa", source, "file", job=1)
        place = await bench.place("aaaa")
        old = place.jobs[1]
        place.forget_jobs([1])
        await begun.wait()
        with trio.fail_after(5):
            await bench.put("bbbb", source, "file", job=1)
            # The same job's next try has a directory of its own, too.
            await bench.put("aaaa", source, "file", job=1)
        assert is_there(old)
    finally:
        free.set()
    await wait_until_gone(old)
    assert content_of(place.jobs[1], "file") == b"content"


async def test_a_directory_made_for_a_closed_computation_goes_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client leaves while its files still come."""
    source = fill(tmp_path / "source")
    place = await bench.place("aaaa")
    made: list[str] = []
    make = DiskStore.make_directory

    async def make_and_close(store: DiskStore, name: str) -> str:
        made.append(await make(store, name))
        await bench.places.release(("aaaa", 1), keep=False)
        return made[-1]

    monkeypatch.setattr(DiskStore, "make_directory", make_and_close)
    with pytest.raises(RemoteError, match="the computation is closed"):
        await bench.put("aaaa", source, "file", job=1)
    await wait_until_gone(place.directory, *made)


# --- shared contents -------------------------------------------------------------------------
async def test_clients_that_share_a_file_come_and_go(bench: Bench, tmp_path: Path) -> None:
    content = os.urandom(4_000_000)
    source = fill(tmp_path / "source", content)

    async def come_and_go(session: str) -> None:
        for _ in range(3):
            await bench.put(session, source, "shared")
            directory = (await bench.place(session)).directory
            assert content_of(directory, "shared") == content
            bench.files.forget((session, 1))
            await bench.places.release((session, 1), keep=False)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(come_and_go, f"{number:04}")


async def test_what_is_here_is_copied_and_not_sent_again(bench: Bench, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", b"x" * 3_000_000)
    assert await bench.put("aaaa", source, "one") == 3_000_000
    assert await bench.put("aaaa", source, "one") == 0
    assert await bench.put("bbbb", source, "deep/two") == 0
    directory = (await bench.place("bbbb")).directory
    assert content_of(directory, "deep", "two") == b"x" * 3_000_000


def alter(path: Path, change: str) -> None:
    path.unlink()
    match change:
        case "other":
            path.write_text("is it so?")
        case "longer":
            path.write_text("as it was, and more")
        case "shorter":
            path.write_text("as it")
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()


@pytest.mark.parametrize("change", ["gone", "other", "longer", "shorter", "pipe", "directory"])
async def test_what_is_no_more_what_it_was_is_asked_for_again(
    bench: Bench, tmp_path: Path, change: str
) -> None:
    source = fill(tmp_path / "source", "as it was")
    await bench.put("aaaa", source, "file")
    there = Path((await bench.place("aaaa")).directory, "file")
    alter(there, change)
    with trio.fail_after(5):
        assert await bench.put("bbbb", source, "file") == len("as it was")
    assert content_of((await bench.place("bbbb")).directory, "file") == b"as it was"


async def test_who_stops_in_the_middle_of_a_shared_file_keeps_others_only_for_a_while(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "source", "content")
    digest = hashlib.sha256(b"content").hexdigest()
    stream = await bench.dial("aaaa")
    await stream.send_all(encode(messages.PutFile(1, 1, 0, "", "file", 7, digest, 0o600, 0.0)))
    assert await stream.receive_into(memoryview(bytearray(100)))  # It is wanted.
    with trio.fail_after(10):
        assert await bench.put("bbbb", source, "file") == 7
    await stream.aclose()


# --- names -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [LONG, LONGEST, NO_TEXT], ids=["240", "255", "no text"])
async def test_every_name_a_file_can_have_works(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = fill(tmp_path / "client" / name)
    monkeypatch.chdir(tmp_path / "client")
    for session, path, job in ("aaaa", name, 0), ("bbbb", name, 0), ("aaaa", f"sub/{name}", 1):
        answer = await hand_over(bench, session, path, job)
        assert isinstance(answer, messages.FileStored), answer
    directory = (await bench.place("aaaa")).jobs[1]
    for path in (f"{directory}/{name}", f"{directory}/sub/{name}"):
        assert content_of(path) == b"content"
    assert os.listdir((await bench.place("bbbb")).directory) == [name]
    assert os.listdir(f"{directory}/sub") == [name]
    if name != NO_TEXT:  # How such a name travels is not a file's concern.
        os.unlink(source)
        await bench.offer("aaaa", 1, f"{directory}/{name}")
        assert os.listdir(source.parent) == [name]
    await bench.ask("aaaa", "keep_file", path=f"{directory}/sub/{name}")
    assert os.listdir(f"{directory}/sub") == []


@define(eq=False)
class Line:
    """A connection that has one file's bytes to read."""

    data: bytes
    peer: str = f"{CLIENT}:1"
    answers: list[messages.Message] = field(factory=list)

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        _, kind = FRAME_HEADER.unpack(data[: FRAME_HEADER.size])
        self.answers.append(decode(kind, data[FRAME_HEADER.size :], self.peer))

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        count = min(len(buffer), len(self.data))
        buffer[:count], self.data = self.data[:count], self.data[count:]
        return count


async def hand_over(bench: Bench, session: str, path: str, job: int) -> messages.Message:
    """Put a file under any name, whatever can travel; returns the answer."""
    line = Line(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    put = messages.PutFile(1, 1, job, "", path, 7, digest, 0o600, 0.0)
    await bench.files._take(line, put, session)  # type: ignore[arg-type]
    return line.answers[-1]


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "a\0b", "\ud800", "way/x", "circle/x", "x/" * 600 + "x" * 256],
)
@pytest.mark.parametrize("job", [0, 1])
async def test_a_path_that_can_t_be_is_refused_and_touches_nothing(
    bench: Bench, tmp_path: Path, path: str, job: int
) -> None:
    source = fill(tmp_path / "source")
    directory = Path((await bench.place("aaaa")).directory)
    (directory / "circle").symlink_to("circle")
    outside = tmp_path / "outside"
    outside.mkdir()
    if not job:
        (directory / "way").symlink_to(outside)
    elif path == "way/x":
        (directory / "way").symlink_to("nowhere")
    (tmp_path / "x").symlink_to("source")
    assert isinstance(await hand_over(bench, "aaaa", path, job), messages.FileMissing)
    assert os.listdir(outside) == []
    assert (tmp_path / "x").is_symlink()
    assert await bench.put("bbbb", source, "file") == 7


@pytest.mark.parametrize(
    "path", ["circle", "a\0b", "\ud800", "pipe", "way", ".", "", "/etc/passwd"]
)
async def test_a_job_that_names_no_file_of_its_own_is_told_so(bench: Bench, path: str) -> None:
    directory = Path((await bench.place("aaaa")).directory)
    (directory / "circle").symlink_to("circle")
    (directory / "way").symlink_to("/etc/passwd")
    os.mkfifo(directory / "pipe")
    with pytest.raises((RemoteError, OSError)):
        await bench.ask("aaaa", "keep_file", path=str(directory / path))
    place = await bench.place("aaaa")
    with pytest.raises((RemoteError, OSError)):
        await bench.files.offer(lambda _message: None, place, 1, str(directory / path), 5)
