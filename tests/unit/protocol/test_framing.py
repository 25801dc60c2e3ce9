"""Frames survive any cutting of the stream, and lies about their length cost nothing."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.errors import ProtocolError
from dispy_trio.protocol.framing import (
    CHUNK_HEADER,
    CHUNK_LIMIT,
    FRAME_HEADER,
    FRAME_LIMIT,
    ChunkHeader,
    FrameDecoder,
    encode_chunk_header,
    parse_chunk_header,
)

Frames = list[tuple[int, bytes]]


def spell(frames: Frames) -> bytes:
    return b"".join(FRAME_HEADER.pack(len(body), kind) + body for kind, body in frames)


def decode(decoder: FrameDecoder, *pieces: bytes) -> Frames:
    """Feed pieces through one buffer that is overwritten each time, as the reader does."""
    found: Frames = []
    for piece in pieces:
        buffer = bytearray(piece)
        found += [(kind, bytes(body)) for kind, body in decoder.receive_data(memoryview(buffer))]
        buffer[:] = b"\xff" * len(buffer)
    return found


FRAMES: Frames = [(1, b""), (35, b"x"), (7, bytes(range(60))), (0, b""), (255, b"yz")]


@pytest.mark.parametrize("first", range(len(spell(FRAMES)) + 1))
def test_every_split_in_two(first: int) -> None:
    data = spell(FRAMES)
    assert decode(FrameDecoder("p"), data[:first], data[first:]) == FRAMES


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 30])
def test_pieces_of_one_size(size: int) -> None:
    data = spell(FRAMES)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert decode(FrameDecoder("p"), *pieces) == FRAMES


@given(
    frames=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=12),
    cuts=st.lists(st.integers(0, 4000), max_size=20),
)
def test_any_frames_cut_anywhere(frames: Frames, cuts: list[int]) -> None:
    data = spell(frames)
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(borders)]
    assert decode(FrameDecoder("p"), *pieces) == frames


def test_a_large_frame_in_small_pieces_does_not_take_square_time() -> None:
    body = bytes(FRAME_LIMIT)
    data = spell([(35, body)])
    pieces = [data[start : start + 1024] for start in range(0, len(data), 1024)]
    decoder = FrameDecoder("p")
    # 4000 pieces, each of them copied once: it ends in milliseconds or, squared, in many seconds.
    frames = [frame for piece in pieces for frame in decoder.receive_data(piece)]
    assert [(kind, bytes(view)) for kind, view in frames] == [(35, body)]


@pytest.mark.parametrize("length", [FRAME_LIMIT + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_by_its_header_alone(length: int) -> None:
    decoder = FrameDecoder("node n1")
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=f"node n1 announces a frame of {length} bytes"):
            decoder.receive_data(FRAME_HEADER.pack(length, 11))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_each_type_has_its_own_limit() -> None:
    limits = {1: 10, 2: 20}
    assert decode(FrameDecoder("p", limits), spell([(1, bytes(10)), (2, bytes(20))]))
    for kind, length in ((1, 11), (2, 21), (3, 1)):
        with pytest.raises(ProtocolError, match=f"{length} bytes of type {kind}; the limit is"):
            FrameDecoder("p", limits).receive_data(FRAME_HEADER.pack(length, kind))


@given(st.binary(max_size=200))
def test_garbage_is_frames_or_an_error(data: bytes) -> None:
    decoder = FrameDecoder("p")
    try:
        frames = decoder.receive_data(data)
    except ProtocolError:
        return
    spelled = spell([(kind, bytes(body)) for kind, body in frames])
    assert data.startswith(spelled)


# --- chunks ----------------------------------------------------------------------------------------
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**63), st.integers(0, CHUNK_LIMIT))
def test_a_chunk_header_comes_back(blob: int, offset: int, length: int) -> None:
    data = encode_chunk_header(blob, offset + length, offset, length)
    assert len(data) == CHUNK_HEADER.size
    assert parse_chunk_header(data, "p") == ChunkHeader(blob, offset + length, offset, length)


@pytest.mark.parametrize(
    ("total", "offset", "length"),
    [
        (10, 0, 11),
        (10, 10, 1),
        (10, 11, 0),
        (10, 2**64 - 1, 1),
        (2**40, 0, CHUNK_LIMIT + 1),
        (2**40, 0, 2**32 - 1),
    ],
)
def test_an_impossible_chunk(total: int, offset: int, length: int) -> None:
    with pytest.raises(ProtocolError, match="client c announces an impossible chunk"):
        parse_chunk_header(encode_chunk_header(1, total, offset, length), "client c")
