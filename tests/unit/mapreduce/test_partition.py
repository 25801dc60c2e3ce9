"""Partitions are the same everywhere, and equal keys share one."""

import datetime
import os
import subprocess
import sys
import uuid
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_mapreduce import UnstableKey
from dispy_mapreduce.partition import partition_columns, partition_of, stable_bytes

keys = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        st.fractions(),
        st.decimals(allow_nan=False),
    ),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 7


class Word(StrEnum):
    CAT = "cat"


@pytest.mark.parametrize(
    "equal",
    [
        [1, 1.0, True, Fraction(1), Decimal("1.00"), 1 + 0j],
        [0, 0.0, -0.0, False, -0j],
        [0.5, Fraction(1, 2), Decimal("0.5")],
        [2**80, float(2**80), Decimal(2**80)],
        [7, Level.LOW],
        ["cat", Word.CAT],
        [(1, ("a", 2)), (True, ("a", 2.0))],
        [frozenset({1, "a"}), frozenset({"a", 1.0})],
        [float("inf"), Decimal("Infinity")],
    ],
)
def test_keys_that_are_equal_have_equal_bytes(equal):
    """As keys of a dict they are one, so they must meet in one reduce task."""
    assert len(set(equal)) == 1
    assert len({stable_bytes(key) for key in equal}) == 1


@given(keys, keys)
def test_equality_carries_over(one, other):
    """Whatever two keys are, equal ones have equal bytes."""
    if one == other:
        assert stable_bytes(one) == stable_bytes(other)


def test_equal_instants_in_two_zones_share_a_partition():
    """Aware datetimes compare by instant."""
    noon = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    there = noon.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
    assert noon == there
    assert stable_bytes(noon) == stable_bytes(there)


def test_other_stable_types():
    """Enums, dates and UUIDs have bytes of their own."""
    several = [Colour.RED, datetime.date(2024, 1, 1), uuid.UUID(int=5), None, 1j, float("nan")]
    assert len({stable_bytes(key) for key in several}) == len(several)


def test_an_unstable_type_is_named():
    """A plain object's hash is its address: no use in another process."""

    class Anything:
        pass

    with pytest.raises(UnstableKey, match="Anything"):
        partition_of(("fine", Anything()), 4)


@given(st.lists(keys, unique=True, max_size=30), st.integers(1, 7))
def test_dealing_out_loses_nothing_and_agrees_with_partition_of(all_keys, count):
    """Each pair is in the partition of its key, in the order it came."""
    values = list(range(len(all_keys)))
    parts = partition_columns(all_keys, values, count)
    assert len(parts) == count
    expected = [([], []) for _ in range(count)]
    for key, value in zip(all_keys, values, strict=True):
        number = partition_of(key, count)
        expected[number][0].append(key)
        expected[number][1].append(value)
    assert parts == expected


def test_text_takes_a_shortcut_to_the_same_partitions():
    """Columns of nothing but text go through C; lone surrogates go the long way."""
    words = [f"wörd{number}" for number in range(200)] + ["\udc80"]
    for column in (words, words[:-1]):
        parts = partition_columns(column, column, 5)
        for number, (part_keys, _) in enumerate(parts):
            assert all(partition_of(key, 5) == number for key in part_keys)
        assert sum(len(part_keys) for part_keys, _ in parts) == len(column)


def test_the_same_in_another_process_with_another_hash_seed():
    """What `hash` can't do."""
    code = (
        "from dispy_mapreduce.partition import partition_of\n"
        "print([partition_of(key, 1000) for key in ('a', b'a', 1, ('x', 2.5), None,"
        " frozenset('abc'))])"
    )
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
