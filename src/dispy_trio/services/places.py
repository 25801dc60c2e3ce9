"""The directories of computations and jobs on a node.

A computation has a fresh directory, or, with a `dest_path`, one below its client's own that may last
from one computation to the next. A job that brings files has a directory of its own, in which
everything of the computation's directory is linked; it goes with the job. What jobs leave in the
node's keeping has one, too.

There may be much in a directory: all that looks into one runs in a thread, and none is removed while
somebody waits for that. Only where a directory's name is to be free again is it taken away first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import trio
from attrs import define, field

from dispy_trio import seams
from dispy_trio.errors import RemoteError
from dispy_trio.runtime.filework import in_file_thread
from dispy_trio.runtime.transfer import make_folders, relative_path, safe_path

__all__ = ["Key", "Place", "Places"]

Key = tuple[str, int]
"""Session and computation."""


@define(eq=False)
class Place:
    """The directory of one computation."""

    store: seams.Store
    lasting: bool
    """It has a name of its own, and others may use it too."""
    directory: str = ""
    """Empty while it is made."""
    jobs: dict[int, str] = field(factory=dict)
    """Directories of jobs that have one."""
    _kept: str = ""
    """Of files in our keeping."""
    _closed: bool = False
    _making: trio.Lock = field(factory=trio.Lock)

    @property
    def directories(self) -> tuple[str, ...]:
        """All in which its jobs may have files of their own."""
        return (self.directory, *self.jobs.values())

    async def path_for_job(self, job: int, path: str) -> Path:
        """Where a file of a job goes: links on the way give place to directories of links.

        Raises:
            RemoteError: the path leads out of the job's directory, or the computation is closed.
            OSError: it can't be made.
        """
        async with self._making:
            if (directory := self.jobs.get(job)) is None:
                directory = await self._make(f"job-{job}")
                try:
                    await in_file_thread(_link_all, self.directory, directory)
                except BaseException:
                    self.store.remove_soon(directory)
                    raise
                self._check(directory)
                self.jobs[job] = directory
            return await in_file_thread(_open_way, directory, path)

    async def room(self, name: str) -> Path:
        """Where a file of that name is kept."""
        async with self._making:
            if not self._kept:
                self._kept = await self._make("kept")
            return Path(self._kept, name)

    async def _make(self, name: str) -> str:
        directory = await self.store.make_directory(name)
        self._check(directory)
        return directory

    def _check(self, directory: str) -> None:
        if self._closed:
            # Nobody else knows it.
            self.store.remove_soon(directory)
            raise RemoteError("the computation is closed")

    def forget_jobs(self, jobs: Sequence[int]) -> None:
        """Have the directories of jobs removed that have ended; others are never called so."""
        for job in jobs:
            if (path := self.jobs.pop(job, None)) is not None:
                self.store.remove_soon(path)

    def close(self) -> None:
        """Have all removed but the directory itself."""
        self._closed = True
        self.forget_jobs(list(self.jobs))
        if self._kept:
            self.store.remove_soon(self._kept)


def _link_all(directory: str, target: str) -> None:
    """Link all that is in one directory into another."""
    with os.scandir(directory) as entries:
        for entry in entries:
            os.symlink(entry.path, os.path.join(target, entry.name))


def _open_way(directory: str, path: str) -> Path:
    target = Path(directory, relative_path(path))
    for link in reversed(target.parents):
        if link.is_relative_to(directory) and link.is_symlink():
            inside = os.readlink(link)
            link.unlink()
            link.mkdir(mode=0o700)
            _link_all(inside, str(link))
    if target.is_symlink():
        target.unlink()
    return safe_path(directory, path)


@define(eq=False)
class Places:
    """All of one node."""

    store: seams.Store
    _places: dict[Key, Place] = field(factory=dict)
    _lasting: trio.Lock = field(factory=trio.Lock)
    """Held while a lasting directory gets or loses its name."""

    async def open(self, key: Key, client: str, dest_path: str) -> Place:
        """The directory of a computation; made when it is asked for first.

        Args:
            key: of the computation.
            client: its host, for directories that last.
            dest_path: name of such a directory; empty for a fresh one.

        Raises:
            DispyError: `dest_path` leads out of the client's own directory, or others may write to
                ours.
            OSError: it can't be made.
        """
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(self.store, lasting=bool(dest_path))
        if place.directory:
            return place
        async with place._making:
            if not place.directory:
                if place.lasting:
                    await self._open_lasting(key, place, client, dest_path)
                else:
                    place.directory = await place._make("computation")
        return place

    async def _open_lasting(self, key: Key, place: Place, client: str, dest_path: str) -> None:
        owner = re.sub(r"[^0-9A-Za-z.]", "_", client).strip(".") or "client"
        async with self._lasting:
            root = await self.store.lasting_directory(owner)
            directory = await in_file_thread(_make_below, root, dest_path)
            if self._places.get(key) is not place:
                raise RemoteError("the computation is closed")
            place.directory = directory

    def get(self, key: Key) -> Place | None:
        """The directory of a computation, if it has one."""
        return self._places.get(key)

    def of_session(self, session: str) -> list[Key]:
        """The computations of a session that have a directory."""
        return [key for key in self._places if key[0] == session]

    async def release(self, key: Key, *, keep: bool) -> None:
        """Forget a computation, and have what it had removed.

        Args:
            key: of the computation.
            keep: its directory, if that has a name of its own.
        """
        if (place := self._places.pop(key, None)) is None:
            return
        place.close()
        if not place.lasting:
            if place.directory:
                self.store.remove_soon(place.directory)
        elif not keep:
            async with self._lasting:
                if place.directory and not self._is_used(Path(place.directory)):
                    await self.store.take_away(place.directory)

    def _is_used(self, directory: Path) -> bool:
        """Does another computation work in it, or below it?"""
        return any(
            Path(place.directory).is_relative_to(directory) for place in self._places.values()
        )


def _make_below(root: str, path: str) -> str:
    target = safe_path(root, path)
    make_folders(target)
    return str(target)
