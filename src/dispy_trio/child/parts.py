"""Large objects as a pickle and its out-of-band buffers, laid out in one segment.

Each part begins at a multiple of 64 bytes, so that arrays over it are aligned.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "BIG",
    "dump",
    "load",
    "map_private",
    "new_segment",
    "padded",
    "rewrite_segment",
    "shield",
    "span",
    "split",
    "write_segment",
]

BIG = 256 * 1024
"""Bytes from which a buffer is worth its own part."""

_ALIGNMENT = 64
_ZEROS = bytes(_ALIGNMENT)

Dumps = Callable[..., bytes]


class _Raw:
    """Stands for large bytes in a pickle, which alone would copy them in."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind = bytearray if type(self.value) is bytearray else bytes
        return kind, (pickle.PickleBuffer(self.value),)


def shield(value: Any) -> Any:
    """The value, or what stands for it when it is large bytes; looks into a tuple."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return _Raw(value) if len(value) >= BIG else value
    if kind is memoryview and value.c_contiguous:
        # It comes out as bytes, as from cloudpickle.
        return _Raw(value) if value.nbytes >= BIG else bytes(value)
    if kind is tuple:
        return tuple([shield(item) for item in value])
    return value


def dump(value: Any, dumps: Dumps) -> tuple[bytes, list[memoryview]]:
    """Pickle; large buffers come out on the side."""
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < BIG:
            return True
        buffers.append(raw)
        return False

    return dumps(value, 5, buffer_callback=keep_in_band), buffers


def load(parts: Sequence[memoryview | bytes]) -> Any:
    """Unpickle what `dump` made."""
    return pickle.loads(parts[0], buffers=parts[1:])


def padded(parts: Iterable[memoryview | bytes]) -> list[memoryview]:
    """The parts with the padding between them, as they lie in a segment."""
    out: list[memoryview] = []
    for part in parts:
        view = memoryview(part)
        out.append(view)
        if gap := -len(view) % _ALIGNMENT:
            out.append(memoryview(_ZEROS)[:gap])
    return out


def span(sizes: Sequence[int]) -> int:
    """Bytes from the begin of the first part to the end of the last."""
    return sum(size + (-size % _ALIGNMENT) for size in sizes[:-1]) + sum(sizes[-1:])


def split(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The parts of a segment or blob.

    Raises:
        ValueError: the sizes do not fit into it.
    """
    parts: list[memoryview] = []
    offset = 0
    for size in sizes:
        if size < 0 or offset + size > len(memory):
            raise ValueError(f"parts of {list(sizes)} bytes do not fit into {len(memory)}")
        parts.append(memory[offset : offset + size])
        offset += size + (-size % _ALIGNMENT)
    return parts


def new_segment() -> int:
    """A memory file; whoever takes it over may have its size stay."""
    return os.memfd_create("dispy-trio", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def write_segment(parts: Sequence[memoryview | bytes]) -> int:
    """A new memory file that holds the parts."""
    segment = new_segment()
    try:
        rewrite_segment(segment, parts)
    except BaseException:
        os.close(segment)
        raise
    return segment


def rewrite_segment(segment: int, parts: Sequence[memoryview | bytes]) -> None:
    """Put other parts into a memory file; much cheaper than a new one, which needs fresh pages."""
    offset = 0
    for view in padded(parts):
        while view:
            count = os.pwrite(segment, view, offset)
            offset += count
            view = view[count:]


def map_private(segment: int) -> memoryview:
    """Map a segment; writes to it stay in this process."""
    size = os.fstat(segment).st_size
    if not size:
        return memoryview(b"")
    return memoryview(
        mmap.mmap(segment, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    )
