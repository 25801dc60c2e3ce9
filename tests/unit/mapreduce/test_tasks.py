"""Tasks run anywhere, within their budget, and tell what the user's code raised, and where."""

import os
import pickle
from collections import Counter

import pytest

from dispy_mapreduce import block_mapper
from dispy_mapreduce.columns import decode
from dispy_mapreduce.folding import understand
from dispy_mapreduce.splitting import FileSplit, RecordSplit, find_files, read_in
from dispy_mapreduce.tasks import (
    BlocksGone,
    FilesDiffer,
    MapDone,
    MapTask,
    Recipe,
    ReduceTask,
    UserCodeRaised,
    run_task,
)


def words(line):
    for word in line.split():
        yield word, 1


@block_mapper
def count_block(block):
    return Counter(block.split())


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"a b a\r\nc a\n\nb")
    return FileSplit(tuple(find_files([str(path)])))


def make_recipe(mapper=words, reducer=sum, **options):
    return Recipe(mapper, understand(reducer, "reducer"), **options)


def mapped(split, recipe, store, *, partitions=1, gather=False):
    return run_task(MapTask(0, 0, split, partitions, gather), recipe, store)


def reduced(done, recipe, store):
    """All partitions of what one map task did."""
    pairs = []
    for number, block in enumerate(done.blocks):
        answer = run_task(ReduceTask(number, (block,) if block else ()), recipe, store)
        pairs += zip(*decode(answer.content), strict=True)
    return pairs


def test_gathered_results_travel_in_the_answer(split, store):
    """No file is written."""
    done = mapped(split, make_recipe(), store, gather=True)
    assert dict(zip(*decode(done.partial), strict=True)) == {"a": 3, "b": 2, "c": 1}
    assert done.blocks == ()
    assert os.listdir(store.directory) == []


def test_results_too_large_for_that_become_blocks(split, store):
    """The client merges no more than it has room for."""
    done = mapped(split, make_recipe(inline_limit=10), store, partitions=2, gather=True)
    assert done.partial is None
    assert dict(reduced(done, make_recipe(), store)) == {"a": 3, "b": 2, "c": 1}


@pytest.mark.parametrize("reducer", [sum, lambda key, values: sum(values)])
@pytest.mark.parametrize("gather", [False, True])
def test_a_table_beyond_its_budget_is_spilled_in_sorted_runs(store, reducer, gather):
    """And the reduce task merges them without having all in memory."""
    recipe = make_recipe(lambda number: [(number % 5000, number)], reducer, memory=1 << 16)
    numbers = list(range(20_000))
    done = mapped(RecordSplit(numbers, 0), recipe, store, partitions=2, gather=gather)
    assert isinstance(done, MapDone)
    assert all(block.in_order and len(block.runs) > 2 for block in done.blocks)
    pairs = reduced(done, recipe, store)
    assert len(pairs) == 5000
    assert dict(pairs) == {key: sum(range(key, 20_000, 5000)) for key in range(5000)}


def test_a_merging_reducer_need_not_read_its_values(store):
    """What it leaves is passed over."""
    recipe = make_recipe(
        lambda number: [(number % 3, number)],
        lambda key, values: next(iter(values)),
        memory=1 << 10,
    )
    done = mapped(RecordSplit(list(range(3000)), 0), recipe, store)
    assert reduced(done, recipe, store) == [(0, 0), (1, 1), (2, 2)]


def test_block_mappers_get_bytes_text_or_lists(split, store):
    """Whichever they declared."""
    seen = []

    @block_mapper(text=True)
    def of_text(block):
        seen.append(block)
        return Counter(block.split()).items()

    @block_mapper
    def of_list(block):
        return Counter(block)

    done = mapped(split, make_recipe(count_block), store, gather=True)
    assert decode(done.partial) == ([b"a", b"b", b"c"], [3, 2, 1])
    done = mapped(split, make_recipe(of_text), store, gather=True)
    assert decode(done.partial) == (["a", "b", "c"], [3, 2, 1])
    assert seen == ["a b a\r\nc a\n\nb"]
    done = mapped(RecordSplit(["x", "x"], 0), make_recipe(of_list), store, gather=True)
    assert decode(done.partial) == (["x"], [2])


def test_records_are_lines_without_their_ends(split, store):
    """Windows ends too; an empty line is a record, what follows the last newline is not."""
    done = mapped(split, make_recipe(lambda line: [(line, 1)]), store, gather=True)
    assert decode(done.partial)[0] == ["a b a", "c a", "", "b"]


def test_a_node_that_sees_another_file_says_so(split, store):
    """It must not count what the client did not mean."""
    moved = FileSplit(tuple(map(read_in, split.pieces)))
    with open(split.pieces[0].path, "ab") as file:
        file.write(b"more\n")
    answer = mapped(split, make_recipe(), store)
    assert isinstance(answer, FilesDiffer)
    assert "has 18 bytes and not 13" in answer.reason
    done = mapped(moved, make_recipe(), store, gather=True)
    assert decode(done.partial)[0] == ["a", "b", "c"]


def test_a_mapper_that_raises_is_told_with_the_line(split, store):
    """The place within the file, the record, the exception and the user's own frames."""

    def fails(line):
        if line.startswith("c"):
            raise ValueError("no c allowed")
        yield line, 1

    answer = mapped(split, make_recipe(fails), store)
    assert isinstance(answer, UserCodeRaised)
    assert answer.culprit == "mapper"
    assert (answer.place.path, answer.place.offset) == (split.pieces[0].path, 0)
    assert (answer.place.index, answer.place.record) == (1, "'c a'")
    assert repr(pickle.loads(answer.error)) == repr(ValueError("no c allowed"))
    assert "no c allowed" in answer.text
    assert "tables.py" not in answer.text


@pytest.mark.parametrize(
    ("mapper", "message"),
    [
        (lambda record: None, "NoneType"),
        (lambda record: [1], "unpack"),
        (lambda record: [(record, 1, 2)], "unpack"),
        (lambda record: [([], 1)], "unhashable"),
        (lambda record: [(record, "x")], "unsupported operand"),
    ],
)
def test_a_mapper_that_yields_no_pairs_is_told_with_the_record(store, mapper, message):
    """The first record it happened at."""
    answer = mapped(RecordSplit(["r", "s"], 40), make_recipe(mapper), store)
    assert message in answer.text
    assert (answer.place.path, answer.place.index, answer.place.record) == (None, 40, "'r'")


def test_the_number_of_a_record_counts_from_the_first_input(store):
    """Beyond the first batch of a share, too."""

    def fails(record):
        return [(record, 1 / (record - 900))]

    answer = mapped(RecordSplit(list(range(500, 1500)), 500), make_recipe(fails), store)
    assert (answer.place.index, answer.place.record) == (900, "900")


def test_long_records_are_shown_shortened(store):
    """An error text is for people."""
    answer = mapped(RecordSplit(["x" * 10_000], 0), make_recipe(lambda record: 1 / 0), store)
    assert len(answer.place.record) == 200
    assert answer.place.record.endswith("…")


@pytest.mark.parametrize("memory", [256 << 20, 1 << 10])
def test_a_reducer_that_raises_is_told_with_the_key(store, memory):
    """In memory and while merging."""

    def fails(key, values):
        raise RuntimeError(f"bad {key}")

    recipe = make_recipe(lambda record: [(record, 1)], fails, memory=memory)
    done = mapped(RecordSplit(list(range(100)), 0), recipe, store)
    answer = run_task(ReduceTask(0, done.blocks), recipe, store)
    assert isinstance(answer, UserCodeRaised)
    assert (answer.culprit, answer.place, answer.key) == ("reducer", None, "0")
    assert "bad 0" in answer.text


def test_a_combiner_that_raises_is_told_with_the_key(store):
    """And leaves no files."""
    recipe = make_recipe(
        lambda record: [(record % 2, 1)],
        lambda key, values: sum(values),
        combiner=understand(lambda values: 1 // 0, "combiner"),
        memory=1 << 10,
    )
    answer = mapped(RecordSplit(list(range(100)), 0), recipe, store)
    assert (answer.culprit, answer.key) == ("combiner", "0")
    assert os.listdir(store.directory) == []


def test_an_exception_that_can_not_be_pickled_travels_as_text(store):
    """Its traceback is there in any case."""

    class Stubborn(Exception):
        def __reduce__(self):
            raise TypeError("not me")

    def fails(record):
        raise Stubborn("anyway")

    answer = mapped(RecordSplit([1], 0), make_recipe(fails), store)
    assert answer.error is None
    assert "Stubborn: anyway" in answer.text


def test_all_blocks_that_are_gone_are_named(store):
    """So that they are made again in one go."""
    recipe = make_recipe(lambda record: [(record, 1)])
    blocks = []
    for number in range(3):
        task = MapTask(number, 0, RecordSplit([number], 0), 1, gather=False)
        blocks += run_task(task, recipe, store).blocks
    os.unlink(blocks[0].reference)
    os.unlink(blocks[2].reference)
    answer = run_task(ReduceTask(0, tuple(blocks)), recipe, store)
    assert isinstance(answer, BlocksGone)
    assert answer.sources == ((0, 0), (2, 0))


@pytest.mark.parametrize("memory", [256 << 20, 1 << 10])
def test_text_is_sorted_and_one_line_a_pair(store, memory):
    """Fields with a tab or a newline in them are shown as Python would."""
    recipe = make_recipe(lambda record: [record], text_output=True, memory=memory)
    records = [("b", 1), ("a\tb", 2), ("é\udc80", 3), ("a", 4)]
    done = mapped(RecordSplit(records, 0), recipe, store)
    answer = run_task(ReduceTask(0, done.blocks), recipe, store)
    assert answer.content == b"a\t4\n'a\\tb'\t2\nb\t1\n\xc3\xa9\x80\t3\n"
    assert answer.in_order


def test_the_answers_and_tasks_survive_pickling(split, store):
    """They cross process borders."""
    task = MapTask(0, 0, split, 2, gather=False)
    assert pickle.loads(pickle.dumps(task)) == task
    answer = run_task(task, make_recipe(), store)
    assert pickle.loads(pickle.dumps(answer)) == answer
