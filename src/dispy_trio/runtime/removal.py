"""Removing directories whatever jobs have made of them, a step at a time.

A tree may be wide, deep, without permissions, or still be written to by a process that a job has
left. So: files are unlinked where they are; a directory within another is first moved right into
the top one. Thus depth costs neither stack nor descriptors, and no path gets longer than two names.
All goes by descriptors that follow no link, so nothing outside of the tree is ever touched.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from attrs import define, field

__all__ = ["Removal"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FAILURES = 100
"""Errors after which a tree is given up: somebody works against us, or it is not ours to remove."""


@define(eq=False)
class Removal:
    """One tree that goes."""

    path: str
    last: str = ""
    """Name of the file in it that goes after all others, just before the directory."""
    failure: OSError | None = field(default=None, init=False)
    """Why it was given up, if it was."""
    _failures: int = field(default=0, init=False)

    def work(self, seconds: float) -> bool:
        """Remove what can be removed in that time; True when there is nothing more to do."""
        until = time.monotonic() + seconds
        while self._failures < FAILURES:
            try:
                if self._empty_top(until):
                    os.rmdir(self.path)
                    return True
            except FileNotFoundError:
                return True
            except OSError as exc:
                # Not empty: something was lifted into it, or a process still writes there.
                if exc.errno != errno.ENOTEMPTY:
                    self._fail(exc)
            if time.monotonic() >= until:
                return False
        return True

    def _fail(self, exc: OSError) -> None:
        self.failure = exc
        self._failures += 1

    def _empty_top(self, until: float) -> bool:
        top = _open_folder(self.path, None)
        try:
            if not self._empty(top, top, until):
                return False
            if self.last and os.listdir(top) == [self.last]:
                os.unlink(self.last, dir_fd=top)
            return True
        finally:
            os.close(top)

    def _empty(self, folder: int, top: int, until: float) -> bool:
        """One pass over a directory; False when the time was over before its end."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if folder == top and entry.name == self.last:
                    continue
                if time.monotonic() >= until or self._failures >= FAILURES:
                    return False
                try:
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=folder)
                    elif folder != top:
                        _lift(entry.name, folder, top)
                    elif not self._remove_folder(entry.name, top, until):
                        return False
                except FileNotFoundError:
                    pass  # Somebody else removes here, too.
                except OSError as exc:
                    self._fail(exc)
        return True

    def _remove_folder(self, name: str, top: int, until: float) -> bool:
        folder = _open_folder(name, top)
        try:
            if not self._empty(folder, top, until):
                return False
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=top)
        return True


def _open_folder(name: str, parent: int | None) -> int:
    """Open a directory, which then allows its owner everything."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _allow_all(name, parent)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(folder, stat.S_IRWXU)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _lift(name: str, folder: int, top: int) -> None:
    """Move a directory right into the top one, under a name that nobody has."""
    fresh = f".{os.urandom(8).hex()}"
    try:
        os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=top)
    except PermissionError:
        # To give a directory another parent is to write to it.
        _allow_all(name, folder)
        os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=top)


def _allow_all(name: str, parent: int | None) -> None:
    # There is no chmod that follows no link; but what such a descriptor stands for is none.
    folder = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)
    finally:
        os.close(folder)
