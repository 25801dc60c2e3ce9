"""Which task waits for which, and which are ready to run.

The graph grows while it is walked: inputs may be an iterator that nobody knows the end of. A task
that has finished may be taken back, when what it made was lost; whoever needed it waits again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from attrs import define, field

__all__ = ["JobGraph", "Stage", "TaskName"]


class Stage(Enum):
    """The kinds of task, in the order in which they are preferred."""

    MAP = 0
    REDUCE = 1


class TaskName(NamedTuple):
    """What a task is called in the graph."""

    stage: Stage
    number: int

    @property
    def order(self) -> tuple[int, int]:
        """Tasks that are ready are taken in this order."""
        return (self.stage.value, self.number)


@define(eq=False)
class JobGraph:
    """Tasks and the edges between them."""

    _missing: dict[TaskName, set[TaskName]] = field(factory=dict)
    """Of each task that has not been taken: those it still waits for."""
    _dependants: dict[TaskName, set[TaskName]] = field(factory=dict)
    _ready: list[tuple[tuple[int, int], TaskName]] = field(factory=list)
    _running: set[TaskName] = field(factory=set)
    _finished: set[TaskName] = field(factory=set)

    def add(self, name: TaskName, needs: Iterable[TaskName] = ()) -> None:
        """Add a task; those it needs must be in the graph already."""
        if name in self:
            raise ValueError(f"{name} is in the graph already")
        needed = list(needs)
        for other in needed:
            if other not in self:
                raise ValueError(f"{name} needs {other}, which is not in the graph")
            self._dependants.setdefault(other, set()).add(name)
        self._wait_for(name, needed)

    def __contains__(self, name: TaskName) -> bool:
        return name in self._missing or name in self._running or name in self._finished

    def take_ready(self) -> TaskName | None:
        """A task that can run now, which it then does; None when there is none."""
        while self._ready:
            _, name = heapq.heappop(self._ready)
            # One that was ready and then had to wait again left its entry behind.
            if name in self._missing and not self._missing[name]:
                del self._missing[name]
                self._running.add(name)
                return name
        return None

    def finish(self, name: TaskName) -> None:
        """The task has done its work."""
        self._running.remove(name)
        self._finished.add(name)
        for other in self._dependants.get(name, ()):
            if other in self._missing:
                self._missing[other].discard(name)
                self._make_ready(other)

    def redo(self, name: TaskName) -> None:
        """What a finished task made is lost: it runs again, and those that have not begun wait."""
        self._finished.remove(name)
        for other in self._dependants.get(name, ()):
            if other in self._missing:
                self._missing[other].add(name)
        self._wait_for(name, ())

    def put_back(self, name: TaskName) -> None:
        """A running task could not do its work: it waits for what it needs, and runs again."""
        self._running.remove(name)
        needs = [other for other, users in self._dependants.items() if name in users]
        self._wait_for(name, needs)

    def is_over(self) -> bool:
        """Nothing waits, is ready or runs."""
        return not self._missing and not self._running

    def count(self, stage: Stage) -> tuple[int, int]:
        """How many tasks of the stage have finished, and how many there are."""
        finished = sum(name.stage is stage for name in self._finished)
        others = sum(name.stage is stage for name in (*self._missing, *self._running))
        return finished, finished + others

    def validate(self) -> None:
        """Check what must always be true; for tests."""
        states = [set(self._missing), self._running, self._finished]
        assert sum(map(len, states)) == len(set().union(*states)), "a task is in two states"
        for name, missing in self._missing.items():
            assert not missing & self._finished, f"{name} waits for a finished task"
            entry = (name.order, name)  # of those that are ready
            assert missing or entry in self._ready, f"{name} is ready and forgotten"

    def _wait_for(self, name: TaskName, needs: Iterable[TaskName]) -> None:
        self._missing[name] = {other for other in needs if other not in self._finished}
        self._make_ready(name)

    def _make_ready(self, name: TaskName) -> None:
        if not self._missing[name]:
            heapq.heappush(self._ready, (name.order, name))
