"""Every line of a file belongs to exactly one range, wherever the file is cut."""

import os
from itertools import pairwise

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispy_mapreduce import InputError
from dispy_mapreduce.splitting import (
    FileSplit,
    Piece,
    check_same_file,
    find_files,
    read_blocks,
    read_in,
    split_files,
    split_records,
)

TEXTS = [
    b"",
    b"\n",
    b"\n\n\n",
    b"one",
    b"one\n",
    b"one\ntwo\nthree\n",
    b"one\ntwo\nthree",
    b"a\r\nbb\r\n\r\nccc\r\n",
    b"a line that is longer than any of the splits\nb\n",
    b"\xff\xfe\nnot text\x00\n",
]


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="input.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return find_files([str(path)])[0]

    return write_file


def lines_of(piece, block_size=1 << 20):
    return b"".join(block for _, block in read_blocks(piece, block_size)).splitlines(keepends=True)


@pytest.mark.parametrize("content", TEXTS)
@pytest.mark.parametrize("block_size", [1, 3, 1000])
def test_two_ranges_hold_all_lines_at_every_cut(write, content, block_size):
    """No line is lost or doubled, whatever byte the cut falls on."""
    whole = write(content)
    expected = content.splitlines(keepends=True)
    for cut in range(len(content) + 1):
        left = evolve(whole, stop=cut)
        right = evolve(whole, start=cut)
        assert lines_of(left, block_size) + lines_of(right, block_size) == expected


@pytest.mark.parametrize("content", TEXTS)
def test_ranges_of_every_size_hold_all_lines(write, content):
    """Even ranges shorter than a line."""
    whole = write(content)
    for size in range(1, len(content) + 2):
        pieces = [piece for split in split_files([whole], size) for piece in split.pieces]
        assert [line for piece in pieces for line in lines_of(piece)] == content.splitlines(
            keepends=True
        )


@given(
    lines=st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"") + b"\n")),
    tail=st.binary(max_size=3),
    cuts=st.lists(st.integers(0, 80), max_size=5),
    block_size=st.integers(1, 20),
)
def test_any_ranges_of_any_text(tmp_path_factory, lines, tail, cuts, block_size):
    """Bytes of all ranges together are the file's, and each block is where it says."""
    content = b"".join(lines) + tail
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    whole = find_files([str(path)])[0]
    borders = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    seen = b""
    for start, stop in pairwise(borders):
        for offset, block in read_blocks(evolve(whole, start=start, stop=stop), block_size):
            assert offset == len(seen)
            seen += block
    assert seen == content


def test_a_piece_that_travels_has_the_same_lines_at_the_same_places(write):
    """For nodes that do not see the file."""
    content = b"one\ntwo\nthree\nfour\n"
    whole = write(content)
    for start in range(len(content)):
        piece = evolve(whole, start=start, stop=min(start + 7, len(content)))
        moved = read_in(piece)
        assert list(read_blocks(moved, 4)) == list(read_blocks(piece, 4))
        assert check_same_file(moved) is None


def test_small_files_share_a_split(write):
    """A task for each of a thousand small files would cost more than the files."""
    found = [write(b"x\n" * 10, f"{number}.txt") for number in range(7)]
    splits = list(split_files(found, 64))
    assert [len(split.pieces) for split in splits] == [3, 3, 1]
    assert splits[0] == FileSplit(tuple(found[:3]))


def test_empty_files_make_no_split(write):
    """There is nothing to do for them."""
    assert list(split_files([write(b"")], 10)) == []


def test_all_missing_inputs_are_named_at_once(tmp_path):
    """Before any work, so that they can all be mended at once."""
    (tmp_path / "there").write_text("x")
    missing, pattern = str(tmp_path / "missing"), str(tmp_path / "*.none")
    with pytest.raises(InputError) as caught:
        find_files([str(tmp_path / "there"), missing, pattern])
    assert f"{missing}: No such file" in str(caught.value)
    assert f"{pattern}: matches nothing" in str(caught.value)


def test_a_directory_is_no_input(tmp_path):
    """But a pattern may match some, beside the files."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="directory"):
        find_files([str(tmp_path / "directory")])
    assert [piece.path for piece in find_files([str(tmp_path / "*")])] == [str(tmp_path / "file")]


def test_a_file_with_magic_in_its_name_is_found(tmp_path):
    """It is a name before it is a pattern."""
    path = tmp_path / "what[1].txt"
    path.write_text("x")
    assert [piece.path for piece in find_files([str(path)])] == [str(path)]


def test_a_file_named_twice_is_read_once(tmp_path):
    """As by a name and a pattern."""
    path = tmp_path / "a.txt"
    path.write_text("x")
    assert len(find_files([str(path), str(tmp_path / "*.txt")])) == 1


def test_a_changed_file_is_noticed(write):
    """By its size, its time of modification, or because it is gone."""
    whole = write(b"one\n")
    assert check_same_file(whole) is None
    os.utime(whole.path, ns=(0, whole.modified + 1))
    assert check_same_file(whole) == "was modified"
    with open(whole.path, "ab") as file:
        file.write(b"two\n")
    assert check_same_file(whole) == "has 8 bytes and not 4"
    with pytest.raises(InputError, match="has 8 bytes and not 4 since the run began"):
        read_in(whole)
    os.unlink(whole.path)
    assert "can't be read" in check_same_file(whole)


@given(st.integers(0, 300), st.integers(1, 9))
def test_records_are_all_there_in_order(count, wanted):
    """From a list, in about as many chunks as wanted; from an iterator, in growing ones."""
    for records in (range(count), iter(range(count))):
        splits = list(split_records(records, wanted))
        assert [record for split in splits for record in split.records] == list(range(count))
        assert all(split.records[0] == split.first for split in splits)
    assert len(list(split_records(range(count), wanted))) <= wanted


def test_an_iterator_is_not_drawn_ahead():
    """It may be slow, or endless."""
    drawn = []

    def endless():
        while True:
            drawn.append(None)
            yield None

    splits = split_records(endless(), 4)
    sizes = [len(next(splits).records) for _ in range(3)]
    assert sizes == [64, 128, 256]
    assert len(drawn) == sum(sizes)


def test_pieces_are_plain_facts():
    """They compare and travel."""
    assert Piece("a", 0, 1, 2, 3) == Piece("a", 0, 1, 2, 3)
