"""Files cut into byte ranges, and the lines that belong to each range.

A line belongs to the range in which its first byte lies. So ranges are cut anywhere, without a look
into the file, and each reader moves its two borders to the next line by itself: it skips the line
that began before its range, and finishes the one that leaves it.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, BinaryIO

from attrs import evolve, frozen

from dispy_mapreduce.errors import InputError

__all__ = [
    "FileSplit",
    "Files",
    "Piece",
    "RecordSplit",
    "Split",
    "check_same_file",
    "find_files",
    "read_blocks",
    "read_in",
    "split_files",
    "split_records",
]

_FIRST_CHUNK = 64
_LAST_CHUNK = 16384


@frozen
class Files:
    """Inputs that are files, read as lines; see `files`."""

    patterns: tuple[str, ...]


@frozen
class Piece:
    """A byte range of one file, and how that file looked when it was cut."""

    path: str
    start: int
    stop: int
    size: int
    modified: int
    """Nanoseconds since the epoch."""
    content: bytes | None = None
    """The lines of the range, for nodes that do not see the file; `start` is their place in it."""


@frozen
class FileSplit:
    """The share of one map task: a part of a large file, or several small ones."""

    pieces: tuple[Piece, ...]


@frozen
class RecordSplit:
    """The share of one map task: records that are Python objects."""

    records: list[Any]
    first: int
    """Number of the first one among all inputs, from 0."""


Split = FileSplit | RecordSplit


# --- the client's side: what there is, and where to cut it -------------------------------------
def find_files(patterns: Iterable[str]) -> list[Piece]:
    """Look up files and patterns, and check that each file can be read.

    Raises:
        InputError: names every one that is missing, unreadable, or matches nothing.
    """
    pieces: dict[str, Piece] = {}
    troubles = []
    for pattern in patterns:
        paths = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []
        if not paths and glob.has_magic(pattern) and not os.path.lexists(pattern):
            troubles.append(f"{pattern}: matches nothing")
            continue
        for path in paths or [pattern]:
            if paths and os.path.isdir(path):
                continue
            try:
                piece = _whole_file(os.path.abspath(path))
            except OSError as error:
                troubles.append(f"{path}: {error.strerror or error}")
            else:
                pieces[piece.path] = piece
    if troubles:
        raise InputError("; ".join(troubles))
    return list(pieces.values())


def _whole_file(path: str) -> Piece:
    with open(path, "rb") as file:
        state = os.fstat(file.fileno())
    return Piece(path, 0, state.st_size, state.st_size, state.st_mtime_ns)


def split_files(files: Sequence[Piece], split_size: int) -> Iterator[FileSplit]:
    """Cut large files into ranges, and pack small ones together, `split_size` bytes or so each."""
    packed: list[Piece] = []
    room = split_size
    for file in files:
        for piece in _cut(file, split_size):
            size = piece.stop - piece.start
            if packed and size > room:
                yield FileSplit(tuple(packed))
                packed, room = [], split_size
            packed.append(piece)
            room -= size
    if packed:
        yield FileSplit(tuple(packed))


def _cut(file: Piece, split_size: int) -> Iterator[Piece]:
    # Equal ranges rather than full ones and a rest: the last task is not a dwarf.
    count = -(-file.size // split_size)
    for number in range(count):
        start, stop = file.size * number // count, file.size * (number + 1) // count
        yield evolve(file, start=start, stop=stop)


def split_records(records: Iterable[Any], wanted: int) -> Iterator[RecordSplit]:
    """Cut any iterable into lists, about `wanted` of them when its length is known.

    Of an iterator of unknown length the first ones are short, so that all nodes have work soon.
    """
    size = _FIRST_CHUNK
    growth = 2
    if isinstance(records, Sized):
        size, growth = max(1, -(-len(records) // wanted)), 1
    first = 0
    chunk: list[Any] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield RecordSplit(chunk, first)
            first += size
            chunk = []
            size = min(size * growth, max(size, _LAST_CHUNK))
    if chunk:
        yield RecordSplit(chunk, first)


def read_in(piece: Piece) -> Piece:
    """The piece with its lines in it, for a node that does not see the file.

    Raises:
        InputError: the file changed, or can't be read any more.
    """
    if trouble := check_same_file(piece):
        raise InputError(f"{piece.path}: {trouble} since the run began")
    blocks = list(read_blocks(piece, max(1, piece.stop - piece.start)))
    start = blocks[0][0] if blocks else piece.start
    return evolve(piece, start=start, content=b"".join(block for _, block in blocks))


# --- the worker's side -------------------------------------------------------------------------
def check_same_file(piece: Piece) -> str | None:
    """How the file here differs from the one the client saw; None when it does not."""
    if piece.content is not None:
        return None
    try:
        state = Path(piece.path).stat()
    except OSError as error:
        return f"can't be read ({error.strerror or error})"
    if state.st_size != piece.size:
        return f"has {state.st_size} bytes and not {piece.size}"
    if state.st_mtime_ns != piece.modified:
        return "was modified"
    return None


def read_blocks(piece: Piece, block_size: int) -> Iterator[tuple[int, bytes]]:
    """The lines that belong to the piece, in blocks of whole lines, each with its place.

    Blocks are about `block_size` bytes, longer where a line is.
    """
    if piece.content is not None:
        source: BinaryIO = io.BytesIO(piece.content)
        for offset, block in _read_range(source, 0, len(piece.content), block_size):
            yield piece.start + offset, block
        return
    with open(piece.path, "rb") as file:
        yield from _read_range(file, piece.start, piece.stop, block_size)


def _read_range(
    file: BinaryIO, start: int, stop: int, block_size: int
) -> Iterator[tuple[int, bytes]]:
    position = 0
    if start > 0:
        # The byte before tells whether a line begins right at the start.
        file.seek(start - 1)
        position = start - 1 + len(file.readline())
    while position < stop:
        block = file.read(min(block_size, stop - position))
        if not block:
            return
        if not block.endswith(b"\n"):
            block += file.readline()
        yield position, block
        position += len(block)
