"""What is wrong is said before any work; what is right is cut for the processors there are."""

import functools
from collections import Counter
from pathlib import Path

import pytest

from dispy_mapreduce import BadProgram, InputError, block_mapper, files
from dispy_mapreduce.plan import plan
from dispy_mapreduce.tasks import BlockMapper


def mapper(record):
    yield record, 1


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x\n" * 1000)
    return path


def test_files_in_all_spellings(text):
    """A name, a path, a pattern, paths in a list, and `files`."""
    pattern = str(text.parent / "*.txt")
    for inputs in (str(text), text, pattern, [text], (text,), files(text), files(pattern, text)):
        planned = plan(mapper, sum, inputs)
        assert planned.of_files
        assert planned.input_bytes == 2000
        assert [piece.path for piece in planned.inputs] == [str(text)]


def test_any_other_iterable_holds_records(text):
    """A list of str too: `files` is for several names given as text."""
    for inputs in ([str(text)], range(3), iter([1]), {"a": 1}, [], (), "abc".splitlines()):
        assert not plan(mapper, sum, inputs).of_files


def test_bad_inputs_are_refused():
    """With a text that says which."""
    with pytest.raises(InputError, match="not-there"):
        plan(mapper, sum, Path("not-there"))
    with pytest.raises(InputError, match="mix paths with other objects"):
        plan(mapper, sum, [Path("a"), "b"])
    with pytest.raises(InputError, match="type int are neither files nor records"):
        plan(mapper, sum, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mapper": 3}, "mapper 3 can't be called"),
        ({"reducer": lambda a, b, c: a}, "the reducer must take"),
        ({"combiner": 3}, "combiner 3 can't be called"),
        ({"partitions": 0}, "0 partitions"),
        ({"memory": 1000}, "1000 bytes is less than 1 MiB"),
        ({"split_size": 0}, "0 bytes"),
    ],
)
def test_bad_programs_are_refused(changed, message):
    """Before any work."""
    arguments = {"mapper": mapper, "reducer": sum, "inputs": [], **changed}
    with pytest.raises(BadProgram, match=message):
        plan(**arguments)


def test_folds_are_gathered_unless_partitions_are_wanted():
    """By the client, which is least work; but not when files or partitions were asked for."""
    assert plan(mapper, sum, []).gather
    assert plan(mapper, max, [], combiner=max).gather
    assert not plan(mapper, sum, [], partitions=2).gather
    assert not plan(mapper, sum, [], text_output=True).gather
    assert not plan(mapper, sorted, []).gather
    assert not plan(mapper, sum, [], combiner=max).gather


def test_splits_and_partitions_follow_the_processors(text, tmp_path):
    """A few tasks for each, none of them tiny or huge."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(100 << 20)
    planned = plan(mapper, sorted, big)
    assert len(list(planned.splits(2))) in (8, 9)
    assert planned.partitions(2) == 3
    assert planned.partitions(10) == 10
    assert len(list(plan(mapper, sorted, text).splits(2))) == 1
    assert len(list(plan(mapper, sorted, text, split_size=100).splits(2))) == 20
    assert len(list(plan(mapper, sorted, range(100)).splits(5))) == 20
    assert plan(mapper, sorted, text, partitions=7).partitions(2) == 7


def test_block_mappers():
    """With options and without, and still to be called as a function."""

    @block_mapper
    def plain(block):
        return Counter(block.split())

    @block_mapper(text=True, size=1 << 10)
    def with_options(block):
        return Counter(block.split())

    assert plain == BlockMapper(plain.function)
    assert (with_options.text, with_options.size) == (True, 1024)
    assert plain(b"a b a") == {b"a": 2, b"b": 1}
    assert isinstance(block_mapper(functools.partial(Counter)), BlockMapper)
    with pytest.raises(ValueError, match="0 bytes"):
        block_mapper(plain, size=0)
