"""`as_completed` of a Trio cluster: jobs, in the order in which they end."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import trio

from dispy_trio.client.handles import JobHandle
from dispy_trio.client.jobs import check_job
from dispy_trio.client.readers import CLOSE_GRACE, AsyncZip
from dispy_trio.client.streams import CLOSED, TURN_SECONDS, Flow
from dispy_trio.errors import ClusterClosed

if TYPE_CHECKING:
    from dispy_trio.client.engine import Engine
    from dispy_trio.client.progress import Counter

__all__ = ["JobFlow"]

T = TypeVar("T")


class JobFlow(Flow[JobHandle[T]]):
    """The jobs that one `as_completed` waits for. They are the user's: none is ended here."""

    def __init__(
        self,
        engine: Engine,
        jobs: Iterable[JobHandle[T]] | AsyncIterable[JobHandle[T]],
        *,
        counter: Counter | None,
        bar: AbstractContextManager[None] | None,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._jobs = jobs
        self._source: Iterator[JobHandle[T]] | None = None
        self._begun = False
        self._is_read = False
        self._waiting: set[JobHandle[T]] = set()
        self._seen: WeakSet[JobHandle[T]] = WeakSet()
        """Weak, as a channel may give jobs for ever."""
        self._failure: BaseException | None = None
        self._reading: trio.CancelScope | None = None
        self._counter = counter
        self._bar = bar
        self._shown = ExitStack()

    async def fill(self) -> None:
        """Wait for the next jobs to end; read those that are given first."""
        if not self._begun:
            self._begin()
        if self._source is not None:
            try:
                await self._read_on_loop(self._source)
            except Exception:
                self._finish()
                raise
        if self.values:
            return
        if self._waiting or not self._is_read:
            await self.wait_changed()
            return
        self._finish()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _begin(self) -> None:
        self._begun = True
        if self._bar is not None:
            self._shown.enter_context(self._bar)
        if isinstance(self._jobs, AsyncIterable):
            scope = trio.CancelScope()
            self._engine.start_task(self._run_reader, scope)
            self._reading = scope
        else:
            self._source = iter(self._jobs)

    def _add(self, job: JobHandle[T]) -> None:
        check_job(job, JobHandle, "as_completed")
        if job in self._seen:
            return
        self._seen.add(job)
        self._waiting.add(job)
        if not job.add_waiter(self._heard_of):
            job.remove_waiter(self._heard_of)
            self._heard_of(job)

    def _heard_of(self, job: Any) -> None:
        """A job has ended; one that was abandoned may do so twice."""
        if job not in self._waiting:
            return
        self._waiting.remove(job)
        if self._counter is not None:
            self._counter.took_job(job)
        self.values.append(job)
        self.wake()

    def _was_read(self) -> None:
        self._is_read = True
        self._source = None
        if self._counter is not None:
            self._counter.total = self._counter.done + len(self._waiting)

    def _finish(self) -> None:
        self.is_over = True
        self.end()

    def end(self) -> None:
        for job in self._waiting:
            job.remove_waiter(self._heard_of)
        self._waiting.clear()
        self._source = None
        if self._reading is not None:
            self._reading.cancel()
        self._shown.close()

    async def wait_ended(self) -> None:
        while self._reading is not None:
            await self.wait_changed()
        await trio.lowlevel.checkpoint()

    # --- reading ------------------------------------------------------------------------------------
    async def _read_on_loop(self, source: Iterator[JobHandle[T]]) -> None:
        for job in source:
            self._add(job)
            if self.is_due():
                await self.give_turn()
                if self.values:
                    return
        self._was_read()

    async def _run_reader(self, scope: trio.CancelScope) -> None:
        failure: BaseException | None = ClusterClosed(CLOSED)
        try:
            with scope:
                await self._read_async(AsyncZip((self._jobs,)))
                failure = None
        except Exception as exc:
            # It is the source's, and for whoever takes the jobs.
            failure = exc
        finally:
            self._reading = None
            if not self.is_over:
                self._failure = failure
            self._was_read()
            self.wake()

    async def _read_async(self, source: AsyncZip) -> None:
        try:
            turn = perf_counter() + TURN_SECONDS
            async for (job,) in source:
                self._add(job)
                if perf_counter() >= turn:
                    await trio.lowlevel.checkpoint()
                    turn = perf_counter() + TURN_SECONDS
        finally:
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await source.aclose()
