"""Any keys can be put in order, and the quick way agrees with the general one."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_mapreduce.ordering import plain_type, rank, sort_columns, sort_keys
from tests.unit.mapreduce.test_partition import Colour, keys


@given(st.lists(keys, max_size=20))
def test_ranks_order_everything(several):
    """Sorting never fails, and a second sorting changes nothing."""
    ordered = sorted(several, key=rank)
    assert sorted(ordered, key=rank) == ordered


@given(keys, keys)
def test_equal_keys_have_equal_ranks_and_others_do_not(one, other):
    """Merging groups neighbours: equal keys must be neighbours."""
    assert (one == other) == (rank(one) == rank(other))


@pytest.mark.parametrize(
    "equal",
    [
        [1, 1.0, True, Decimal(1), Fraction(1), complex(1)],
        [0.5, Decimal("0.5"), Fraction(1, 2)],
        [float("inf"), Decimal("Infinity")],
        [(1, "a"), (Decimal(1), "a"), (complex(1), "a")],
        [frozenset({0}), frozenset({False}), frozenset({Decimal(0)})],
    ],
)
def test_equal_numbers_of_any_type_have_one_rank(equal):
    assert len(set(equal)) == 1
    assert all(rank(one) == rank(equal[0]) for one in equal)


@pytest.mark.parametrize("column", [["b", "a", "é", "Z"], [3, -1, 2], [b"b", b"a"]])
def test_plain_columns_sort_as_python_does_and_as_ranks_do(column):
    """A run sorted the quick way can be merged with one that was not."""
    assert plain_type(column) is type(column[0])
    assert sort_keys(column) == sorted(column) == sorted(column, key=rank)


def test_mixed_columns_sort_numbers_before_text():
    """There is an order even where Python has none."""
    mixed = ["b", 2, None, b"x", 1.5, "a", (1, "z"), (1, 2), float("nan")]
    in_order = sort_keys(mixed)
    assert in_order[:3] == [None, 1.5, 2]
    assert in_order[4:] == ["a", "b", b"x", (1, 2), (1, "z")]


def test_types_without_an_order_sort_by_their_pickles():
    """Members of a plain Enum can't be compared."""
    assert sort_keys([Colour.RED, "a"]) == ["a", Colour.RED]


def test_values_follow_their_keys():
    """Both columns are put in the order of the keys."""
    assert sort_columns(["b", "a"], [1, 2]) == (["a", "b"], [2, 1])
