"""Files over a connection of their own: bytes behind a frame, in chunks, never whole in memory.

A file becomes visible under its name only when all of it is there and verified. Disks may be slow:
what touches them runs in a thread, so that pulses stay on time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import trio

from dispy_trio import messages, seams
from dispy_trio.errors import ConnectionLost, ProtocolError, RemoteError
from dispy_trio.protocol.codec import SMALL_LIMIT, decode
from dispy_trio.protocol.framing import FRAME_HEADER

__all__ = [
    "CHUNK",
    "describe_file",
    "hash_file",
    "holds",
    "receive_file",
    "receive_message",
    "safe_path",
    "send_file",
]

CHUNK = 1024 * 1024
STALL_SECONDS = 60.0
"""A transfer of which nothing moves for so long has failed."""


def safe_path(directory: str | Path, path: str) -> Path:
    """Where a relative path that somebody else chose lies below a directory.

    Raises:
        RemoteError: it would lead out of there.
    """
    pure = PurePosixPath(path)
    outside = RemoteError(f"the path {path!r} leads out of the directory it belongs to")
    if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts or path.endswith("/"):
        raise outside
    root = Path(directory).resolve()
    target = root / pure
    # Links that a job made may lead anywhere.
    if not target.parent.resolve().is_relative_to(root) or target.is_symlink():
        raise outside
    return target


def hash_file(path: str | Path) -> str:
    """SHA-256 of the content, hex."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, size: int, digest: str) -> bool:
    """Is there a file with that content?"""
    try:
        return path.is_file() and path.stat().st_size == size and hash_file(path) == digest
    except OSError:
        return False


def describe_file(path: str | Path) -> tuple[int, str, int, float]:
    """Size, digest, mode and time of modification of a file."""
    status = os.stat(path)
    return status.st_size, hash_file(path), status.st_mode & 0o777, status.st_mtime


async def receive_message(stream: seams.ByteStream) -> messages.Message | None:
    """One message and not a byte more; None when the other end has closed before one.

    Raises:
        ConnectionLost: it ended within a message.
        ProtocolError: it is no message, or too long for this kind of connection.
    """
    header = await _receive_exactly(stream, FRAME_HEADER.size)
    if not header:
        return None
    length, kind = FRAME_HEADER.unpack(header)
    if length > SMALL_LIMIT:
        raise ProtocolError(f"{stream.peer} announces a request of {length} bytes")
    body = await _receive_exactly(stream, length) if length else b""
    if len(body) < length:
        raise ConnectionLost(f"{stream.peer} ended within a request")
    return decode(kind, body, stream.peer)


async def _receive_exactly(stream: seams.ByteStream, size: int) -> bytes:
    """That many bytes; none at the end of the stream."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = await stream.receive_into(view)
        if not count:
            if len(view) == size:
                return b""
            raise ConnectionLost(f"{stream.peer} ended within a request")
        view = view[count:]
    return bytes(buffer)


async def send_file(
    stream: seams.ByteStream,
    path: Path,
    size: int,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Send the first `size` bytes of a file.

    Raises:
        ConnectionLost: the other end is gone, or it takes nothing any more.
        OSError: the file can't be read, or has become shorter: the connection is of no more use.
    """
    with path.open("rb", buffering=0) as file:
        left = size
        while left:
            data = await trio.to_thread.run_sync(file.read, min(left, CHUNK))
            if not data:
                raise OSError(f"{path} became shorter while it was sent")
            with _no_stall(stream):
                await stream.send_all(data)
            left -= len(data)
            on_progress()


async def receive_file(
    stream: seams.ByteStream,
    target: Path,
    size: int,
    *,
    digest: str | None = None,
    mode: int = 0o600,
    modified: float | None = None,
) -> None:
    """Receive `size` bytes into a new file; an old one of that name is replaced at the end.

    Raises:
        ConnectionLost: the other end is gone; nothing is left of the file.
        ProtocolError: the content is not what `digest` says; nothing is left of it.
        OSError: it can't be written (the disk is full, say). All bytes were taken nonetheless, so
            that the connection can go on.
    """
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.{id(stream)}.part")
    hasher = hashlib.sha256()
    failure: OSError | None = None
    file: io.FileIO | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("xb", buffering=0)
    except OSError as exc:
        failure = exc
    if file is None:
        await _take_in(stream, size, lambda _data: None)
        assert failure is not None
        raise failure

    def write(data: memoryview) -> None:
        nonlocal failure
        if failure is not None:
            return
        try:
            while data:
                count = file.write(data)
                hasher.update(data[:count])
                data = data[count:]
        except OSError as exc:
            failure = exc

    try:
        with file:
            await _take_in(stream, size, write)
        if failure is not None:
            raise failure
        if digest is not None and hasher.hexdigest() != digest:
            raise ProtocolError(f"{stream.peer} sent {target.name} with another content than told")
        part.chmod(mode & 0o777 | 0o600)
        if modified is not None:
            os.utime(part, (modified, modified))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


async def _take_in(
    stream: seams.ByteStream, size: int, write: Callable[[memoryview], None]
) -> None:
    buffer = memoryview(bytearray(min(size, CHUNK) or 1))
    left = size
    while left:
        # A full chunk at a time: each costs a thread.
        fill = 0
        while fill < min(left, len(buffer)):
            with _no_stall(stream):
                count = await stream.receive_into(buffer[fill : min(left, len(buffer))])
            if not count:
                raise ConnectionLost(f"{stream.peer} ended in the middle of a file")
            fill += count
        await trio.to_thread.run_sync(write, buffer[:fill])
        left -= fill


@contextlib.contextmanager
def _no_stall(stream: seams.ByteStream) -> Iterator[None]:
    with trio.move_on_after(STALL_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        raise ConnectionLost(f"{stream.peer}: nothing of a file has moved for {STALL_SECONDS:g} s")
