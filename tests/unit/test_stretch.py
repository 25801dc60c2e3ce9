"""Text that is too long for memory, and the segments it goes into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispy_trio.child import parts, stretch
from dispy_trio.child.stretch import Stretch, cut, join, new_file, size_of, write_parts


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """It holds 300 000 bytes, of which no two neighbouring hundreds are the same."""
    descriptor = new_file(str(tmp_path), "test", os.O_APPEND)
    os.write(descriptor, b"".join(b"%09d " % n for n in range(30_000)))
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 10, 1000, stretch.SHORT, stretch.SHORT + 1, 300_000])
def test_what_is_within_the_limit_is_whole(file: int, size: int) -> None:
    whole = os.pread(file, size, 0)
    for limit in (0, size, 300_000):
        taken = cut(file, 0, size, limit)
        assert size_of(taken) == size
        assert join(taken) == whole
        assert isinstance(taken, bytes) == (size <= stretch.SHORT)


def test_it_begins_where_it_is_told_to(file: int) -> None:
    assert cut(file, 100, 120, 0) == b"000000010 000000011 "
    assert cut(file, 120, 100, 0) == b""


@pytest.mark.parametrize("limit", [1, 7, 1000, 100_000, 250_000])
def test_the_middle_of_what_is_longer_is_cut_out_and_told(file: int, limit: int) -> None:
    taken = cut(file, 50, 300_000, limit)
    half = limit // 2
    mark = b"\n[... %d bytes cut out: max_output is %d ...]\n" % (299_950 - 2 * half, limit)
    assert join(taken) == os.pread(file, half, 50) + mark + os.pread(file, half, 300_000 - half)
    assert size_of(taken) == len(join(taken))


@pytest.mark.parametrize("on_disk", [0, 1 << 30])
def test_parts_are_found_again(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: int
) -> None:
    monkeypatch.setattr(stretch, "ON_DISK", on_disk)
    outputs = (cut(file, 0, 200_000, 100_000), b"short", cut(file, 0, 300_000, 0))
    segment, sizes = write_parts([b"result", memoryview(b"x" * 70)], outputs, str(tmp_path))
    found = [bytes(part) for part in parts.split(parts.map_private(segment), sizes)]
    assert found == [b"result", b"x" * 70, *map(join, outputs)]
    assert os.readlink(f"/proc/self/fd/{segment}").startswith(str(tmp_path)) == (not on_disk)
    os.close(segment)


def test_what_was_shortened_meanwhile_keeps_its_length(file: int, tmp_path: Path) -> None:
    output = (Stretch(file, 0, 200_000),)
    os.ftruncate(file, 100)
    segment, sizes = write_parts([b""], (output, b"behind"), str(tmp_path))
    _, long, behind = (bytes(p) for p in parts.split(parts.map_private(segment), sizes))
    assert long == os.pread(file, 100, 0) + bytes(199_900)
    assert behind == b"behind"
    os.close(segment)


@pytest.mark.parametrize("length", [1 << 30, 1 << 40])
def test_what_was_only_made_long_takes_no_room(file: int, tmp_path: Path, length: int) -> None:
    os.ftruncate(file, length)
    os.write(file, b"the end")
    segment, sizes = write_parts([b""], (cut(file, 10, length + 7, 0), b"behind"), str(tmp_path))
    assert sizes == [0, length - 3, 6]
    assert os.pread(segment, 299_990, 0) == os.pread(file, 299_990, 10)
    assert os.pread(segment, 7, length - 10) == b"the end"
    assert os.pread(segment, 6, length - 3 + (-(length - 3) % 64)) == b"behind"
    assert os.fstat(segment).st_blocks * 512 < 1 << 21
    os.close(segment)


@pytest.mark.parametrize("directory", ["/nowhere/at/all", "/proc"])
def test_where_no_file_can_be_made_it_is_in_memory(directory: str) -> None:
    file = new_file(directory, "test", os.O_APPEND)
    os.write(file, b"one")
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, b"two")
    assert os.pread(file, 10, 0) == b"onetwo"
    os.close(file)


def test_when_the_disk_is_full_it_is_in_memory(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    monkeypatch.setattr(stretch, "ON_DISK", 0)
    monkeypatch.setattr(stretch, "new_file", lambda _directory, _name: full)
    segment, sizes = write_parts([b"result"], (b"out", b"err"), str(tmp_path))
    found = [bytes(part) for part in parts.split(parts.map_private(segment), sizes)]
    assert found == [b"result", b"out", b"err"]
    os.close(segment)
