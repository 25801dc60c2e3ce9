"""The real `Store`: directories below the user's own folder, segments in memory files.

A node keeps its directories in one of its own, ``node-<process id>-…``, with a lock file that the
kernel lets go of when the node dies, however it dies: what dead nodes left can be told from what
living ones use.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import trio
from attrs import define, field

from dispy_trio.errors import LocalError
from dispy_trio.runtime.segments import map_segment

__all__ = ["DiskStore", "remove_what_is_left"]

LOCK = ".lock"
_CLIENTS = "clients"


@define
class DiskStore:
    """Keeps directories below `root`."""

    root: Path
    _own: Path | None = field(default=None, init=False)
    _lock: int = field(default=-1, init=False)

    def make_directory(self, name: str) -> str:
        """Make a fresh directory, 0700, whose name begins with `name`; return its path."""
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self._own_directory())

    def lasting_directory(self, name: str) -> str:
        """The directory of that name, 0700, which outlives the node; made when it is missing."""
        self._make_root()
        path = self.root / _CLIENTS / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(path)

    def _make_root(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It may lie in a folder that all users write to: somebody else may have made it.
        status = self.root.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            raise LocalError(f"{self.root} belongs to another user; choose --dest-path-prefix")
        self.root.chmod(0o700)

    def _own_directory(self) -> Path:
        if self._own is None:
            self._make_root()
            self._own = Path(tempfile.mkdtemp(prefix=f"node-{os.getpid()}-", dir=self.root))
            self._lock = os.open(self._own / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._own

    def free_bytes(self) -> int:
        """Room for files, as the disk says."""
        place = self.root if self.root.exists() else Path(tempfile.gettempdir())
        return shutil.disk_usage(place).free

    async def remove_directory(self, path: str) -> None:
        """Remove it and all below; one that is gone already is fine."""
        # In a thread: there may be much in it.
        await trio.to_thread.run_sync(_remove, path)

    def close(self) -> None:
        """Remove our own directory, with whatever is left in it."""
        if self._own is not None:
            own, self._own = self._own, None
            _remove(str(own))
            os.close(self._lock)

    def make_segment(self, size: int) -> tuple[int, memoryview]:
        """Make a shared memory file of that many bytes, and map it."""
        segment = os.memfd_create("dispy-trio", os.MFD_CLOEXEC)
        try:
            os.ftruncate(segment, size)
            return segment, map_segment(segment)
        except BaseException:
            os.close(segment)
            raise


def _remove(path: str) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass


def remove_what_is_left(root: Path, *, lasting: bool = False) -> list[Path]:
    """Remove the directories of dead nodes below `root`.

    Args:
        root: as of `DiskStore`.
        lasting: remove those of clients too, which outlive nodes.

    Returns:
        What was removed.
    """
    removed: list[Path] = []
    for path in sorted(root.glob("node-[0-9]*-*/")):
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # Being made or removed at this moment.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # Its node lives.
        else:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
        finally:
            os.close(lock)
    if lasting and (root / _CLIENTS).is_dir():
        shutil.rmtree(root / _CLIENTS)
        removed.append(root / _CLIENTS)
    return removed
