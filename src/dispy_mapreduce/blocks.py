"""Files of intermediate pairs: what a map task leaves for a partition, and how it is merged.

A block is one file, or bytes that travel with the task. It holds one or more runs, each a sequence
of column chunks (see `columns`). The runs of a block that was spilled are sorted; one that was not
holds a single run in no order.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO, Protocol

from attrs import define, evolve, field, frozen

from dispy_mapreduce.columns import decode, decode_chunks, encode, encode_chunks
from dispy_mapreduce.ordering import PLAIN_TYPES, rank, sort_columns
from dispy_mapreduce.partition import Columns

__all__ = ["Block", "BlockMissing", "BlockStore", "BlockWriter", "Run", "merge_runs", "open_block"]


class BlockMissing(Exception):
    """A block is not where its reference says; the text says what was tried."""


class BlockStore(Protocol):
    """Where a task writes its blocks and finds those of others."""

    def path_for(self, name: str) -> str:
        """Where to write a file of this name before it is kept."""
        ...

    def keep(self, path: str) -> Any:
        """Take the file over; what is returned is picklable and opens it from anywhere."""
        ...

    def find(self, reference: Any) -> str:
        """The path of a kept file on this machine, fetched when it is not here.

        Raises:
            OSError: it is not to be had.
        """
        ...


@frozen
class Run:
    """One sequence of chunks in a block."""

    offset: int
    size: int
    plain: type | None
    """The plain type of all its keys, when they have one: see `ordering`."""


@frozen
class Block:
    """The share that one map task has in one partition."""

    source: int
    """Number of the map task."""
    attempt: int
    """Of that map task: whoever reads the block is pinned to it."""
    runs: tuple[Run, ...]
    in_order: bool
    reference: Any = None
    """What the store gave for the file; None when `content` has the bytes."""
    content: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes, encoded."""
        return sum(run.size for run in self.runs)


@define(eq=False)
class BlockWriter:
    """Writes the blocks of one map task, a file for each partition."""

    store: BlockStore
    source: int
    attempt: int
    partitions: int
    _files: dict[int, BinaryIO] = field(factory=dict)
    _runs: dict[int, list[Run]] = field(factory=dict)

    @property
    def wrote(self) -> bool:
        """Has anything been spilled?"""
        return bool(self._files)

    def write(self, parts: Sequence[Columns], *, in_order: bool) -> None:
        """Append a run to each partition's file, sorted first when they are to be in order."""
        for partition, (keys, values) in enumerate(parts):
            if not keys:
                continue
            if in_order:
                keys, values = sort_columns(keys, values)
            types = set(map(type, keys))
            only = types.pop() if len(types) == 1 else None
            file = self._file(partition)
            offset = file.tell()
            for chunk in encode_chunks(keys, values) if in_order else (encode(keys, values),):
                file.write(chunk)
            plain = only if only in PLAIN_TYPES else None
            run = Run(offset, file.tell() - offset, plain)
            self._runs.setdefault(partition, []).append(run)

    def _file(self, partition: int) -> BinaryIO:
        if partition not in self._files:
            # Other tasks, and other attempts of this one, may write beside us.
            name = f"block-{self.source}-{self.attempt}-{partition}-{os.getpid()}"
            self._files[partition] = open(self.store.path_for(name), "xb")  # noqa: SIM115 - closed by finish or abandon
        return self._files[partition]

    def finish(self, *, in_order: bool) -> list[Block | None]:
        """Close the files and give them into the store's keeping; None for empty partitions."""
        blocks: list[Block | None] = [None] * self.partitions
        for partition, file in self._files.items():
            file.close()
            runs = tuple(self._runs[partition])
            reference = self.store.keep(file.name)
            blocks[partition] = Block(self.source, self.attempt, runs, in_order, reference)
        return blocks

    def abandon(self) -> None:
        """Remove what was written; for a task that failed."""
        for file in self._files.values():
            file.close()
            try:
                os.unlink(file.name)
            except FileNotFoundError:
                pass  # in the store's keeping already: it goes when the run ends


def bytes_block(source: int, attempt: int, columns: Columns) -> Block | None:
    """A block that travels with the task."""
    keys, values = columns
    if not keys:
        return None
    content = encode(keys, values)
    runs = (Run(0, len(content), None),)
    return Block(source, attempt, runs, in_order=False, content=content)


def open_block(block: Block, store: BlockStore) -> OpenBlock:
    """Make the block's bytes readable here.

    Raises:
        BlockMissing: names the map task that made it.
    """
    if block.content is not None:
        return OpenBlock(block)
    try:
        return OpenBlock(block, store.find(block.reference))
    except OSError as error:
        raise BlockMissing(f"a block of map task {block.source}: {error}") from error


@define
class OpenBlock:
    """A block that is on this machine."""

    block: Block
    path: str | None = None

    def read(self, run: Run) -> bytes:
        """All bytes of a run."""
        if self.path is None:
            content = self.block.content
            assert content is not None
            return content[run.offset : run.offset + run.size]
        with open(self.path, "rb") as file:
            file.seek(run.offset)
            return file.read(run.size)

    def columns(self) -> Iterator[Columns]:
        """The pairs of each run, in whatever order they are in."""
        for run in self.block.runs:
            yield decode(self.read(run))

    def sorted_runs(self) -> list[OpenRun]:
        """Its runs, in order of their keys; one that is in no order is sorted in memory."""
        if self.block.in_order:
            return [OpenRun(self, run) for run in self.block.runs]
        opened = []
        for run in self.block.runs:
            keys, values = sort_columns(*decode(self.read(run)))
            plain = type(keys[0]) if len(set(map(type, keys))) == 1 else None
            content = b"".join(encode_chunks(keys, values))
            whole = Run(0, len(content), plain if plain in PLAIN_TYPES else None)
            held = evolve(self.block, runs=(whole,), content=content, reference=None)
            opened.append(OpenRun(OpenBlock(held), whole))
        return opened


@define
class OpenRun:
    """A sorted run that is on this machine, read chunk by chunk."""

    block: OpenBlock
    run: Run

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        for keys, values in self._chunks():
            yield from zip(keys, values, strict=True)

    def _chunks(self) -> Iterator[Columns]:
        if self.block.path is None:
            yield from decode_chunks(self.block.read(self.run))
            return
        import mmap

        with (
            open(self.block.path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
            view[self.run.offset : self.run.offset + self.run.size] as part,
        ):
            yield from decode_chunks(part)


def merge_runs(runs: Sequence[OpenRun]) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Each key once, in order, with an iterator over its entries in all the runs."""
    plain = {run.run.plain for run in runs}
    quick = len(plain) == 1 and None not in plain
    order: Callable[[tuple[Any, Any]], Any] = itemgetter(0)
    if not quick:

        def order(pair: tuple[Any, Any]) -> Any:
            return rank(pair[0])

    merged = heapq.merge(*(run.pairs() for run in runs), key=order)
    for key, pairs in groupby(merged, key=itemgetter(0)):
        yield key, map(itemgetter(1), pairs)
