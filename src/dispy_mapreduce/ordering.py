"""A total order of keys, so that any of them can be sorted and sorted runs can be merged.

Keys of one plain type sort as Python sorts them. For all others there is `rank`, which orders
numbers before text before bytes before the rest, and never fails. The two agree on plain types, so
a run that was sorted the quick way can be merged with one that was not.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from numbers import Real
from typing import Any, Final

__all__ = ["PLAIN_TYPES", "plain_type", "rank", "sort_columns", "sort_keys"]

PLAIN_TYPES: Final = (str, bytes, int)


def plain_type(keys: Iterable[Any]) -> type | None:
    """The one exact type all the keys have, when that is a plain one."""
    types = set(map(type, keys))
    if len(types) == 1 and (only := types.pop()) in PLAIN_TYPES:
        return only
    return None


def rank(key: Any) -> tuple[Any, ...]:
    """What to compare instead of the key; keys that are equal have equal ranks."""
    if isinstance(key, str):
        return (2, str(key))
    if isinstance(key, complex) and not key.imag:
        key = key.real
    # Decimals are among the numbers too, though no `Real`.
    if isinstance(key, Real) or hasattr(key, "as_integer_ratio"):
        # NaN equals nothing, itself included: it goes behind all other numbers.
        return (1, key) if key == key else (1.5,)
    if isinstance(key, bytes):
        return (3, bytes(key))
    if key is None:
        return (0,)
    if isinstance(key, tuple):
        return (4, tuple(map(rank, key)))
    if isinstance(key, frozenset):
        return (5, tuple(sorted(map(rank, key))))
    name = f"{type(key).__module__}.{type(key).__qualname__}"
    return (6, name, _Within(key))


class _Within:
    """Two values of one type: by their own order, or failing that by their pickles."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Within) and bool(self.value == other.value)

    __hash__ = None  # type: ignore[assignment]  # compared only

    def __lt__(self, other: _Within) -> bool:
        try:
            return bool(self.value < other.value)
        except TypeError:
            return pickle.dumps(self.value) < pickle.dumps(other.value)


def sort_keys(keys: Iterable[Any]) -> list[Any]:
    """The keys in their total order."""
    listed = list(keys)
    return sorted(listed) if plain_type(listed) else sorted(listed, key=rank)


def sort_columns(keys: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Both columns, in the order of the keys, which must be distinct."""
    table = dict(zip(keys, values, strict=True))
    ordered = sort_keys(table)
    return ordered, list(map(table.__getitem__, ordered))
