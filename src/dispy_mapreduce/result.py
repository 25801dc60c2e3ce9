"""What a map_reduce gives back: pairs, in partitions, each in the order of its keys."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar, cast

from attrs import define, field, frozen

from dispy_mapreduce.columns import decode, decode_chunks
from dispy_mapreduce.errors import OutputError
from dispy_mapreduce.ordering import sort_keys

__all__ = ["MapReduceResult", "PartFiles", "ResultParts", "Sink"]

K = TypeVar("K")
V = TypeVar("V")


class Sink(Protocol):
    """Takes the partitions as reduce tasks finish, in any order."""

    def put(self, partition: int, content: bytes, *, in_order: bool) -> None: ...

    def abandon(self) -> None:
        """The run failed: leave nothing behind."""
        ...


@frozen
class _Part:
    """One partition: in memory, or in the spill file."""

    in_order: bool
    content: bytes | None
    offset: int = 0
    size: int = 0


@define(eq=False)
class ResultParts:
    """Encoded partitions, in memory up to a limit and beyond it in a file without a name."""

    limit: int
    parts: dict[int, _Part] = field(factory=dict)
    _held: int = 0
    _spill: BinaryIO | None = None

    def put(self, partition: int, content: bytes, *, in_order: bool) -> None:
        """Take a partition."""
        if self._held + len(content) <= self.limit:
            self._held += len(content)
            self.parts[partition] = _Part(in_order, content)
            return
        if self._spill is None:
            # Nobody else has its name, so it is gone when we are, however we end.
            self._spill = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by close
        offset = self._spill.seek(0, os.SEEK_END)
        self._spill.write(content)
        self.parts[partition] = _Part(in_order, None, offset, len(content))

    def content(self, part: _Part) -> bytes:
        """The encoded pairs of a partition."""
        if part.content is not None:
            return part.content
        assert self._spill is not None
        self._spill.seek(part.offset)
        return self._spill.read(part.size)

    def close(self) -> None:
        """Let go of the spill file."""
        if self._spill is not None:
            self._spill.close()

    abandon = close

    def __del__(self) -> None:
        self.close()


@define(eq=False)
class MapReduceResult(Generic[K, V]):
    """The pairs of key and reduced value.

    Iterating gives them partition by partition, in the order of the keys within each; with the one
    partition that folds such as ``sum`` have by default, that is the order of all keys. Whoever
    needs no order saves the sorting: `items` and `to_dict` do not sort.
    """

    _table: dict[K, V] | None
    """What the client merged itself: the one partition there is then."""
    _parts: ResultParts | None = None

    def __iter__(self) -> Iterator[tuple[K, V]]:
        for number in range(self.partitions):
            yield from self.partition(number)

    @property
    def partitions(self) -> int:
        """How many there are; some may be empty."""
        return 1 if self._parts is None else len(self._parts.parts)

    def partition(self, number: int) -> Iterator[tuple[K, V]]:
        """The pairs of one partition, in the order of their keys."""
        if self._parts is None:
            return _in_order(self._table or {})
        part = self._parts.parts[number]
        content = self._parts.content(part)
        if part.in_order:
            return _pairs(content)
        keys, values = decode(content)
        return _in_order(dict(zip(keys, values, strict=True)))

    def items(self) -> Iterator[tuple[K, V]]:
        """The pairs, in no order."""
        if self._parts is None:
            yield from (self._table or {}).items()
            return
        for _, part in sorted(self._parts.parts.items()):
            yield from _pairs(self._parts.content(part))

    def to_dict(self) -> dict[K, V]:
        """All pairs as a dict; a new one each time when there are several partitions."""
        if self._parts is None:
            return self._table or {}
        table: dict[K, V] = {}
        for _, part in sorted(self._parts.parts.items()):
            for keys, values in decode_chunks(self._parts.content(part)):
                table.update(zip(keys, values, strict=True))
        return table


def _pairs(content: bytes) -> Iterator[tuple[Any, Any]]:
    for keys, values in decode_chunks(content):
        yield from zip(keys, values, strict=True)


def _in_order(table: Mapping[K, V]) -> Iterator[tuple[K, V]]:
    for key in sort_keys(table):
        yield key, table[key]


@define(eq=False)
class PartFiles:
    """Writes partitions as ``part-00000``… into a directory, all of them or none.

    Each is written under a hidden name, and they get their real names when the last one is there.
    """

    directory: Path
    _written: dict[int, Path] = field(factory=dict)

    def prepare(self) -> None:
        """Make the directory.

        Raises:
            OutputError: it can't be made or written to, or holds part files.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.glob("part-*")):
                raise OutputError(f"{self.directory} holds part files already")
            if not os.access(self.directory, os.W_OK | os.X_OK):
                raise OutputError(f"{self.directory} can't be written to")
        except OSError as error:
            raise OutputError(f"{self.directory}: {error.strerror or error}") from error

    def put(self, partition: int, content: bytes, *, in_order: bool) -> None:
        """Write a partition under its hidden name."""
        assert in_order
        hidden = self.directory / f".part-{partition:05}.{os.getpid()}"
        self._written[partition] = hidden
        hidden.write_bytes(content)

    def publish(self) -> list[Path]:
        """Give the files their names."""
        paths = []
        for partition in sorted(self._written):
            path = self.directory / f"part-{partition:05}"
            self._written[partition].replace(path)
            paths.append(path)
        return paths

    def abandon(self) -> None:
        """Remove what was written."""
        for hidden in self._written.values():
            hidden.unlink(missing_ok=True)
