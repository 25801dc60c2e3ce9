"""The real `Store`: directories below the user's own folder, segments in memory files."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from attrs import define

from dispy_trio.errors import LocalError
from dispy_trio.runtime.segments import map_segment

__all__ = ["DiskStore"]


@define
class DiskStore:
    """Keeps directories below `root`."""

    root: Path

    def make_directory(self, name: str) -> str:
        """Make a fresh directory, 0700, whose name begins with `name`; return its path."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It may lie in a folder that all users write to: somebody else may have made it.
        status = self.root.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            raise LocalError(f"{self.root} belongs to another user; choose --dest-path-prefix")
        self.root.chmod(0o700)
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self.root)

    def remove_directory(self, path: str) -> None:
        """Remove it and all below; one that is gone already is fine."""
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass

    def make_segment(self, size: int) -> tuple[int, memoryview]:
        """Make a shared memory file of that many bytes, and map it."""
        segment = os.memfd_create("dispy-trio", os.MFD_CLOEXEC)
        try:
            os.ftruncate(segment, size)
            return segment, map_segment(segment)
        except BaseException:
            os.close(segment)
            raise
