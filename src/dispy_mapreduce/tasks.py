"""The functions that run on nodes, and what goes in and comes out of them.

A task is a function of what is in it and nothing else, so that one whose blocks were lost is simply
run again. What the user's code raises is an answer like any other, with the place it was about.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import length_hint
from pathlib import Path
from types import TracebackType
from typing import Any

from attrs import define, frozen

from dispy_mapreduce.blocks import (
    Block,
    BlockMissing,
    BlockStore,
    BlockWriter,
    merge_runs,
    open_block,
)
from dispy_mapreduce.columns import CHUNK_PAIRS, encode
from dispy_mapreduce.folding import Fold, Reduction
from dispy_mapreduce.ordering import sort_columns
from dispy_mapreduce.partition import partition_columns
from dispy_mapreduce.splitting import FileSplit, Piece, Split, check_same_file, read_blocks
from dispy_mapreduce.tables import (
    BlamedKey,
    FoldTable,
    Table,
    mapping_table,
    reducing_table,
)

__all__ = [
    "BlockMapper",
    "BlocksGone",
    "FilesDiffer",
    "MapDone",
    "MapTask",
    "Place",
    "Recipe",
    "ReduceDone",
    "ReduceTask",
    "Task",
    "TaskDone",
    "UserCodeRaised",
    "run_task",
]

_TEXT_BATCH = 1 << 20
"""Bytes of text cut into lines at a time: little enough to stay in a processor's cache."""
_RECORDS = 256
"""Records that are objects, between two looks at the memory budget."""
_SHOWN = 200
"""Characters shown of a record that the mapper failed at."""
_HERE = str(Path(__file__).parent)
_ENCODED_GROWTH = 6
"""Decoded pairs take about so many times the memory of their encoded bytes."""


@frozen
class BlockMapper:
    """A mapper that takes a block of input at once; see `block_mapper`."""

    function: Callable[[Any], Any]
    text: bool = False
    size: int = 16 << 20

    def __call__(self, block: Any) -> Any:
        return self.function(block)


@frozen
class Recipe:
    """What all tasks of one run have in common; it travels to each node once."""

    mapper: Callable[[Any], Any]
    reducer: Reduction
    combiner: Reduction | None = None
    memory: int = 256 << 20
    """Bytes a task may use for its tables."""
    encoding: str = "utf-8"
    errors: str = "surrogateescape"
    inline_limit: int = 64 << 20
    """Bytes of partial results that a map task may hand to the client."""
    text_output: bool = False
    """Reduce tasks give lines of text, for part files."""

    @property
    def foldable(self) -> bool:
        """Partial results of map tasks may be merged in any order and grouping."""
        return isinstance(self.reducer, Fold) and self.combiner in (None, self.reducer)


# --- in ----------------------------------------------------------------------------------------
@frozen
class MapTask:
    """Map a share of the input."""

    number: int
    attempt: int
    split: Split
    partitions: int
    gather: bool
    """The client merges the partial result itself, if it is small enough."""


@frozen
class ReduceTask:
    """Merge what all map tasks have left for a partition."""

    number: int
    """Of the partition."""
    blocks: tuple[Block, ...]


Task = MapTask | ReduceTask


# --- out ---------------------------------------------------------------------------------------
@frozen
class MapDone:
    """Either the partial result or blocks."""

    number: int
    attempt: int
    partial: bytes | None
    blocks: tuple[Block | None, ...] = ()
    """One for each partition."""


@frozen
class ReduceDone:
    """A partition of the result."""

    number: int
    content: bytes
    in_order: bool


@frozen
class FilesDiffer:
    """The node does not see the file that the client saw: the split must travel."""

    number: int
    attempt: int
    reason: str


@frozen
class BlocksGone:
    """Blocks could not be fetched: the map tasks that made them must run again."""

    number: int
    """Of the reduce task."""
    sources: tuple[tuple[int, int], ...]
    """Number and attempt of the map tasks."""
    reason: str


@frozen
class Place:
    """Where in the input something went wrong."""

    path: str | None
    """None when inputs are Python objects."""
    offset: int
    """Where the block with the record begins, in bytes; for objects, 0."""
    index: int
    """Of the record among those of the block, from 0; for objects, among all."""
    record: str
    """How it looks, shortened; empty when the mapper takes whole blocks."""


@frozen
class UserCodeRaised:
    """The mapper, combiner or reducer raised."""

    task: str
    """``map task 3``…"""
    culprit: str
    """``mapper``, ``combiner`` or ``reducer``."""
    place: Place | None
    key: str | None
    text: str
    """The traceback there, from the user's first frame on."""
    error: bytes | None
    """The pickled exception, when it can be."""


TaskDone = MapDone | ReduceDone | FilesDiffer | BlocksGone | UserCodeRaised


def run_task(task: Task, recipe: Recipe, store: BlockStore) -> TaskDone:
    """Run a task of either kind."""
    if isinstance(task, ReduceTask):
        return reduce_task(task, recipe, store)
    return map_task(task, recipe, store)


# --- map ---------------------------------------------------------------------------------------
def map_task(task: MapTask, recipe: Recipe, store: BlockStore) -> TaskDone:
    """Map the split into a table; spill it in sorted runs whenever it outgrows the budget."""
    if isinstance(task.split, FileSplit):
        for piece in task.split.pieces:
            if trouble := check_same_file(piece):
                return FilesDiffer(task.number, task.attempt, f"{piece.path} {trouble}")
    table = mapping_table(recipe.reducer, recipe.combiner)
    writer = BlockWriter(store, task.number, task.attempt, task.partitions)
    budget = recipe.memory // 2  # the other half is for the input at hand, and for sorting
    finished = False
    try:
        for batch in _batches(task.split, recipe):
            _map_batch(batch, recipe.mapper, table)
            if table.size() > budget:
                table.compact()
                if table.size() > budget // 2:
                    writer.write(_partitioned(table, task.partitions), in_order=True)
        table.compact()
        done = _finish_map(task, recipe, table, writer)
        finished = True
    except _Blamed as blamed:
        return _raised(f"map task {task.number}", "mapper", blamed.error, place=blamed.place)
    except BlamedKey as blamed:
        return _raised_at_key(f"map task {task.number}", blamed)
    finally:
        if not finished:
            writer.abandon()
    return done


def _finish_map(task: MapTask, recipe: Recipe, table: Table, writer: BlockWriter) -> MapDone:
    if task.gather and not writer.wrote:
        keys, values = table.take()
        partial = encode(keys, values)
        if len(partial) <= recipe.inline_limit:
            return MapDone(task.number, task.attempt, partial)
        parts = partition_columns(keys, values, task.partitions)
    else:
        parts = _partitioned(table, task.partitions)
    in_order = writer.wrote
    writer.write(parts, in_order=in_order)
    blocks = tuple(writer.finish(in_order=in_order))
    return MapDone(task.number, task.attempt, None, blocks)


def _partitioned(table: Table, count: int) -> list[tuple[list[Any], list[Any]]]:
    keys, values = table.take()
    return partition_columns(keys, values, count)


@define
class _Batch:
    """Input at hand."""

    records: list[Any]
    """For a mapper of blocks, the block alone."""
    path: str | None
    offset: int
    first: int

    def place(self, index: int, *, whole: bool) -> Place:
        shown = "" if whole else repr(self.records[index])
        if len(shown) > _SHOWN:
            shown = shown[: _SHOWN - 1] + "…"
        return Place(self.path, self.offset, self.first + index, shown)


class _Blamed(Exception):
    """The mapper raised."""

    def __init__(self, place: Place, error: Exception) -> None:
        super().__init__(place, error)
        self.place = place
        self.error = error


def _batches(split: Split, recipe: Recipe) -> Iterator[_Batch]:
    if not isinstance(split, FileSplit):
        if isinstance(recipe.mapper, BlockMapper):
            yield _Batch([split.records], None, 0, split.first)
            return
        for start in range(0, len(split.records), _RECORDS):
            records = split.records[start : start + _RECORDS]
            yield _Batch(records, None, 0, split.first + start)
        return
    for piece in split.pieces:
        yield from _file_batches(piece, recipe)


def _file_batches(piece: Piece, recipe: Recipe) -> Iterator[_Batch]:
    mapper = recipe.mapper
    if isinstance(mapper, BlockMapper):
        for offset, block in read_blocks(piece, mapper.size):
            content = block.decode(recipe.encoding, recipe.errors) if mapper.text else block
            yield _Batch([content], piece.path, offset, 0)
        return
    for offset, block in read_blocks(piece, _TEXT_BATCH):
        yield _Batch(_lines(block, recipe), piece.path, offset, 0)


def _lines(block: bytes, recipe: Recipe) -> list[str]:
    text = block.decode(recipe.encoding, recipe.errors)
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]  # what follows the last newline is no line
    return lines


def _map_batch(batch: _Batch, mapper: Callable[[Any], Any], table: Table) -> None:
    if isinstance(mapper, BlockMapper):
        try:
            result = mapper(batch.records[0])
            if isinstance(result, Mapping):
                table.add_mapping(result)
            else:
                table.add_pairs(result)
        except Exception as error:
            raise _Blamed(batch.place(0, whole=True), error) from error
        return
    records = iter(batch.records)
    try:
        table.add_records(records, mapper)
    except Exception as error:
        # No counting in the loop: the iterator itself knows how far it got.
        index = len(batch.records) - length_hint(records) - 1
        raise _Blamed(batch.place(index, whole=False), error) from error


# --- reduce ------------------------------------------------------------------------------------
def reduce_task(task: ReduceTask, recipe: Recipe, store: BlockStore) -> TaskDone:
    """Merge the blocks: in a table when they fit into memory, else by merging sorted runs."""
    opened = []
    gone: list[tuple[Block, str]] = []
    for block in task.blocks:
        try:
            opened.append(open_block(block, store))
        except BlockMissing as error:
            gone.append((block, str(error)))
    if gone:
        sources = tuple((block.source, block.attempt) for block, _ in gone)
        return BlocksGone(task.number, sources, gone[0][1])
    in_memory = sum(block.size for block in task.blocks) * _ENCODED_GROWTH <= recipe.memory
    try:
        if in_memory:
            table = reducing_table(recipe.reducer, recipe.combiner)
            for here in opened:
                for keys, values in here.columns():
                    table.merge(keys, values)
            columns = table.reduce(recipe.reducer)
            return _in_memory_result(task.number, columns, recipe)
        runs = list(chain.from_iterable(here.sorted_runs() for here in opened))
        return _merged_result(task.number, merge_runs(runs), recipe)
    except BlamedKey as blamed:
        return _raised_at_key(f"reduce task {task.number}", blamed)


def _in_memory_result(
    number: int, columns: tuple[list[Any], list[Any]], recipe: Recipe
) -> ReduceDone:
    keys, values = columns
    if recipe.text_output:
        return ReduceDone(number, _as_text(*sort_columns(keys, values)), in_order=True)
    # Not sorted: whoever makes a dict of it does not need that.
    return ReduceDone(number, encode(keys, values) if keys else b"", in_order=False)


def _merged_result(
    number: int, groups: Iterable[tuple[Any, Iterator[Any]]], recipe: Recipe
) -> ReduceDone:
    grouped = not isinstance(reducing_table(recipe.reducer, recipe.combiner), FoldTable)
    write = _as_text if recipe.text_output else encode
    content = bytearray()
    keys: list[Any] = []
    values: list[Any] = []
    for key, entries in groups:
        given = chain.from_iterable(entries) if grouped else entries
        try:
            value = recipe.reducer(key, given)
        except Exception as error:
            raise BlamedKey("reducer", key) from error
        for _ in given:
            pass  # what the reducer left must be passed over before the next key
        keys.append(key)
        values.append(value)
        if len(keys) == CHUNK_PAIRS:
            content += write(keys, values)
            keys, values = [], []
    if keys:
        content += write(keys, values)
    return ReduceDone(number, bytes(content), in_order=True)


def _as_text(keys: Sequence[Any], values: Sequence[Any]) -> bytes:
    lines = [
        f"{_one_field(key)}\t{_one_field(value)}\n" for key, value in zip(keys, values, strict=True)
    ]
    return "".join(lines).encode("utf-8", "surrogateescape")


def _one_field(value: Any) -> str:
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    return repr(text) if "\t" in text or "\n" in text else text


# --- what the user's code raised ---------------------------------------------------------------
def _raised_at_key(task: str, blamed: BlamedKey) -> UserCodeRaised:
    error = blamed.__cause__
    assert isinstance(error, Exception)
    return _raised(task, blamed.what, error, key=repr(blamed.key))


def _raised(
    task: str, culprit: str, error: Exception, *, place: Place | None = None, key: str | None = None
) -> UserCodeRaised:
    frames = traceback.format_exception(type(error), error, _users_frames(error.__traceback__))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # whatever a user's exception does when pickled; its text travels anyway
        pickled = None
    return UserCodeRaised(task, culprit, place, key, "".join(frames), pickled)


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """Without our own frames in front; all of them when there are no others."""
    inner = frames
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_HERE + os.sep):
        inner = inner.tb_next
    return inner or frames
