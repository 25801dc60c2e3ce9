"""Blocks hold runs, sorted or not, and merging them gives each key once."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispy_mapreduce.blocks import (
    BlockMissing,
    BlockWriter,
    bytes_block,
    merge_runs,
    open_block,
)
from dispy_mapreduce.partition import partition_columns
from tests.unit.mapreduce.test_partition import keys as any_keys


def merged(blocks, store):
    runs = [run for block in blocks if block for run in open_block(block, store).sorted_runs()]
    return [(key, list(values)) for key, values in merge_runs(runs)]


def test_a_file_for_each_partition_that_has_something(store):
    """And none for the empty ones."""
    writer = BlockWriter(store, 3, 1, 3)
    writer.write([(["b", "a"], [1, 2]), ([], []), (["c"], [3])], in_order=False)
    first, second, third = writer.finish(in_order=False)
    assert second is None
    assert (first.source, first.attempt, first.in_order) == (3, 1, False)
    assert len(os.listdir(store.directory)) == 2
    assert list(open_block(first, store).columns()) == [(["b", "a"], [1, 2])]
    assert merged([first, third], store) == [("a", [2]), ("b", [1]), ("c", [3])]


def test_spilled_runs_are_merged_with_each_other_and_with_bytes(store):
    """Two runs of one task, and what a client gathered."""
    writer = BlockWriter(store, 0, 0, 1)
    writer.write([(["d", "b"], [1, 2])], in_order=True)
    writer.write([(["c", "b"], [3, 4])], in_order=True)
    (block,) = writer.finish(in_order=True)
    gathered = bytes_block(-1, 0, (["e", "b"], [5, 6]))
    assert merged([block, gathered], store) == [
        ("b", [2, 4, 6]),
        ("c", [3]),
        ("d", [1]),
        ("e", [5]),
    ]


def test_runs_of_different_types_are_merged_by_rank(store):
    """One run has nothing but text, the other nothing but numbers, the third both."""
    writer = BlockWriter(store, 0, 0, 1)
    writer.write([(["b", "a"], [1, 2])], in_order=True)
    writer.write([([2, 1], [3, 4])], in_order=True)
    writer.write([(["a", 1.0, 3], [5, 6, 7])], in_order=True)
    blocks = writer.finish(in_order=True)
    assert merged(blocks, store) == [(1, [4, 6]), (2, [3]), (3, [7]), ("a", [2, 5]), ("b", [1])]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.lists(any_keys, unique=True, min_size=1, max_size=8), max_size=5),
    in_order=st.booleans(),
    count=st.integers(1, 3),
)
def test_merging_is_grouping(store, runs, in_order, count):
    """Whatever the keys: each once, with the numbers of all the runs it is in."""
    writer = BlockWriter(store, 0, 0, count)
    expected = {}
    for number, keys in enumerate(runs):
        writer.write(partition_columns(keys, [number] * len(keys), count), in_order=in_order)
        for key in keys:
            expected.setdefault(key, []).append(number)
    blocks = writer.finish(in_order=in_order)
    groups = [group for block in blocks for group in merged([block], store)]
    assert len(groups) == len(expected)
    assert {key: sorted(numbers) for key, numbers in groups} == expected
    writer.abandon()


def test_long_runs_are_read_in_chunks(store):
    """More pairs than a chunk holds."""
    writer = BlockWriter(store, 0, 0, 1)
    numbers = list(range(100_000))
    writer.write([(numbers[::-1], numbers)], in_order=True)
    blocks = writer.finish(in_order=True)
    groups = merged(blocks, store)
    assert [key for key, _ in groups] == numbers
    assert groups[5] == (5, [99_994])


def test_a_missing_block_is_named(store):
    """By the map task that made it."""
    writer = BlockWriter(store, 7, 0, 1)
    writer.write([(["a"], [1])], in_order=False)
    (block,) = writer.finish(in_order=False)
    os.unlink(block.reference)
    with pytest.raises(BlockMissing, match="a block of map task 7"):
        open_block(block, store)


def test_a_failed_task_leaves_no_files(store):
    """Nor is it an error when some are gone."""
    writer = BlockWriter(store, 0, 0, 2)
    writer.write([(["a"], [1]), (["b"], [2])], in_order=False)
    os.unlink(store.path_for(os.listdir(store.directory)[0]))
    writer.abandon()
    assert os.listdir(store.directory) == []
