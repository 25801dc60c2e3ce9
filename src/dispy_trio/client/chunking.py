"""Many cheap calls as few jobs: what `map` does, but for the waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from attrs import define, field

from dispy_trio.client.jobs import UserJob
from dispy_trio.compute.packaging import Parts, pack_calls, unpack_calls
from dispy_trio.compute.pickling import NOTHING_CARRIED, Carried

__all__ = ["CallStream", "ChunkSizer"]

TARGET_SECONDS = 0.005
"""Work of one chunk: long against the cost of a job, short against what a user notices."""
MAX_CHUNK = 5_000
"""Of a few chunks for each slot: so many values are held here at most."""
MAX_GROWTH = 8
"""Durations of the first calls say little of the others: the size grows step by step."""

JobT = TypeVar("JobT", bound=UserJob[Any])


@define
class ChunkSizer:
    """Learns from the measured duration of chunks; the first ones hold a single call."""

    fixed: int | None = None
    """The user's own choice."""
    size: int = 1
    seconds: float | None = None
    """That the last one took; None before there was any."""

    def __attrs_post_init__(self) -> None:
        if self.fixed is not None:
            if self.fixed < 1:
                raise ValueError(f"chunksize is {self.fixed}; it has to be at least 1")
            self.size = self.fixed

    def observe(self, calls: int, seconds: float) -> None:
        """A chunk of that many calls took that long."""
        self.seconds = seconds
        if self.fixed is None:
            fitting = int(TARGET_SECONDS * calls / max(seconds, 1e-7))
            self.size = max(1, min(fitting, self.size * MAX_GROWTH, MAX_CHUNK))


def _check_buffersize(_stream: object, _attribute: object, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"buffersize is {value}; it has to be at least 1")


@define(eq=False)
class CallStream(Generic[JobT]):
    """The calls of one `map`, and the jobs that carry them."""

    _submit: Callable[[bytes | Parts], JobT]
    buffersize: int | None = field(validator=_check_buffersize)
    """Calls that may be read ahead of the results taken."""
    sizer: ChunkSizer
    carried: Carried = NOTHING_CARRIED
    to_the_end: bool = False
    """The calls after one that raised are made, too."""
    pending: dict[JobT, int] = field(factory=dict)
    """The jobs whose results were not taken, in the order of their calls, and how many those are."""
    _ahead: int = 0

    def next_job(self, calls: Iterator[tuple[Any, ...]], slots: int) -> JobT | None:
        """The job whose results come next; keeps others under way, and reads their calls for that."""
        while (size := self.room(max(8, 4 * slots))) and (chunk := list(islice(calls, size))):
            self.send(chunk)
        return next(iter(self.pending), None)

    def room(self, jobs: int, held: int = 0) -> int:
        """How many calls the next job may hold; 0 when enough is under way.

        Args:
            jobs: that may be under way.
            held: results that were taken of their jobs, and not by the user yet.
        """
        if len(self.pending) >= jobs:
            return 0
        size = self.sizer.size
        if self.buffersize is not None:
            size = max(0, min(size, self.buffersize - self._ahead - held))
        return size

    def send(self, chunk: list[tuple[Any, ...]]) -> JobT:
        """Make one job of some calls.

        Raises:
            PickleArgumentError: names the argument that can't be pickled.
        """
        job = self._submit(pack_calls(chunk, self.carried, to_the_end=self.to_the_end))
        self.pending[job] = len(chunk)
        self._ahead += len(chunk)
        return job

    def take(self, job: JobT) -> tuple[list[Any], BaseException | None]:
        """The results of a job that has ended, up to the first call that raised, and what.

        When calls are made to the end: all results, with what was raised in their places.

        Raises:
            Exception: why the job did not finish.
        """
        calls = self.pending.pop(job)
        self._ahead -= calls
        reply: Any = job.result
        if reply is None:
            raise job.reason()
        assert job.started_at is not None
        assert job.ended_at is not None
        self.sizer.observe(calls, job.ended_at - job.started_at)
        return unpack_calls(reply)
