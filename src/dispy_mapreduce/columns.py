"""Pairs as bytes: all keys in one column, all values in another.

A column of text, bytes, small ints or floats is written whole, by one call into C, instead of
object by object, which is several times faster than pickling. Whatever does not fit is pickled. A column comes back with exactly the types it had.
"""

from __future__ import annotations

import pickle
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from dispy_trio import job

__all__ = ["CHUNK_PAIRS", "decode", "decode_chunks", "encode", "encode_chunks"]

CHUNK_PAIRS: Final = 1 << 15
"""Pairs in one chunk of a run that is read piece by piece."""

_HEADER = struct.Struct("<ccQQQ")
"""Kinds of the two columns, number of pairs, bytes of each column."""

_TEXT, _BYTES, _PICKLED, _FLOATS = b"S", b"B", b"P", b"d"
_INTS = (b"i", b"q")
"""Shorter ones first; these and `_FLOATS` are type codes of `array`."""


def encode(keys: Sequence[Any], values: Sequence[Any]) -> bytes:
    """One chunk with all the pairs."""
    key_kind, key_column = _encode_column(keys)
    value_kind, value_column = _encode_column(values)
    header = _HEADER.pack(key_kind, value_kind, len(keys), len(key_column), len(value_column))
    return b"".join((header, key_column, value_column))


def encode_chunks(keys: Sequence[Any], values: Sequence[Any]) -> Iterator[bytes]:
    """Chunks of bounded length."""
    for first in range(0, len(keys), CHUNK_PAIRS):
        last = first + CHUNK_PAIRS
        yield encode(keys[first:last], values[first:last])


def decode(data: bytes | memoryview) -> tuple[list[Any], list[Any]]:
    """The pairs of all the chunks in `data`."""
    keys: list[Any] = []
    values: list[Any] = []
    for chunk_keys, chunk_values in decode_chunks(data):
        if keys:
            keys += chunk_keys
            values += chunk_values
        else:
            keys, values = chunk_keys, chunk_values
    return keys, values


def decode_chunks(data: bytes | memoryview) -> Iterator[tuple[list[Any], list[Any]]]:
    """The pairs, chunk by chunk."""
    view = memoryview(data)
    position = 0
    while position < len(view):
        key_kind, value_kind, count, *sizes = _HEADER.unpack_from(view, position)
        middle = position + _HEADER.size + sizes[0]
        end = middle + sizes[1]
        key_column = view[position + _HEADER.size : middle]
        keys = _decode_column(key_kind, key_column, count)
        values = _decode_column(value_kind, view[middle:end], count)
        yield keys, values
        position = end


def _encode_column(column: Sequence[Any]) -> tuple[bytes, bytes]:
    types = set(map(type, column))
    if len(types) == 1:
        only = types.pop()
        if only is str and (text := _joined("\n", column)) is not None:
            return _TEXT, text.encode("utf-8", "surrogatepass")
        if only is bytes and (data := _joined(b"\n", column)) is not None:
            return _BYTES, data
        if only is float:
            return _FLOATS, array("d", column).tobytes()
        if only is int:
            for kind in _INTS:
                try:
                    return kind, array(kind.decode(), column).tobytes()
                except OverflowError:
                    pass  # the next is longer; what is beyond 64 bits is pickled below
    return _PICKLED, job.dumps(list(column))


def _joined(separator: Any, column: Iterable[Any]) -> Any:
    """The items with the separator between them; None when one of them contains it."""
    items = list(column)
    joined = separator.join(items)
    return joined if joined.count(separator) == len(items) - 1 else None


def _decode_column(kind: bytes, data: memoryview, count: int) -> list[Any]:
    if kind == _TEXT:
        return str(data, "utf-8", "surrogatepass").split("\n")
    if kind == _BYTES:
        return bytes(data).split(b"\n")
    if kind == _PICKLED:
        column: list[Any] = pickle.loads(data)
        return column
    numbers: array[Any] = array(kind.decode())
    numbers.frombytes(data)
    assert len(numbers) == count
    return numbers.tolist()
