"""`map` of a Trio cluster: reads arguments, keeps jobs under way, and gives the results.

Iterables are read on the loop, by whoever waits for the next result; others have a turn after each
millisecond of that. Async iterables are read by a task of the cluster's, and with
``source_in_thread`` a thread reads. What these have read waits in `_CallFlow.read` until a slot has
nothing to do, or it fills a job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, get_args

import trio

from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.readers import CLOSE_GRACE, AsyncZip, are_async
from dispy_trio.client.streams import CLOSED, TURN_SECONDS, Flow
from dispy_trio.client.unseen import look_at
from dispy_trio.compute.packaging import Parts, Raised
from dispy_trio.errors import ClusterClosed
from dispy_trio.runtime.threads import run_in_thread

if TYPE_CHECKING:
    from dispy_trio.client.engine import Engine
    from dispy_trio.client.progress import Counter

__all__ = ["CallFlow", "Errors", "MapOptions"]

T = TypeVar("T")

Errors = Literal["raise", "group", "values"]


class MapOptions(TypedDict):
    """Arguments of `map`, which explains them."""

    buffersize: int | None
    chunksize: int | None
    ordered: bool
    errors: Errors
    source_in_thread: bool


MOST_UNTIMED = 16
"""Items that are read without a look at the clock,"""
QUICK = 0.0001
"""after such that took less than so many seconds."""
LEAD = 0.02
"""Seconds of work that a slot has before it."""
MOST_JOBS = 4
"""That a slot has before it."""


class CallFlow(Flow[T]):
    """The calls of one `map` that are under way."""

    def __init__(
        self,
        engine: Engine,
        iterables: tuple[Any, ...],
        submit: Callable[[bytes | Parts], JobHandle[Any]],
        *,
        counter: Counter | None,
        bar: AbstractContextManager[None] | None,
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__()
        errors, source_in_thread = options["errors"], options["source_in_thread"]
        if errors not in get_args(Errors):
            raise ValueError(f"errors is {errors!r}; it has to be 'raise', 'group' or 'values'")
        self._is_async = are_async(iterables)
        if self._is_async and source_in_thread:
            raise TypeError("source_in_thread is for iterables that are read with plain 'for'")
        self._calls: CallStream[JobHandle[Any]] = CallStream(
            submit,
            options["buffersize"],
            ChunkSizer(options["chunksize"]),
            engine.work.carried,
            to_the_end=errors != "raise",
        )
        self._engine = engine
        self._iterables = iterables
        self._in_thread = source_in_thread
        self._source: Iterator[tuple[Any, ...]] | None = None
        """What is read on the loop."""
        self._ordered = options["ordered"]
        self._errors = errors
        self._raised: list[BaseException] = []
        """To be raised as a group at the end."""
        self._failure: BaseException | None = None
        """Raised when the results before it were taken."""
        self._running: set[JobHandle[Any]] = set()
        self._ready: dict[JobHandle[Any], None] = {}
        """Have ended, and their results were not taken."""
        self._begun = False
        self._is_read = False
        """The iterables have nothing more, or nothing more is wanted of them."""
        self._read: deque[tuple[Any, ...]] = deque()
        """Calls that are in no job yet."""
        self._told = False
        """The loop will look at them."""
        self._reading: trio.CancelScope | None = None
        """Of the task that reads."""
        self._counter = counter
        self._bar = bar
        self._shown = ExitStack()

    # --- the user's side ------------------------------------------------------------------------
    async def fill(self) -> None:
        """Read what is needed, and wait for the results that come next."""
        if not self._begun:
            self._begin()
        if self._source is not None:
            await self._read_on_loop(self._source)
        if self.values or self.is_over:
            return
        if (job := self._ready_job()) is not None:
            self._take(job)
        elif self._calls.pending:
            await self.wait_changed()
        elif self._failure is not None and not self._read:
            failure, self._failure = self._failure, None
            self._finish()
            raise failure
        elif not self._is_read or self._read:
            await self.wait_changed()
        else:
            self._finish()
            if self._raised:
                raised, self._raised = self._raised, []
                raise BaseExceptionGroup(f"{len(raised)} calls of map failed", raised)

    def cluster_left(self) -> None:
        """The cluster takes no more jobs, and waits only for those whose results somebody wants."""
        if not self._begun or self.is_over:
            return
        if not self._lot.statistics().tasks_waiting:
            self.values.clear()
            self._stop_all()
        self._fail(ClusterClosed(CLOSED))

    def left(self) -> None:
        """Cancelled, whoever waited for a result stops them all."""
        self.close()

    def _begin(self) -> None:
        self._begun = True
        if self._bar is not None:
            self._shown.enter_context(self._bar)
        if self._in_thread or self._is_async:
            scope = trio.CancelScope()
            self._engine.start_task(self._run_reader, scope)
            self._reading = scope
        else:
            self._source = zip(*self._iterables, strict=False)

    def _ready_job(self) -> JobHandle[Any] | None:
        """The job whose results come next, if it has ended."""
        jobs = self._calls.pending if self._ordered else self._ready
        job = next(iter(jobs), None)
        return job if job is not None and job.ended else None

    def _take(self, job: JobHandle[Any]) -> None:
        count = self._calls.pending[job]
        self._ready.pop(job, None)
        try:
            values, failure = self._calls.take(job)
        except Exception as exc:
            # None of its calls has given anything.
            values, failure = [], exc
            if self._errors != "raise":
                values, failure = [Raised(exc)], None
                if self._errors == "values":
                    values *= count
        if self._counter is not None:
            self._counter.done += len(values)
        if self._errors != "raise":
            values = self._sort_out(values)
        self.values.extend(values)
        if failure is not None:
            self._stop_all()
            self._failure = failure
        self.wake()
        self._send_read()

    def _sort_out(self, values: list[Any]) -> list[Any]:
        if self._errors == "values":
            return [value.error if type(value) is Raised else value for value in values]
        self._raised += [value.error for value in values if type(value) is Raised]
        return [value for value in values if type(value) is not Raised]

    # --- jobs -------------------------------------------------------------------------------------
    def _most_jobs(self) -> int:
        """How many may be under way: as many as keep the nodes busy, of what is known now."""
        slots: int = self._engine.machine.slots
        seconds = self._calls.sizer.seconds
        if seconds is None or not slots:
            return max(1, slots)
        return slots * min(MOST_JOBS, 2 + int(LEAD / max(seconds, 1e-6)))

    def _room(self) -> int:
        if self.is_over:
            return 0
        return self._calls.room(self._most_jobs(), len(self.values))

    def _try_to_send(self, chunk: list[tuple[Any, ...]]) -> None:
        try:
            job = self._calls.send(chunk)
        except Exception as exc:
            self._fail(exc)
            return
        self._running.add(job)
        if not job.add_waiter(self._heard_of):
            self._heard_of(job)

    def _heard_of(self, job: Any) -> None:
        """A job has ended; one that was abandoned may do so twice."""
        if job not in self._running:
            return
        self._running.remove(job)
        if not self._ordered and job in self._calls.pending:
            self._ready[job] = None
        self._send_read()
        self.wake()

    def _fail(self, exc: BaseException) -> None:
        """No more jobs can be made: raise it when the results of those under way were taken."""
        self._read.clear()
        if self._reading is not None:
            self._reading.cancel()
        self._break_off(exc)

    def _break_off(self, exc: BaseException) -> None:
        """Nothing more can be read: raise it when the results of what was read were taken."""
        self._failure = self._failure or exc
        self._is_read = True
        self._source = None
        self.wake()

    def _stop_all(self) -> None:
        self._is_read = True
        self._source = None
        self._read.clear()
        self._ready.clear()
        if self._reading is not None:
            self._reading.cancel()
        pending = list(self._calls.pending)
        self._calls.pending.clear()
        for job in pending:
            look_at(job)  # Nobody else can.
            if not job.ended:
                job.cancel()

    def _finish(self) -> None:
        self.is_over = True
        self.end()
        self.wake()

    def end(self) -> None:
        self._stop_all()
        self._shown.close()
        self._iterables = ()

    async def wait_ended(self) -> None:
        while self._running or self._reading is not None:
            await self.wait_changed()
        await trio.lowlevel.checkpoint()

    # --- reading ------------------------------------------------------------------------------------
    async def _read_on_loop(self, source: Iterator[tuple[Any, ...]]) -> None:
        while (size := self._room()) and self._source is not None:
            chunk: list[tuple[Any, ...]] = []
            try:
                _read_until(source, chunk, size, perf_counter() + TURN_SECONDS)
            except Exception as exc:
                self._break_off(exc)
            if chunk:
                self._try_to_send(chunk)
            else:
                self._is_read = True
                self._source = None
            if self.is_due():
                await self.give_turn()
                if self._ready_job() is not None:
                    return  # Its results come before what is read ahead.

    def _send_read(self, *, only_full: bool = False) -> None:
        """Make jobs of what was read: full ones, and if a slot has nothing to do, any."""
        while self._read and (size := self._room()):
            waits = only_full or len(self._running) >= max(1, self._engine.machine.slots)
            if waits and len(self._read) < size and not self._is_read:
                return
            chunk = [self._read.popleft() for _ in range(min(size, len(self._read)))]
            self._try_to_send(chunk)

    def look_again(self) -> None:
        """A node has come: there may be more slots."""
        self._send_read()
        self.wake()

    def _tell(self, token: trio.lowlevel.TrioToken) -> None:
        """There is something to be looked at once the reader has to wait, or gives others a turn."""
        if not self._told:
            self._told = True
            token.run_sync_soon(self._look_at_read)

    def _look_at_read(self) -> None:
        self._told = False
        self._send_read()

    async def _wait_room(self) -> int:
        """Wait until more is to be read; how much. 0 when nothing is wanted any more."""
        while (room := self._room() - len(self._read)) <= 0:
            if self.is_over or self._failure is not None:
                return 0  # Also to a thread that was abandoned.
            await self._lot.park()
        return room

    async def _run_reader(self, scope: trio.CancelScope) -> None:
        failure: BaseException | None = ClusterClosed(CLOSED)
        try:
            with scope:
                if self._in_thread:
                    # Not of the program's own threads: its source may wait for ever.
                    await run_in_thread(self._read_in_thread, self._token, abandon_on_cancel=True)
                else:
                    await self._read_async(AsyncZip(self._iterables))
                failure = None
        except Exception as exc:
            # It is the source's, and for whoever takes the results.
            failure = exc
        finally:
            self._reading = None
            self._is_read = True
            if failure is not None and not self.is_over:
                self._break_off(failure)
            self._send_read()
            self.wake()

    async def _read_async(self, source: AsyncZip) -> None:
        try:
            room = await self._wait_room()
            turn = perf_counter() + TURN_SECONDS
            async for call in source:
                self._read.append(call)
                self._tell(self._token)
                room -= 1
                if perf_counter() >= turn:
                    await trio.lowlevel.checkpoint()
                    turn = perf_counter() + TURN_SECONDS
                if room <= 0:
                    self._send_read(only_full=True)
                    room = await self._wait_room()
                    if not room:
                        return
        finally:
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await source.aclose()

    def _read_in_thread(self, token: trio.lowlevel.TrioToken) -> None:
        room = trio.from_thread.run(self._wait_room)
        for call in zip(*self._iterables, strict=False):
            self._read.append(call)
            self._tell(token)
            room -= 1
            if room <= 0:
                room = trio.from_thread.run(self._wait_room)
                if not room:
                    return


def _read_until(
    source: Iterator[tuple[Any, ...]], chunk: list[tuple[Any, ...]], size: int, until: float
) -> None:
    """Read calls of one job, until some time; the clock of several that come quickly is read once."""
    step = 1
    before = perf_counter()
    while (count := min(step, size - len(chunk))) > 0:
        length = len(chunk)
        chunk.extend(islice(source, count))
        now = perf_counter()
        if len(chunk) < length + count or now >= until:
            return
        step = min(MOST_UNTIMED, 2 * step) if now - before < QUICK else 1
        before = now
