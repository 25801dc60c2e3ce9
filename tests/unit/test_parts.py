"""Large objects in parts."""

from __future__ import annotations

import os
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.child import parts

BIG = parts.BIG


class Array:
    """Pickles its memory as a buffer, as numpy's arrays do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Array, (pickle.PickleBuffer(self.memory),)


def round_trip(value: Any) -> Any:
    data, buffers = parts.dump(parts.shield(value), pickle.dumps)
    segment = parts.write_segment([data, *buffers])
    try:
        sizes = [len(data), *(len(buffer) for buffer in buffers)]
        return parts.load(parts.split(parts.map_private(segment), sizes))
    finally:
        os.close(segment)


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("size", [0, 1, BIG - 1, BIG, BIG + 1, 3 * BIG + 17])
def test_bytes_come_back_as_they_were(kind: type, size: int) -> None:
    value = kind(os.urandom(size))
    for given_, back in [(value, round_trip(value)), ((1, value), round_trip((1, value)))]:
        assert type(back) is type(given_)
        assert back == given_


@pytest.mark.parametrize("size", [10, BIG])
def test_a_memoryview_comes_back_as_bytes(size: int) -> None:
    memory = memoryview(os.urandom(size))
    assert round_trip(memory) == bytes(memory)


def test_large_bytes_do_not_go_through_the_pickle() -> None:
    data, buffers = parts.dump(parts.shield(bytes(BIG)), pickle.dumps)
    assert len(data) < 200
    assert [len(buffer) for buffer in buffers] == [BIG]
    # Nothing of ours has to be importable where it is unpickled.
    names = {arg for code, arg, _ in pickletools.genops(data) if "UNICODE" in code.name}
    assert names == {"builtins", "bytes"}


def test_small_buffers_stay_inside() -> None:
    data, buffers = parts.dump(Array(bytearray(1000)), pickle.dumps)
    assert buffers == []
    assert pickle.loads(data).memory == bytes(1000)


def test_what_is_built_on_a_segment_can_be_written_and_stays_ours() -> None:
    data, buffers = parts.dump(Array(bytearray(BIG)), pickle.dumps)
    segment = parts.write_segment([data, *buffers])
    sizes = [len(data), BIG]
    first = parts.load(parts.split(parts.map_private(segment), sizes))
    first.memory[0] = 77
    second = parts.load(parts.split(parts.map_private(segment), sizes))
    os.close(segment)
    assert second.memory[0] == 0
    assert first.memory[0] == 77


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_parts_lie_aligned_and_split_into_what_they_were(pieces: list[bytes]) -> None:
    blob = b"".join(parts.padded(pieces))
    assert len(blob) % 64 == 0
    split = parts.split(memoryview(blob), [len(piece) for piece in pieces])
    assert [bytes(part) for part in split] == pieces
    segment = parts.write_segment(pieces)
    memory = parts.map_private(segment)
    os.close(segment)
    assert bytes(memory) == blob


@pytest.mark.parametrize("sizes", [[65], [64, 1], [-1], [1 << 60]])
def test_refuses_sizes_that_do_not_fit(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        parts.split(memoryview(bytes(64)), sizes)


def test_a_segment_can_be_written_again() -> None:
    segment = parts.write_segment([b"a" * 1000])
    parts.rewrite_segment(segment, [b"b" * 10, b"c" * 10])
    memory = parts.map_private(segment)
    os.close(segment)
    assert [bytes(part) for part in parts.split(memory, [10, 10])] == [b"b" * 10, b"c" * 10]
