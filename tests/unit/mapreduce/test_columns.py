"""Columns come back as they were, types included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_mapreduce.columns import CHUNK_PAIRS, decode, decode_chunks, encode, encode_chunks
from tests.unit.mapreduce.test_partition import Level, Word

columns = st.one_of(
    st.lists(st.text(), min_size=1),
    st.lists(st.binary(), min_size=1),
    st.lists(st.integers(), min_size=1),
    st.lists(st.floats(allow_nan=False), min_size=1),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), min_size=1),
    st.lists(st.lists(st.integers()), min_size=1),
)


@given(columns)
def test_round_trip(column):
    """Values and exact types."""
    keys, values = decode(encode(column, column))
    assert keys == values == column
    assert list(map(type, keys)) == list(map(type, column))


@pytest.mark.parametrize(
    "column",
    [
        ["with\nnewline", "without"],
        ["\udc80 lone surrogate", ""],
        [b"with\nnewline"],
        [b"", b""],
        [""],
        [True, False],
        [1, True],
        [2**63, -(2**63)],
        [2**31, 5],
        [2**31 - 1, -(2**31)],
        [Level.LOW],
        [Word.CAT],
        [bytearray(b"x")],
        [float("inf"), -0.0],
    ],
)
def test_columns_that_look_plain_but_are_not(column):
    """A shortcut that changed a type, or cut a string in two, would be found here."""
    keys, values = decode(encode(column, column))
    assert keys == values == column
    assert list(map(type, keys)) == list(map(type, column))


def test_nothing_at_all():
    """No pairs, or no chunks."""
    assert decode(encode([], [])) == ([], [])
    assert decode(b"") == ([], [])


def test_long_columns_in_chunks():
    """Each chunk can be read by itself."""
    numbers = list(range(CHUNK_PAIRS * 2 + 1))
    chunks = list(encode_chunks(numbers, numbers))
    assert len(chunks) == 3
    data = b"".join(chunks)
    assert [len(keys) for keys, _ in decode_chunks(data)] == [CHUNK_PAIRS, CHUNK_PAIRS, 1]
    assert decode(data) == (numbers, numbers)


def test_local_classes_travel_by_value():
    """As those in the ``__main__`` of a script do."""

    class Local:
        def __init__(self, number):
            self.number = number

    _, values = decode(encode(["a"], [Local(3)]))
    assert values[0].number == 3
