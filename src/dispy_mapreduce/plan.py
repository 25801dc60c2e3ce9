"""What the caller asked for, checked and made into what is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import evolve, frozen

from dispy_mapreduce.errors import BadProgram, InputError
from dispy_mapreduce.folding import understand
from dispy_mapreduce.splitting import (
    Files,
    Piece,
    Split,
    find_files,
    split_files,
    split_records,
)
from dispy_mapreduce.tasks import BlockMapper, Recipe

__all__ = ["DEFAULT_MEMORY", "Plan", "block_mapper", "files", "plan"]

DEFAULT_MEMORY = 256 << 20
_TASKS_PER_SLOT = 4
"""Map tasks of a file input: enough that an expensive one leaves no slot idle for long."""
_SMALLEST_SPLIT = 1 << 20
_LARGEST_SPLIT = 64 << 20
_PARTITION_SHARE = 8
"""A partition is meant to hold this part of the memory budget in input."""


def files(*patterns: str | os.PathLike[str]) -> Files:
    """Inputs that are files, or patterns such as ``"logs/**/*.txt"``, read as lines.

    Needed only for several names given as text: a list of str is a list of records.
    """
    return Files(tuple(os.fspath(pattern) for pattern in patterns))


def block_mapper(
    function: Callable[[Any], Any] | None = None, *, text: bool = False, size: int = 16 << 20
) -> Any:
    """Make a mapper that gets whole blocks of input, not records one by one.

    It returns a `collections.Counter`, another mapping, or any iterable of pairs. Of a file it gets
    bytes, whole lines of it, about `size` of them at a time; of other inputs, lists of records.

    >>> @block_mapper
    ... def count_words(block: bytes) -> Counter[bytes]:
    ...     return Counter(block.split())

    Args:
        function: the mapper; left out when options are given.
        text: blocks are decoded, and come as str.
        size: bytes in a block.
    """
    if size < 1:
        raise ValueError(f"a block of {size} bytes can't hold a line")
    if function is None:
        return lambda function: BlockMapper(function, text, size)
    return BlockMapper(function, text, size)


@frozen
class Plan:
    """A map_reduce that can be run."""

    recipe: Recipe
    inputs: list[Piece] | Iterable[Any]
    """Checked files, or records."""
    of_files: bool
    gather: bool
    """The client merges partial results, as long as they are small."""
    split_size: int | None
    asked_partitions: int | None

    @property
    def input_bytes(self) -> int:
        """Of files; of other inputs nobody knows."""
        if not self.of_files:
            return 0
        return sum(piece.stop - piece.start for piece in self.inputs)

    def splits(self, slots: int) -> Iterator[Split]:
        """The shares of the map tasks, for that many processors; records are drawn as needed."""
        wanted = max(1, slots) * _TASKS_PER_SLOT
        if not self.of_files:
            yield from split_records(self.inputs, wanted)
            return
        size = self.split_size or min(
            max(self.input_bytes // wanted + 1, _SMALLEST_SPLIT), _LARGEST_SPLIT
        )
        yield from split_files(list(self.inputs), size)

    def partitions(self, slots: int) -> int:
        """How many partitions, for that many processors."""
        if self.asked_partitions is not None:
            return self.asked_partitions
        share = max(1, self.recipe.memory // _PARTITION_SHARE)
        return max(1, slots, self.input_bytes // share)


def plan(
    mapper: Callable[[Any], Any],
    reducer: Any,
    inputs: Any,
    *,
    combiner: Any = None,
    partitions: int | None = None,
    text_output: bool = False,
    memory: int = DEFAULT_MEMORY,
    split_size: int | None = None,
    encoding: str = "utf-8",
    errors: str = "surrogateescape",
) -> Plan:
    """Check everything that can be checked before any work starts.

    Raises:
        InputError: names the files that are missing or can't be read.
        BadProgram: the mapper, reducer or combiner can't be called as they should be.
    """
    if not callable(mapper):
        raise BadProgram(f"the mapper {mapper!r} can't be called")
    if partitions is not None and partitions < 1:
        raise BadProgram(f"there can't be {partitions} partitions")
    if memory < 1 << 20:
        raise BadProgram(f"a memory budget of {memory} bytes is less than 1 MiB")
    if split_size is not None and split_size < 1:
        raise BadProgram(f"splits can't have {split_size} bytes")
    recipe = Recipe(
        mapper,
        understand(reducer, "reducer"),
        None if combiner is None else understand(combiner, "combiner"),
        memory,
        encoding,
        errors,
        text_output=text_output,
    )
    recipe = evolve(recipe, inline_limit=min(recipe.inline_limit, memory // 2))
    named, other = _file_inputs(inputs)
    # Results in partitions, when those were asked for, are made by reduce tasks.
    gather = recipe.foldable and partitions is None and not text_output
    checked = other if named is None else find_files(named)
    return Plan(recipe, checked, named is not None, gather, split_size, partitions)


def _file_inputs(inputs: Any) -> tuple[tuple[str, ...] | None, Iterable[Any]]:
    """The names of files, if that is what the inputs are, or else the records."""
    if isinstance(inputs, Files):
        return inputs.patterns, ()
    if isinstance(inputs, str | os.PathLike):
        return (os.fspath(inputs),), ()
    if isinstance(inputs, list | tuple) and inputs:
        are_paths = [isinstance(item, os.PathLike) for item in inputs]
        if all(are_paths):
            return tuple(os.fspath(item) for item in inputs), ()
        if any(are_paths):
            raise InputError("inputs mix paths with other objects: give files(...) or records")
    if not hasattr(inputs, "__iter__"):
        raise InputError(
            f"inputs of type {type(inputs).__qualname__} are neither files nor records"
        )
    return None, inputs
