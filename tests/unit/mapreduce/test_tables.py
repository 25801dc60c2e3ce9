"""Tables give the same as grouping all values and reducing them."""

import operator
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_mapreduce.folding import understand
from dispy_mapreduce.tables import (
    BlamedKey,
    FoldTable,
    GroupTable,
    mapping_table,
    reducing_table,
)

pairs = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-9, 9)))
REDUCTIONS = {
    "sum": (sum, None),
    "max": (max, None),
    "mul": (operator.mul, None),
    "sorted": (sorted, None),
    "function with a fold as combiner": (lambda key, values: sum(values), sum),
    "function with itself as combiner": (lambda values: max(values), lambda values: max(values)),
    "fold with another combiner": (max, lambda key, values: max(values)),
}


def reduced(table, reducer):
    return dict(zip(*table.reduce(reducer), strict=True))


@pytest.mark.parametrize("name", REDUCTIONS)
@given(portions=st.lists(pairs, max_size=4))
def test_partial_tables_merge_to_the_whole(name, portions):
    """Map each portion by itself, merge what came out, reduce: as if it had been one."""
    given_reducer, given_combiner = REDUCTIONS[name]
    reducer = understand(given_reducer, "reducer")
    combiner = None if given_combiner is None else understand(given_combiner, "combiner")
    merged = reducing_table(reducer, combiner)
    groups = defaultdict(list)
    for portion in portions:
        table = mapping_table(reducer, combiner)
        table.add_pairs(iter(portion))
        table.compact()
        merged.merge(*table.take())
        assert not table.entries
        for key, value in portion:
            groups[key].append(value)
    expected = {key: reducer(key, values) for key, values in groups.items()}
    assert reduced(merged, reducer) == expected


@given(pairs)
def test_records_pairs_and_mappings_are_the_same(portion):
    """Three ways in."""
    counts = Counter()
    for key, value in portion:
        counts[key] += value
    for reducer in (sum, operator.add):
        understood = understand(reducer, "reducer")
        tables = [FoldTable(understood) for _ in range(3)]
        tables[0].add_records(iter([portion]), iter)
        tables[1].add_pairs(portion)
        tables[2].add_mapping(counts)
        assert tables[0].entries == tables[1].entries == tables[2].entries == counts


def test_sums_begin_with_zero():
    """As `sum` does: booleans become numbers, in whatever way they come in."""
    table = FoldTable(understand(sum, "reducer"))
    table.add_pairs([("a", True)])
    table.add_mapping({"b": True})
    assert {key: type(value) for key, value in table.entries.items()} == {"a": int, "b": int}


def test_long_mappings_are_merged_in_strides():
    """More than one stride, onto entries that are there and onto new ones."""
    table = FoldTable(understand(sum, "reducer"))
    table.merge(range(100_000), [1] * 100_000)
    table.merge(range(50_000, 150_000), [2] * 100_000)
    assert len(table.entries) == 150_000
    assert [table.entries[key] for key in (0, 49_999, 50_000, 99_999, 100_000)] == [1, 1, 3, 3, 2]


def test_compacting_makes_groups_short():
    """One value a key is left, and the size goes down."""
    table = GroupTable(understand(lambda values: max(values), "combiner"))
    table.add_pairs(("k", number) for number in range(10_000))
    before = table.size()
    table.compact()
    assert table.entries == {"k": [9999]}
    assert table.size() < before / 100


def test_size_follows_what_is_held():
    """Near enough for a budget: within a factor of two of what the entries really take."""
    table = FoldTable(understand(sum, "reducer"))
    assert table.size() == 0
    table.add_pairs((f"a word of some length {number}", number) for number in range(20_000))
    assert 20_000 * 100 < table.size() < 20_000 * 400


@pytest.mark.parametrize("what", ["combiner", "reducer"])
def test_the_key_at_fault_is_named(what):
    """The exception itself is the cause."""
    broken = understand(lambda key, values: 1 // 0, what)
    table = GroupTable(broken)
    table.add_pairs([("k", 1), ("k", 2)])
    with pytest.raises(BlamedKey, match=f"{what} failed at key 'k'") as caught:
        table.compact() if what == "combiner" else table.reduce(broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
