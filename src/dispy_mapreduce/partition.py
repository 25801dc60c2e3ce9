"""Which partition a key belongs to, the same in every process and on every machine.

Keys that are equal as keys of a dict fall into the same partition, whatever their types: ``1``,
``1.0`` and ``True`` do. Python's own ``hash()`` is no help, it differs from process to process.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any
from zlib import crc32

from dispy_mapreduce.errors import UnstableKey

__all__ = ["Columns", "partition_columns", "partition_of", "stable_bytes"]

Columns = tuple[list[Any], list[Any]]
"""Keys, and as many values."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def stable_bytes(key: Any) -> bytes:
    """Bytes that are the same for all keys that are equal; unequal ones may share them.

    Raises:
        UnstableKey: names the type that has no such bytes.
    """
    if isinstance(key, str):
        return str.encode(key, "utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return bytes(key)
    if isinstance(key, tuple):
        return b"(" + b",".join(map(stable_bytes, key)) + b")"
    if isinstance(key, frozenset):
        return b"{" + b",".join(sorted(map(stable_bytes, key))) + b"}"
    if key is None:
        return b"None"
    if (number := _number(key)) is not None:
        return number
    if isinstance(key, Enum):
        return f"{type(key).__qualname__}.{key.name}".encode()
    if isinstance(key, datetime.datetime) and key.tzinfo is not None:
        # Equal instants in different zones are equal keys.
        return str(key - _EPOCH).encode()
    if isinstance(key, datetime.date | datetime.timedelta | uuid.UUID | PurePath):
        return str(key).encode("utf-8", "surrogateescape")
    raise UnstableKey(
        f"a key of type {type(key).__qualname__} has no hash that is the same in every process:"
        " use str, bytes, numbers, None, or tuples of them"
    )


def _number(key: Any) -> bytes | None:
    """The exact ratio, which int, float, Fraction and Decimal all know; None for no number."""
    if isinstance(key, complex):
        if key.imag:
            return repr(key + 0).encode()
        key = key.real
    if not hasattr(key, "as_integer_ratio"):
        return None
    try:
        numerator, denominator = key.as_integer_ratio()
    except (ValueError, OverflowError):
        return str(float(key)).encode()  # an infinity, or not a number
    return b"%x/%x" % (numerator, denominator)


def partition_of(key: Any, count: int) -> int:
    """Number of the key's partition, of `count`."""
    return crc32(stable_bytes(key)) % count


def partition_columns(keys: Sequence[Any], values: Iterable[Any], count: int) -> list[Columns]:
    """Deal the pairs out to `count` partitions, keeping their order within each."""
    if count == 1:
        return [(list(keys), list(values))]
    parts: list[Columns] = [([], []) for _ in range(count)]
    appenders = [(part_keys.append, part_values.append) for part_keys, part_values in parts]
    for key, value, checksum in zip(keys, values, _checksums(keys), strict=True):
        add_key, add_value = appenders[checksum % count]
        add_key(key)
        add_value(value)
    return parts


def _checksums(keys: Sequence[Any]) -> Iterable[int]:
    if set(map(type, keys)) == {str}:
        try:
            return map(crc32, [key.encode() for key in keys])
        except UnicodeEncodeError:
            pass  # lone surrogates: the careful way below gives them bytes too
    return map(crc32, map(stable_bytes, keys))
