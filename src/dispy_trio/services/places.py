"""The directories of computations and jobs on a node.

A computation has a fresh directory, or, with a `dest_path`, one below its client's own that may last
from one computation to the next. A job that brings files has a directory of its own inside of that,
in which everything of the computation's directory is linked; it goes with the job.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

from dispy_trio import seams
from dispy_trio.runtime.transfer import safe_path

__all__ = ["Key", "Place", "Places"]

Key = tuple[str, int]
"""Session and computation."""

JOBS = ".jobs"


@define(eq=False)
class Place:
    """The directory of one computation."""

    directory: str
    lasting: bool
    """It has a name of its own, and others may use it too."""
    jobs: dict[int, str] = field(factory=dict)
    """Directories of jobs that have one."""

    def make_job_directory(self, job: int) -> str:
        """A directory for one job, with links to all that the computation has."""
        if job not in self.jobs:
            path = Path(self.directory, JOBS, str(job))
            path.mkdir(parents=True, mode=0o700)
            for entry in os.scandir(self.directory):
                if entry.name != JOBS:
                    os.symlink(entry.path, path / entry.name)
            self.jobs[job] = str(path)
        return self.jobs[job]

    def path_for_job(self, job: int, path: str) -> Path:
        """Where a file of a job goes: links on the way give place to directories of links.

        Raises:
            RemoteError: the path leads out of the job's directory.
        """
        directory = Path(self.make_job_directory(job))
        target = directory / path
        for link in reversed(target.parents):
            if link.is_relative_to(directory) and link.is_symlink():
                inside = Path(os.readlink(link))
                link.unlink()
                link.mkdir(mode=0o700)
                for entry in os.scandir(inside):
                    os.symlink(entry.path, link / entry.name)
        if target.is_symlink() and ".." not in target.parts:
            target.unlink()
        return safe_path(directory, path)

    def forget_jobs(self, jobs: Sequence[int]) -> None:
        """Remove the directories of jobs that have ended."""
        for job in jobs:
            if (path := self.jobs.pop(job, None)) is not None:
                shutil.rmtree(path, ignore_errors=True)


@define(eq=False)
class Places:
    """All of one node."""

    store: seams.Store
    _places: dict[Key, Place] = field(factory=dict)

    def open(self, key: Key, client: str, dest_path: str) -> Place:
        """The directory of a computation; made when it is asked for first.

        Args:
            key: of the computation.
            client: its host, for directories that last.
            dest_path: name of such a directory; empty for a fresh one.

        Raises:
            RemoteError: `dest_path` leads out of the client's own directory.
            OSError: it can't be made.
        """
        place = self._places.get(key)
        if place is None:
            if dest_path:
                owner = re.sub(r"[^0-9A-Za-z.]", "_", client).strip(".") or "client"
                directory = self.store.lasting_directory(owner)
                target = safe_path(directory, dest_path)
                target.mkdir(parents=True, exist_ok=True, mode=0o700)
                place = Place(str(target), lasting=True)
            else:
                place = Place(self.store.make_directory("computation"), lasting=False)
            self._places[key] = place
        return place

    def get(self, key: Key) -> Place | None:
        return self._places.get(key)

    def of_session(self, session: str) -> list[Key]:
        """The computations of a session that have a directory."""
        return [key for key in self._places if key[0] == session]

    def release(self, key: Key, *, keep: bool) -> str | None:
        """Forget a computation; the directory that is to be removed now, if any is."""
        place = self._places.pop(key, None)
        if place is None or (keep and place.lasting):
            if place is not None:
                place.forget_jobs(list(place.jobs))
            return None
        if any(other.directory == place.directory for other in self._places.values()):
            return None  # Another computation works in it.
        return place.directory
