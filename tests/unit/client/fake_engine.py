"""An engine without nodes, for what a Trio cluster does above it: its slots run jobs when told."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import trio

from dispy_trio.client.cluster import Cluster
from dispy_trio.client.handles import JobHandle
from dispy_trio.compute.pickling import NOTHING_CARRIED
from dispy_trio.models import JobOptions, JobStatus, Outcome

JobAny = JobHandle[Any]


class FakeEngine:
    """Runs jobs in order, as many as there are slots, at the next turn of the loop; or by hand."""

    wants_jobs = True
    has_ended = False

    def __init__(self, function: Callable[..., Any], slots: int, *, by_hand: bool) -> None:
        self.function = function
        self.machine = SimpleNamespace(slots=slots)
        self.work = SimpleNamespace(
            carried=NOTHING_CARRIED, opening=SimpleNamespace(name="function")
        )
        self.settings = SimpleNamespace(options=JobOptions())
        self.queue: deque[JobAny] = deque()
        self.by_hand = by_hand
        self.nursery: trio.Nursery
        self.cancelled: list[JobAny] = []

    def start_task(self, task: Any, *args: Any) -> None:
        self.nursery.start_soon(task, *args)

    def wake(self) -> None:
        if not self.by_hand:
            trio.lowlevel.current_trio_token().run_sync_soon(self.run_some, idempotent=True)

    def queue_aside(self, job: JobAny) -> None:
        self.queue.append(job)
        self.wake()

    def run_some(self) -> None:
        for _ in range(max(1, self.machine.slots)):
            if self.queue:
                self.run(self.queue[0])
        if self.queue:
            self.wake()

    def run(self, job: JobAny) -> None:
        """Run a job that waits."""
        self.queue.remove(job)
        args, kwargs = pickle.loads(job.payload)
        if kwargs is None or kwargs is True:
            job.reply = pickle.dumps(self._call_many(args, to_the_end=kwargs is True))
        else:
            job.reply = pickle.dumps(self.function(*args, **kwargs))
        job.started_at, job.ended_at = 1.0, 1.0001
        job.state = JobStatus.Finished
        job.announce()

    def _call_many(self, chunk: list[Any], *, to_the_end: bool) -> Any:
        values: list[Any] = []
        failures = {}
        for args in chunk:
            try:
                values.append(self.function(*args))
            except Exception as exc:
                account = pickle.dumps((type(exc).__qualname__, str(exc), "", pickle.dumps(exc)))
                if not to_the_end:
                    return values, account
                failures[len(values)] = account
                values.append(None)
        return values, failures if to_the_end else None

    def lose(self, job: JobAny) -> None:
        """The process of a job dies."""
        self.queue.remove(job)
        job.state, job.outcome, job.reply = JobStatus.Terminated, Outcome.DIED, b"killed"
        job.announce()

    def cancel(self, job: JobAny, *_why: str) -> None:
        self.cancelled.append(job)
        if job in self.queue:
            self.queue.remove(job)
            job.state, job.reply = JobStatus.Cancelled, b"cancelled"
            job.announce()

    async def wait_drained(self) -> None:
        assert not self.queue

    def count_pending(self) -> int:
        return len(self.queue)


def twice(n: Any) -> Any:
    return 2 * n


@asynccontextmanager
async def fake_cluster(
    function: Callable[..., Any] = twice, slots: int = 2, *, by_hand: bool = False
) -> AsyncIterator[tuple[Cluster[Any, Any], FakeEngine]]:
    engine = FakeEngine(function, slots, by_hand=by_hand)
    async with trio.open_nursery() as nursery:
        engine.nursery = nursery
        as_engine: Any = engine
        yield Cluster(as_engine), engine
        nursery.cancel_scope.cancel()
