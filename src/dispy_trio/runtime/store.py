"""The real `Store`: directories below the user's own folder, segments in memory files.

A node keeps its directories in one of its own, ``node-<process id>-…``, which is marked and locked
while it lives (`runtime.marks`): what dead nodes left can be told from what living ones use, and
from what is no node's at all. What is to be removed is removed in a thread, one step after the other.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import trio
from attrs import define, field

from dispy_trio.errors import LocalError
from dispy_trio.runtime.filework import STEP_SECONDS, in_file_thread
from dispy_trio.runtime.marks import (
    MARK,
    claim_dead,
    dead_directories,
    hide,
    is_used,
    make_marked,
    use_marked,
)
from dispy_trio.runtime.removal import Removal
from dispy_trio.runtime.segments import map_segment

__all__ = ["DiskStore", "prepare_root", "remove_what_is_left"]

log = logging.getLogger("dispy_trio.node")

_CLIENTS = "clients"
SWEEP_AFTER = 0.5
"""Seconds after its start that a node looks for what dead ones left: first it answers clients."""


def prepare_root(prefix: Path) -> Path:
    """The folder in which we make directories: `prefix`, made when missing, or one of our own in it
    when others may write there. No folder that was there before has its mode changed.

    Raises:
        LocalError: somebody else could change what we make there, or it can't be made.
    """
    try:
        os.makedirs(prefix.parent, exist_ok=True)
        status = _make_private(prefix)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise LocalError(f"{prefix} belongs to another user; choose --dest-path-prefix")
        own = status.st_uid == os.geteuid()
        if own and not status.st_mode & 0o022:
            return Path(os.path.realpath(prefix))
        if status.st_mode & (0o002 if own else 0o022) and not status.st_mode & stat.S_ISVTX:
            raise LocalError(
                f"{prefix} lets every user replace what is in it; choose --dest-path-prefix, or"
                " forbid that (chmod +t)"
            )
        root = prefix / f"dispy-trio-{os.geteuid()}"
        status = _make_private(root)
    except OSError as exc:
        raise LocalError(f"--dest-path-prefix {prefix}: {exc.strerror}") from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise LocalError(f"{root} is not for you alone; choose another --dest-path-prefix")
    return Path(os.path.realpath(root))


def _make_private(path: Path) -> os.stat_result:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    # Not what a link leads to: in a folder that all write to, somebody else may have made that.
    return path.lstat()


@define(eq=False)
class DiskStore:
    """Keeps directories below `root`."""

    root: Path
    _own: list[tuple[Path, int]] = field(factory=list, init=False)
    """Our own directory and its lock, after those before it that somebody has removed."""
    _clients: tuple[Path, int] | None = field(default=None, init=False)
    _making: threading.Lock = field(factory=threading.Lock, init=False)
    """Held by the thread that makes or looks for one of these."""
    _doomed: deque[str] = field(factory=deque, init=False)
    """What is to be removed: at most as many as there are directories."""
    _more: trio.Event = field(factory=trio.Event, init=False)
    _swept: bool = field(default=False, init=False)

    # --- directories ---------------------------------------------------------------------------
    async def make_directory(self, name: str) -> str:
        """Make a fresh directory, 0700, whose name begins with `name`; return its path."""
        return await in_file_thread(self._make_directory, name)

    def _make_directory(self, name: str) -> str:
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self._own_directory())

    def _own_directory(self) -> Path:
        with self._making:
            # It is made again when it is missing: some clean folders for temporary files.
            if not self._own or not is_used(*self._own[-1]):
                made = make_marked(prepare_root(self.root))
                assert made is not None, "a fresh name is nobody else's"
                self._own.append(made)
            return self._own[-1][0]

    async def lasting_directory(self, name: str) -> str:
        """The directory of that name, 0700, which outlives the node; made when it is missing.

        Raises:
            LocalError: what is there is no node's.
        """
        return await in_file_thread(self._lasting_directory, name)

    def _lasting_directory(self, name: str) -> str:
        with self._making:
            if self._clients is None or not is_used(*self._clients):
                if self._clients is not None:
                    os.close(self._clients[1])
                    self._clients = None
                self._clients = _share_clients(prepare_root(self.root))
            path = self._clients[0] / name
            path.mkdir(mode=0o700, exist_ok=True)
            return str(path)

    def free_bytes(self) -> int:
        """Room for files, as the disk says."""
        place = self.root if self.root.exists() else Path(tempfile.gettempdir())
        return shutil.disk_usage(place).free

    # --- removal -------------------------------------------------------------------------------
    def remove_soon(self, path: str) -> None:
        """Have a directory removed with all that is in it, while other things go on."""
        self._doomed.append(path)
        self._more.set()

    async def take_away(self, path: str) -> None:
        """Free a directory's name at once, and have it removed soon; it may be gone already."""
        away = await in_file_thread(self._take_away, path)
        if away is not None:
            self.remove_soon(away)

    def _take_away(self, path: str) -> str | None:
        try:
            away = self._make_directory("gone")
            os.rename(path, away)
        except FileNotFoundError:
            return None
        except (OSError, LocalError) as exc:
            log.warning("can't move %s out of the way: %s", path, exc)
            return path
        return away

    async def run(self) -> None:
        """Remove what is to be removed, and what dead nodes left; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._remove_doomed)
            await trio.sleep(SWEEP_AFTER)
            await self._sweep()

    async def _remove_doomed(self) -> None:
        while True:
            self._more = trio.Event()
            if not self._doomed:
                await self._more.wait()
            await _remove(Removal(self._doomed.popleft()))

    async def _sweep(self) -> None:
        """Remove the directories of dead nodes."""
        if self._swept:
            return
        self._swept = True
        left = await in_file_thread(self._find_left)
        while (dead := await in_file_thread(next, left, None)) is not None:
            path, lock = dead
            try:
                await _remove(Removal(str(await in_file_thread(hide, path, lock)), MARK))
            finally:
                os.close(lock)

    def _find_left(self) -> Iterator[tuple[Path, int]]:
        try:
            return dead_directories(prepare_root(self.root) if self.root.exists() else self.root)
        except LocalError:
            return iter(())  # Whoever needs the folder is told.

    async def aclose(self) -> None:
        """Remove the directories that are left, but for the lasting ones.

        Cancelled, it leaves them to the next node that starts.
        """
        try:
            for path, lock in self._own:
                hidden = await in_file_thread(_hide_if_used, path, lock)
                if hidden is not None:
                    await _remove(Removal(str(hidden), MARK))
            await self._sweep()
        finally:
            for _, lock in (*self._own, *([self._clients] if self._clients else [])):
                os.close(lock)
            self._own.clear()
            self._clients = None

    # --- segments ------------------------------------------------------------------------------
    def make_segment(self, size: int) -> tuple[int, memoryview]:
        """Make a shared memory file of that many bytes, and map it."""
        segment = os.memfd_create("dispy-trio", os.MFD_CLOEXEC)
        try:
            os.ftruncate(segment, size)
            return segment, map_segment(segment)
        except BaseException:
            os.close(segment)
            raise


async def _remove(removal: Removal) -> None:
    while not await in_file_thread(removal.work, STEP_SECONDS):
        pass
    _complain(removal)


def _hide_if_used(path: Path, lock: int) -> Path | None:
    return hide(path, lock) if is_used(path, lock) else None


def _complain(removal: Removal) -> None:
    if removal.failure is not None and os.path.exists(removal.path):
        log.warning("%s can't be removed: %s", removal.path, removal.failure)


def _share_clients(root: Path) -> tuple[Path, int]:
    path = root / _CLIENTS
    while True:
        if (lock := use_marked(path)) is not None:
            return path, lock
        if (made := make_marked(root, _CLIENTS)) is None:
            if (lock := use_marked(path)) is None:
                raise LocalError(
                    f"{path} was not made by a node, and may be somebody's own; choose another"
                    " --dest-path-prefix"
                )
            return path, lock
        if is_used(*made):
            return made
        os.close(made[1])  # Removed before others could see that we use it.


def remove_what_is_left(root: Path, *, lasting: bool = False) -> list[Path]:
    """Remove the directories of dead nodes below `root`, and nothing without a node's mark.

    Args:
        root: as `prepare_root` tells.
        lasting: remove those of clients too, which outlive nodes, if no living one uses them.

    Returns:
        What was removed.
    """
    removed: list[Path] = []
    for path, lock in _claim(root, lasting):
        try:
            removal = Removal(str(hide(path, lock)), MARK)
            removal.work(float("inf"))
        finally:
            os.close(lock)
        _complain(removal)
        removed.append(path)
    return removed


def _claim(root: Path, lasting: bool) -> Iterator[tuple[Path, int]]:
    yield from dead_directories(root)
    if lasting and (lock := claim_dead(root / _CLIENTS)) is not None:
        yield root / _CLIENTS, lock
