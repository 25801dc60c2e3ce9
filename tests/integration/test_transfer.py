"""Files over a stream: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio

from dispy_trio.errors import ConnectionLost, ProtocolError, RemoteError
from dispy_trio.runtime import transfer
from dispy_trio.runtime.transfer import holds, receive_file, receive_message, safe_path, send_file

DATA = os.urandom(3 * 1024 * 1024 + 17)


class Source:
    """A stream that ends after some bytes, or never says anything more."""

    peer = "node n"

    def __init__(self, data: bytes, *, stalls: bool = False) -> None:
        self._data = memoryview(data)
        self._stalls = stalls

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        if not self._data and self._stalls:
            await trio.sleep_forever()
        count = min(len(buffer), len(self._data), 100_000)
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


async def test_a_file_arrives_whole_with_its_mode_and_time(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    digest = hashlib.sha256(DATA).hexdigest()
    await receive_file(
        Source(DATA),  # type: ignore[arg-type]
        target,
        len(DATA),
        digest=digest,
        mode=0o755,
        modified=1e9,
    )
    assert target.read_bytes() == DATA
    assert target.stat().st_mode & 0o777 == 0o755
    assert target.stat().st_mtime == 1e9
    assert await holds(target, len(DATA), digest)
    assert not await holds(target, len(DATA), "0" * 64)
    assert os.listdir(target.parent) == ["file"]


@pytest.mark.parametrize("size", [0, 1, 1_000_000, len(DATA) - 1])
async def test_a_transfer_that_is_cut_leaves_nothing(tmp_path: Path, size: int) -> None:
    target = tmp_path / "file"
    target.write_text("as it was")
    with pytest.raises(ConnectionLost, match="node n ended in the middle of a file"):
        await receive_file(Source(DATA[:size]), target, len(DATA))  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["file"]
    assert target.read_text() == "as it was"


async def test_another_content_than_told_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="another content than told"):
        await receive_file(
            Source(DATA),  # type: ignore[arg-type]
            tmp_path / "file",
            len(DATA),
            digest="0" * 64,
        )
    assert os.listdir(tmp_path) == []


async def test_a_disk_that_is_full_is_told_and_the_stream_can_go_on(tmp_path: Path) -> None:
    source = Source(DATA + b"next")
    (tmp_path / "not a directory").write_text("")
    with pytest.raises(OSError, match="File exists"):
        await receive_file(source, tmp_path / "not a directory" / "file", len(DATA))  # type: ignore[arg-type]
    rest = memoryview(bytearray(10))
    assert await source.receive_into(rest) == 4
    assert bytes(rest[:4]) == b"next"


async def test_a_file_that_becomes_shorter_ends_the_transfer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"short")

    class Sink:
        peer = "node n"

        async def send_all(self, data: bytes) -> None:
            await trio.lowlevel.checkpoint()

    with pytest.raises(OSError, match="became shorter"):
        await send_file(Sink(), path, 10)  # type: ignore[arg-type]


async def test_a_transfer_that_stalls_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.05)
    with pytest.raises(ConnectionLost, match="nothing of a file has moved"):
        await receive_file(Source(b"x", stalls=True), tmp_path / "file", 10)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


async def test_a_request_is_a_message_an_end_or_an_error() -> None:
    assert await receive_message(Source(b"")) is None  # type: ignore[arg-type]
    with pytest.raises(ConnectionLost, match="within a request"):
        await receive_message(Source(b"\x01"))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        await receive_message(Source(b"\xff" * 100))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a/", "a\0b", "out/x", "link"]
)
def test_paths_that_lead_elsewhere(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "out").symlink_to(tmp_path)
    (inside / "link").symlink_to(tmp_path / "x")
    with pytest.raises(RemoteError, match=r"leads out of the directory|can't be the path"):
        safe_path(inside, path)


def test_paths_within(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert safe_path(tmp_path, "a/b.txt") == tmp_path.resolve() / "a" / "b.txt"
    assert safe_path(tmp_path, "new/deep/b") == tmp_path.resolve() / "new" / "deep" / "b"
