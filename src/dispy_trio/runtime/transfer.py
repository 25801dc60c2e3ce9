"""Files over a connection of their own: bytes behind a frame, in chunks, never whole in memory.

A file becomes visible under its name only when all of it is there and verified; until then it has
no name at all where the file system can do that, so nothing is left of it when its process dies.
Disks may be slow: what touches them runs in threads of `runtime.filework`, so that pulses stay on
time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import trio
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.errors import ConnectionLost, ProtocolError, RemoteError
from dispy_trio.protocol.codec import SMALL_LIMIT, decode
from dispy_trio.protocol.framing import FRAME_HEADER
from dispy_trio.runtime.filework import STEP_SECONDS, in_file_thread

__all__ = [
    "CHUNK",
    "copy_file",
    "describe_file",
    "hash_file",
    "holds",
    "make_folders",
    "receive_file",
    "receive_message",
    "relative_path",
    "safe_path",
    "send_file",
]

CHUNK = 1024 * 1024
STALL_SECONDS = 60.0
"""A transfer of which nothing moves for so long has failed."""
CLOSE_GRACE = 60.0
"""Seconds to wait for a thread that closes a file."""


def safe_path(directory: str | Path, path: str) -> Path:
    """Where a relative path that somebody else chose lies below a directory.

    Raises:
        RemoteError: it would lead out of there.
    """
    relative = relative_path(path)
    root = Path(os.path.realpath(directory))
    target = root / relative
    # Links that a job made may lead anywhere, or in circles.
    if not Path(os.path.realpath(target.parent)).is_relative_to(root) or target.is_symlink():
        raise _leads_out(path)
    return target


def relative_path(path: str) -> PurePosixPath:
    """A path that somebody else chose, if it leads nowhere but down.

    Raises:
        RemoteError: it does not.
    """
    pure = PurePosixPath(path)
    if not path or path.endswith("/") or pure.is_absolute() or ".." in pure.parts:
        raise _leads_out(path)
    if "\0" in path or not _is_name(path):
        raise RemoteError(f"{path!r} can't be the path of a file")
    return pure


def _leads_out(path: str) -> RemoteError:
    return RemoteError(f"the path {path!r} leads out of the directory it belongs to")


def _is_name(path: str) -> bool:
    """Can a file be called so at all?"""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def make_folders(path: Path) -> None:
    """Make a directory and those above it, as deep as somebody else likes them."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise


def hash_file(path: str | Path) -> str:
    """SHA-256 of the content, hex."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_file(path: str | Path) -> int:
    """Open a file to read it.

    Raises:
        OSError: it can't be, or it is something else, which might keep a reader waiting for ever.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "not a file", str(path))


async def holds(path: Path, size: int, digest: str) -> bool:
    """Is there a file with that content?"""
    try:
        source = await in_file_thread(_open_file, path)
    except OSError:
        return False
    try:
        same = os.fstat(source).st_size == size and await _read_through(
            source, size, digest, lambda _data: None
        )
        return same and os.fstat(source).st_size == size
    except OSError:
        return False
    finally:
        os.close(source)


async def copy_file(
    source: Path, target: Path, size: int, *, digest: str, mode: int, modified: float
) -> bool:
    """Copy a file here, hashed on the way; False when it does not have that content any more.

    It may go, or change, at any moment: what counts is what was read from it while it was open.

    Raises:
        OSError: the copy can't be written; nothing is left of it.
    """
    try:
        descriptor = await in_file_thread(_open_file, source)
    except OSError:
        return False
    draft: _Draft | None = None
    try:
        if os.fstat(descriptor).st_size != size:
            return False
        draft = await in_file_thread(_Draft, target)
        if not await _read_through(descriptor, size, digest, draft.write):
            return False
        await in_file_thread(draft.finish, mode, modified)
    finally:
        os.close(descriptor)
        if draft is not None:
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await in_file_thread(draft.close)
    return True


async def _read_through(
    source: int, size: int, digest: str, use: Callable[[memoryview], None]
) -> bool:
    """Read `size` bytes, some for each turn in the thread; was it that content?"""
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(min(size, CHUNK)))
    left = size

    def step() -> bool:
        nonlocal left
        until = time.monotonic() + STEP_SECONDS
        while left and (count := os.readv(source, [buffer[: min(left, CHUNK)]])):
            hasher.update(buffer[:count])
            use(buffer[:count])
            left -= count
            if time.monotonic() >= until:
                return False
        return True

    while not await in_file_thread(step):
        pass
    return not left and hasher.hexdigest() == digest


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
    file = await in_file_thread(_open_file, path)
    try:
        left = size
        while left:
            data = await in_file_thread(os.read, file, min(left, CHUNK))
            if not data:
                raise OSError(f"{path} became shorter while it was sent")
            with _no_stall(stream):
                await stream.send_all(data)
            left -= len(data)
            on_progress()
    finally:
        os.close(file)


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
    hasher = hashlib.sha256()
    failure: OSError | None = None
    draft: _Draft | None = None
    try:
        draft = await in_file_thread(_Draft, target)
    except OSError as exc:
        failure = exc
    if draft is None:
        await _take_in(stream, size, lambda _data: None)
        assert failure is not None
        raise failure

    def write(data: memoryview) -> None:
        nonlocal failure
        if failure is not None:
            return
        try:
            draft.write(data)
            hasher.update(data)
        except OSError as exc:
            failure = exc

    try:
        await _take_in(stream, size, write)
        if failure is not None:
            raise failure
        if digest is not None and hasher.hexdigest() != digest:
            raise ProtocolError(f"{stream.peer} sent {target.name} with another content than told")
        await in_file_thread(draft.finish, mode, modified)
    finally:
        # In a thread: what got no name is removed, and that takes time when it was large.
        with trio.move_on_after(CLOSE_GRACE, shield=True):
            await in_file_thread(draft.close)


@define(eq=False)
class _Draft:
    """A new file until it gets its name; all but `close` may wait for the disk."""

    target: Path
    _file: int = field(init=False)
    _folder: int = field(init=False)
    _part: str = field(init=False)
    """Name that it has meanwhile; empty for none. Short, however long the file's own is."""

    def __attrs_post_init__(self) -> None:
        make_folders(self.target.parent)
        self._folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._file, self._part = self._open()
        except BaseException:
            os.close(self._folder)
            raise

    def _open(self) -> tuple[int, str]:
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._folder), ""
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
        part = _part_name()
        return os.open(part, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder), part

    def write(self, data: memoryview) -> None:
        """Append all of it."""
        while data:
            data = data[os.write(self._file, data) :]

    def finish(self, mode: int, modified: float | None) -> None:
        """Give it its name; an old file of that name is replaced."""
        os.fchmod(self._file, mode & 0o777 | 0o600)
        if modified is not None:
            try:
                os.utime(self._file, (modified, modified))
            except (ValueError, OverflowError) as exc:
                raise OSError(errno.EINVAL, f"no file is of {modified}", self.target.name) from exc
        if not self._part:
            part = _part_name()
            # A file without a name gets one by the link that the kernel shows for its descriptor.
            os.link(
                f"/proc/self/fd/{self._file}",
                part,
                src_dir_fd=self._folder,
                dst_dir_fd=self._folder,
            )
            self._part = part
        os.replace(self._part, self.target.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._part = ""

    def close(self) -> None:
        """Release it; what did not get its name is gone."""
        if self._part:
            with contextlib.suppress(FileNotFoundError):  # Its whole directory was removed.
                os.unlink(self._part, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)


def _part_name() -> str:
    return f".dispy-{os.urandom(8).hex()}.part"


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
        await in_file_thread(write, buffer[:fill])
        left -= fill


@contextlib.contextmanager
def _no_stall(stream: seams.ByteStream) -> Iterator[None]:
    with trio.move_on_after(STALL_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        raise ConnectionLost(f"{stream.peer}: nothing of a file has moved for {STALL_SECONDS:g} s")
