"""The partial results of one task, in memory: one entry a key.

The loops over pairs are the hot path of the whole package. They are written out once for each kind
of reduction, and whatever can runs inside C iterators.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice, repeat
from operator import add
from typing import Any

from attrs import define, field

from dispy_mapreduce.errors import ReducerFailed
from dispy_mapreduce.folding import Fold, Reduction

__all__ = [
    "BlamedKey",
    "FoldTable",
    "GroupTable",
    "Table",
    "mapping_table",
    "reducing_table",
]

Mapper = Callable[[Any], Iterable[tuple[Any, Any]]]

_consume = deque[Any](maxlen=0).extend
_STRIDE = 1 << 15
"""Entries merged in one go inside C: other threads of the process wait that long."""
_SAMPLE = 64
_LIST_BYTES = 88


class BlamedKey(ReducerFailed):
    """The combiner or reducer raised at this key; the cause is what it raised."""

    def __init__(self, what: str, key: Any) -> None:
        super().__init__(what, key)
        self.what = what
        self.key = key

    def __str__(self) -> str:
        return f"{self.what} failed at key {self.key!r}"


@define(eq=False)
class FoldTable:
    """Folds each value into its key's entry at once."""

    fold: Fold
    wraps: bool = False
    """Give values out as lists of one, as a `GroupTable` takes them."""
    entries: dict[Any, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.entries = defaultdict(int) if self.fold.adds else {}

    def add_records(self, records: Iterator[Any], mapper: Mapper) -> None:
        """Map each record and take the pairs."""
        entries = self.entries
        if self.fold.adds:
            for record in records:
                for key, value in mapper(record):
                    entries[key] += value
        else:
            for record in records:
                self.add_pairs(mapper(record))

    def add_pairs(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        entries, function = self.entries, self.fold.function
        if self.fold.adds:
            for key, value in pairs:
                entries[key] += value
        else:
            for key, value in pairs:
                entries[key] = function(entries[key], value) if key in entries else value

    def add_mapping(self, mapping: Mapping[Any, Any]) -> None:
        """Take pairs whose keys are known to be distinct."""
        self.merge(mapping.keys(), mapping.values())

    def merge(self, keys: Iterable[Any], values: Iterable[Any]) -> None:
        """Take what another table of this kind gave out. The keys must be distinct."""
        if not self.fold.adds:
            self.add_pairs(zip(keys, values, strict=True))
            return
        entries = self.entries
        store, look_up = entries.__setitem__, entries.get
        keys, values = iter(keys), iter(values)
        while stride := list(islice(keys, _STRIDE)):
            # All lazy: each sum is taken only when its turn to be stored has come.
            sums = map(add, map(look_up, stride, repeat(0)), values)
            _consume(map(store, stride, sums))

    def size(self) -> int:
        """Bytes held, estimated from a sample."""
        return _dict_size(self.entries, sys.getsizeof)

    def compact(self) -> None:
        """Nothing to do: entries are as small as they get."""

    def take(self) -> tuple[list[Any], list[Any]]:
        """Give out keys and values, and be empty."""
        keys, values = list(self.entries), list(self.entries.values())
        self._clear()
        return keys, [[value] for value in values] if self.wraps else values

    def reduce(self, reducer: Reduction) -> tuple[list[Any], list[Any]]:
        """The final values, and be empty. For a fold they are there already."""
        assert reducer == self.fold
        return self.take()


@define(eq=False)
class GroupTable:
    """Keeps each key's values in a list, which the combiner, if any, makes short."""

    combiner: Reduction | None
    entries: dict[Any, list[Any]] = field(factory=lambda: defaultdict(list))
    _values: int = 0

    def add_records(self, records: Iterator[Any], mapper: Mapper) -> None:
        """Map each record and take the pairs."""
        self.add_pairs(chain.from_iterable(map(mapper, records)))

    def add_pairs(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        entries, count = self.entries, 0
        for key, value in pairs:
            entries[key].append(value)
            count += 1
        self._values += count

    def add_mapping(self, mapping: Mapping[Any, Any]) -> None:
        """Take pairs."""
        self.add_pairs(mapping.items())

    def merge(self, keys: Iterable[Any], values: Iterable[list[Any]]) -> None:
        """Take what another table of this kind gave out."""
        entries = self.entries
        for key, several in zip(keys, values, strict=True):
            entries[key].extend(several)
            self._values += len(several)

    def size(self) -> int:
        """Bytes held, estimated from a sample."""
        values = list(chain.from_iterable(islice(self.entries.values(), _SAMPLE)))[:_SAMPLE]
        each = 8 + (sum(map(sys.getsizeof, values)) // len(values) if values else 0)
        return _dict_size(self.entries, lambda _list: _LIST_BYTES) + self._values * each

    def compact(self) -> None:
        """Combine the values of each key, where there is a combiner."""
        if self.combiner is None or self._values == len(self.entries):
            return
        combiner = self.combiner
        for key, values in self.entries.items():
            if len(values) > 1:
                try:
                    values[:] = [combiner(key, values)]
                except Exception as error:
                    raise BlamedKey("combiner", key) from error
        self._values = len(self.entries)

    def take(self) -> tuple[list[Any], list[Any]]:
        """Give out keys and lists of values, and be empty."""
        keys, values = list(self.entries), list(self.entries.values())
        self.entries, self._values = defaultdict(list), 0
        return keys, values

    def reduce(self, reducer: Reduction) -> tuple[list[Any], list[Any]]:
        """The final values, and be empty."""
        keys, lists = self.take()
        values = []
        for key, several in zip(keys, lists, strict=True):
            try:
                values.append(reducer(key, several))
            except Exception as error:
                raise BlamedKey("reducer", key) from error
        return keys, values


Table = FoldTable | GroupTable


def mapping_table(reducer: Reduction, combiner: Reduction | None) -> Table:
    """The table to map into. A fold is applied at once, be it the reducer or the combiner."""
    if isinstance(reducer, Fold) and combiner in (None, reducer):
        return FoldTable(reducer)
    if isinstance(combiner, Fold):
        return FoldTable(combiner, wraps=True)
    return GroupTable(combiner)


def reducing_table(reducer: Reduction, combiner: Reduction | None) -> Table:
    """The table to merge what `mapping_table` gave out in."""
    if isinstance(reducer, Fold) and combiner in (None, reducer):
        return FoldTable(reducer)
    return GroupTable(combiner)


def _dict_size(entries: dict[Any, Any], size_of_value: Callable[[Any], int]) -> int:
    if not entries:
        return 0
    # The oldest and the newest: keys tend to grow longer as the common ones are known.
    sample = list(chain(islice(entries, _SAMPLE), islice(reversed(entries), _SAMPLE)))
    total = sum(sys.getsizeof(key) + size_of_value(entries[key]) for key in sample)
    return sys.getsizeof(entries) + len(entries) * total // len(sample)
