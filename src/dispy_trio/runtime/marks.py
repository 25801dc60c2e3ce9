"""Directories that a node has made, told from all others by a mark in them.

The mark is a file, and a lock on it says that the directory is in use; the kernel lets go of it
when the node dies, however it dies. A directory is made under a hidden name, marked and locked, and
only then gets its own: who finds a mark that nobody has locked has found what a dead node left.
Nothing without a mark is ever removed, but for an empty directory with such a hidden name: its node
died between the making and the marking, or lives and tries again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dispy_trio.runtime.removal import Removal

__all__ = [
    "MARK",
    "claim_dead",
    "dead_directories",
    "hide",
    "is_used",
    "living_directories",
    "make_marked",
    "use_marked",
]

MARK = ".dispy-trio-node"
_HIDDEN = ".dispy-trio-"
_OURS = re.compile(r"node-\d+-|\.dispy-trio-\d+-")
"""Names of directories that one node has for itself."""


def make_marked(root: Path, name: str | None = None) -> tuple[Path, int] | None:
    """Make a directory below `root`, marked and locked.

    Args:
        root: a directory that only we write to.
        name: of it; None for a fresh one of this node's own.

    Returns:
        Its path and the descriptor that keeps it locked; None when there is one of that name.
    """
    while True:
        draft = Path(tempfile.mkdtemp(prefix=f"{_HIDDEN}{os.getpid()}-", dir=root))
        try:
            lock = os.open(draft / MARK, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # Swept before it was marked.
        try:
            if not _lock(lock):
                os.close(lock)
                continue  # Swept before it was locked.
            return _show(draft, lock, root, name)
        except BaseException:
            os.close(lock)
            raise


def _show(draft: Path, lock: int, root: Path, name: str | None) -> tuple[Path, int] | None:
    path = root / (name or "node-" + draft.name.removeprefix(_HIDDEN))
    try:
        # One that is empty is replaced.
        os.rename(draft, path)
    except OSError as exc:
        if name is None or exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        Removal(str(draft), MARK).work(float("inf"))
        os.close(lock)
        return None
    if name is not None:
        fcntl.flock(lock, fcntl.LOCK_SH)
    return path, lock


def use_marked(path: Path) -> int | None:
    """Lock a directory that several nodes share; None when it has no mark, or is not there.

    Waits for who is about to remove it.
    """
    while True:
        try:
            lock = os.open(path / MARK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        fcntl.flock(lock, fcntl.LOCK_SH)
        if is_used(path, lock):
            return lock
        os.close(lock)  # It was removed meanwhile.


def is_used(path: Path, lock: int) -> bool:
    """Is it still this directory that the lock is for?"""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path / MARK, follow_symlinks=False))
    except OSError:
        return False


def claim_dead(path: Path) -> int | None:
    """Lock a directory of nodes that are dead; None when it is none, or one of them lives."""
    if path.is_symlink():
        return None
    try:
        lock = os.open(path / MARK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if _lock(lock):
        return lock
    os.close(lock)
    return None


def _lock(lock: int) -> bool:
    """Lock the mark for us alone, unless somebody else has it or has removed it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(lock).st_nlink > 0


def hide(path: Path, lock: int) -> Path:
    """Take a locked directory's name away: nobody uses it from now on; the new name."""
    if path.name.startswith(_HIDDEN):
        return path
    hidden = Path(tempfile.mkdtemp(prefix=f"{_HIDDEN}{os.getpid()}-", dir=path.parent))
    os.rename(path, hidden)
    # Who waits to use it may see that it is gone; none but us may remove it.
    fcntl.flock(lock, fcntl.LOCK_SH)
    return hidden


def dead_directories(root: Path) -> Iterator[tuple[Path, int]]:
    """What dead nodes left below `root`, locked; whoever takes one closes the descriptor."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        if not _OURS.match(name):
            continue
        path = root / name
        if (lock := claim_dead(path)) is not None:
            yield path, lock
        elif name.startswith(_HIDDEN) and not path.is_symlink():
            try:
                path.rmdir()
            except OSError:
                pass  # In use, or not ours: it is not empty.


def living_directories(root: Path) -> list[Path]:
    """Directories of nodes that live; after `dead_directories` have been removed."""
    return [
        root / name
        for name in sorted(os.listdir(root))
        if _OURS.match(name) and os.path.isfile(root / name / MARK)
    ]
