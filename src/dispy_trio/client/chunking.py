"""Many cheap calls as few jobs: what `map` does, but for the waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from attrs import define, field

from dispy_trio.client.jobs import UserJob
from dispy_trio.compute.packaging import Parts, pack_calls, unpack_calls
from dispy_trio.compute.pickling import NOTHING_CARRIED, Carried

__all__ = ["CallStream", "ChunkSizer"]

TARGET_SECONDS = 0.005
"""Work of one chunk: long against the cost of a job, short against what a user notices."""
MAX_CHUNK = 20_000
MAX_GROWTH = 8
"""Durations of the first calls say little of the others: the size grows step by step."""

JobT = TypeVar("JobT", bound=UserJob[Any])


@define
class ChunkSizer:
    """Learns from the measured duration of chunks; the first ones hold a single call."""

    fixed: int | None = None
    """The user's own choice."""
    size: int = 1

    def __attrs_post_init__(self) -> None:
        if self.fixed is not None:
            if self.fixed < 1:
                raise ValueError(f"chunksize is {self.fixed}; it has to be at least 1")
            self.size = self.fixed

    def observe(self, calls: int, seconds: float) -> None:
        """A chunk of that many calls took that long."""
        if self.fixed is None:
            fitting = int(TARGET_SECONDS * calls / max(seconds, 1e-7))
            self.size = max(1, min(fitting, self.size * MAX_GROWTH, MAX_CHUNK))


def _check_buffersize(_stream: object, _attribute: object, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"buffersize is {value}; it has to be at least 1")


@define(eq=False)
class CallStream(Generic[JobT]):
    """The calls of one `map`, read only as far as needed, and the jobs that carry them."""

    _iterables: tuple[Iterable[Any], ...]
    _submit: Callable[[bytes | Parts], JobT]
    buffersize: int | None = field(validator=_check_buffersize)
    """Calls that may be read ahead of the results taken."""
    sizer: ChunkSizer
    carried: Carried = NOTHING_CARRIED
    pending: deque[tuple[JobT, int]] = field(factory=deque)
    _ahead: int = 0
    _calls: Iterator[tuple[Any, ...]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._calls = zip(*self._iterables, strict=False)

    def next_job(self, slots: int) -> tuple[JobT, int] | None:
        """The job whose results come next, and its number of calls; keeps others under way."""
        while len(self.pending) < max(8, 4 * slots):
            size = self.sizer.size
            if self.buffersize is not None:
                size = min(size, self.buffersize - self._ahead)
            chunk = list(islice(self._calls, size))
            if not chunk:
                break
            self.pending.append((self._submit(pack_calls(chunk, self.carried)), len(chunk)))
            self._ahead += len(chunk)
        return self.pending.popleft() if self.pending else None

    def take(self, job: JobT, calls: int) -> tuple[list[Any], BaseException | None]:
        """The results of a job that has ended, up to the first call that raised, and what.

        Raises:
            Exception: why the job did not finish.
        """
        reply: Any = job.result
        if reply is None:
            raise job.reason()
        assert job.started_at is not None
        assert job.ended_at is not None
        self.sizer.observe(calls, job.ended_at - job.started_at)
        self._ahead -= calls
        return unpack_calls(reply)
