"""Runs tasks in the calling thread: for debuggers, for tests, and as the oracle of the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque

from attrs import define, field

from dispy_mapreduce.errors import EngineMisused
from dispy_mapreduce.tasks import Recipe, Task, TaskDone, run_task

__all__ = ["DirectoryStore", "InlineEngine"]


@define(eq=False)
class DirectoryStore:
    """Blocks in one directory that every task sees."""

    directory: str

    def path_for(self, name: str) -> str:
        """A path in the directory."""
        return os.path.join(self.directory, name)

    def keep(self, path: str) -> str:
        """It stays where it is."""
        return path

    def find(self, reference: str) -> str:
        """Where it is.

        Raises:
            FileNotFoundError: it was removed.
        """
        os.stat(reference)
        return reference


@define(eq=False)
class InlineEngine:
    """Runs each task when its answer is asked for. What the user's code prints, it prints here."""

    slots: int = 1
    _recipe: Recipe | None = None
    _store: DirectoryStore | None = None
    _waiting: deque[Task] = field(factory=deque)

    def open(self, recipe: Recipe) -> None:
        """Make a directory for the blocks."""
        if self._store is not None:
            raise EngineMisused("this engine runs another map_reduce")
        self._recipe = recipe
        self._store = DirectoryStore(tempfile.mkdtemp(prefix="mapreduce-"))

    def submit(self, task: Task) -> None:
        """Put it in the queue."""
        self._waiting.append(task)

    def next_done(self) -> TaskDone:
        """Run the oldest task."""
        if self._recipe is None or self._store is None:
            raise EngineMisused("the engine is not open")
        return run_task(self._waiting.popleft(), self._recipe, self._store)

    def close(self, *, terminate: bool) -> None:
        """Remove the blocks; the engine may be opened again."""
        del terminate
        if self._store is not None:
            shutil.rmtree(self._store.directory)
        self._store = self._recipe = None
        self._waiting.clear()
