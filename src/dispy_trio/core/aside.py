"""Where jobs wait that do not simply take their turn: by priority, or until they may try again."""

from __future__ import annotations

import heapq
import math

from attrs import define, field

from dispy_trio.core.jobs import has_ended
from dispy_trio.models import Job, JobExtras

__all__ = ["Aside", "Deadlines", "extras_of", "seconds_left"]

_LEAST_LEFT = 0.001
_MOST_LEFT = 1e9
"""What `models.Seconds` takes."""


def extras_of(job: Job) -> JobExtras:
    """The extras of a job that is known to have some."""
    assert job.extras is not None
    return job.extras


def seconds_left(job: Job, now: float) -> float | None:
    """What a job has left until its deadline; None without one.

    That travels, and no moment: clocks differ.
    """
    if job.extras is None or job.extras.due == math.inf:
        return None
    return min(max(job.extras.due - now, _LEAST_LEFT), _MOST_LEFT)


@define(eq=False)
class Aside:
    """The waiting jobs of one computation that have extras and are not pinned to a node.

    A job that ends while it waits stays here as an ended one, and is passed over.
    """

    _ready: list[tuple[int, int, Job]] = field(factory=list)
    """Heap, the highest priority first, the oldest first among equals."""
    _delayed: list[tuple[float, int, Job]] = field(factory=list)
    """Heap, by the time at which they may try again."""
    _parked: list[Job] = field(factory=list)
    """Ask for more than any node has, so that nobody is to wait behind them."""

    def push(self, job: Job) -> None:
        heapq.heappush(self._ready, (-extras_of(job).options.priority, job.number, job))

    def delay(self, job: Job, until: float) -> None:
        """Have it wait until then before it takes its turn."""
        heapq.heappush(self._delayed, (until, job.number, job))

    def first(self) -> Job | None:
        """Whose turn it is; None when nobody is ready."""
        while self._ready and has_ended(self._ready[0][2]):
            heapq.heappop(self._ready)
        return self._ready[0][2] if self._ready else None

    def pop(self) -> Job:
        """Take out what `first` tells."""
        return heapq.heappop(self._ready)[2]

    def wake(self, now: float) -> None:
        """Those whose delay is over take their turn."""
        while self._delayed and self._delayed[0][0] <= now:
            job = heapq.heappop(self._delayed)[2]
            if not has_ended(job):
                self.push(job)

    def park(self, job: Job) -> None:
        """Put away a job, pinned or not, that no node can run as the nodes are."""
        self._parked.append(job)

    def unpark(self) -> list[Job]:
        """Take out those: the nodes have changed."""
        parked, self._parked = self._parked, []
        return [job for job in parked if not has_ended(job)]

    @property
    def first_parked(self) -> Job | None:
        """One of those; None when there is none."""
        return next((job for job in self._parked if not has_ended(job)), None)

    @property
    def next_wake(self) -> float:
        """When `wake` has something to do; infinity for never."""
        return self._delayed[0][0] if self._delayed else math.inf

    def count_waiting(self) -> int:
        """How many have not ended; for tests, as it looks at each."""
        jobs = [job for *_, job in (*self._ready, *self._delayed)] + self._parked
        return sum(not has_ended(job) for job in jobs)

    def take_all(self) -> list[Job]:
        """Take out everybody who has not ended."""
        jobs = [job for _, _, job in (*sorted(self._ready), *sorted(self._delayed))]
        jobs += self._parked
        self._parked = []
        self._ready.clear()
        self._delayed.clear()
        return [job for job in jobs if not has_ended(job)]


@define(eq=False)
class Deadlines:
    """The jobs that must have ended by some time."""

    _heap: list[tuple[float, int, Job]] = field(factory=list)

    def add(self, job: Job, at: float) -> None:
        heapq.heappush(self._heap, (at, job.number, job))

    def take_due(self, now: float) -> list[Job]:
        """Those whose time has come and that have not ended."""
        due: list[Job] = []
        while self._heap and self._heap[0][0] <= now:
            job = heapq.heappop(self._heap)[2]
            if not has_ended(job):
                due.append(job)
        return due

    @property
    def next(self) -> float:
        """When the next one is due; infinity for never."""
        while self._heap and has_ended(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf
