"""A cluster for Trio programs: jobs that are awaited, and a block that leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import trio
from attrs import define

from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.engine import ClusterSettings, Engine, make_opening, open_engine
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.jobs import UserJob, next_job_id
from dispy_trio.compute.packaging import (
    Parts,
    pack_arguments,
)
from dispy_trio.config import PULSE_INTERVAL
from dispy_trio.errors import ClusterClosed
from dispy_trio.models import ClusterStatus

__all__ = ["Cluster", "open_cluster"]

P = ParamSpec("P")
T = TypeVar("T")


@define(eq=False)
class Cluster(Generic[P, T]):
    """One computation on the nodes of a cluster, for Trio programs; see `open_cluster`."""

    _engine: Engine
    _open: bool = True
    _next_number: int = 1

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Queue a job and return its handle at once.

        Raises:
            PickleArgumentError: names the argument that can't be pickled.
            ClusterClosed: the cluster takes no more jobs.
        """
        if not self._open:
            raise ClusterClosed("the cluster is closed and takes no more jobs")
        return self._submit(pack_arguments(args, kwargs))

    def _submit(self, payload: bytes | Parts) -> JobHandle[Any]:
        job: JobHandle[Any] = JobHandle(
            self._next_number,
            payload,
            id=next_job_id(),
            submit_time=time.time(),
            cancel=self._engine.cancel,
        )
        if isinstance(payload, Parts):
            job.size = payload.size
        self._next_number += 1
        self._engine.queue.append(job)
        if self._engine.wants_jobs:
            self._engine.wake()
        return job

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Submit a job and wait for its result; see `JobHandle.wait` for what it raises."""
        return await self.submit(*args, **kwargs).wait()

    def cancel(self, job: JobHandle[T]) -> None:
        """Stop a job, waiting or running."""
        self._engine.cancel(job)

    async def map(
        self,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
    ) -> AsyncGenerator[T, None]:
        """Call the computation with the items of the iterables; yield the results in order.

        Cheap calls travel many in one job, by their measured duration. The iterables are read
        only as far as needed to keep the nodes busy. Close the generator when you leave it early
        (``contextlib.aclosing``): that stops what is under way.

        Args:
            iterables: one for each argument; the shortest one ends it.
            buffersize: calls that may be read ahead of the results taken; bounded also by default.
            chunksize: calls in one job; None chooses by measured duration.

        Raises:
            Exception: what a call raised, with the remote traceback as its cause.
        """
        machine = self._engine.machine
        stream = CallStream(iterables, self._submit, buffersize, ChunkSizer(chunksize))
        try:
            while (under_way := stream.next_job(machine.slots)) is not None:
                job, calls = under_way
                await job.wait_ended()
                values, failure = stream.take(job, calls)
                for value in values:
                    yield value
                if failure is not None:
                    raise failure
        finally:
            for job, _ in stream.pending:
                job.cancel()

    async def as_completed(
        self, jobs: Iterable[JobHandle[T]]
    ) -> AsyncGenerator[JobHandle[T], None]:
        """Yield the jobs in the order in which they end."""
        send, receive = trio.open_memory_channel[JobHandle[T]](float("inf"))
        waiting = 0
        for job in jobs:
            waiting += 1
            seen = trio.Event()

            def announce(
                _job: UserJob[Any], job: JobHandle[T] = job, seen: trio.Event = seen
            ) -> None:
                if not seen.is_set():
                    seen.set()
                    send.send_nowait(job)

            if not job.add_waiter(announce):
                announce(job)
        for _ in range(waiting):
            yield await receive.receive()

    async def wait(self) -> None:
        """Wait until no job is pending."""
        await self._engine.wait_drained()

    def status(self) -> ClusterStatus:
        """The nodes, and how many jobs have not ended."""
        return self._engine.status()


@asynccontextmanager
async def open_cluster(
    computation: Callable[P, T],
    nodes: Sequence[str] | None = None,
    *,
    cpus: int = 0,
    name: str | None = None,
    reentrant: bool = False,
    secret_file: str | None = None,
    pulse_interval: float = PULSE_INTERVAL,
    connect_timeout: float | None = None,
) -> AsyncIterator[Cluster[P, T]]:
    """Run a function on the processors of a cluster.

    Leaving the block normally waits for the jobs that are left. Leaving it by an exception or by
    cancellation stops them, and in either case no process of the computation is left anywhere.

    Args:
        computation: what each job calls; any function that can be cloudpickled.
        nodes: ``"host"`` or ``"host:port"`` each; None starts an embedded node on this machine.
        cpus: slots of the embedded node; 0 for all processors, negative to leave that many free.
        name: of the computation, for people; its function's name when None.
        reentrant: jobs of a lost node may be run again elsewhere.
        secret_file: the secret shared with the nodes; the user's own when None.
        pulse_interval: seconds between signs of life; a node is lost after three missed ones.
        connect_timeout: seconds to wait for a first usable node; None waits for ever.

    Raises:
        PickleArgumentError: the computation can't be pickled.
        ConnectError: no node was usable within `connect_timeout`; names each with its reason.
    """
    settings = ClusterSettings(
        nodes, cpus, name, reentrant, secret_file, pulse_interval, connect_timeout
    )
    opening = make_opening(computation, settings)
    embedded = None if nodes else EmbeddedNode(cpus=cpus, secret_file=secret_file)
    async with open_engine(opening, settings, lambda _jobs, _again: None, embedded) as engine:
        cluster: Cluster[P, T] = Cluster(engine)
        try:
            yield cluster
        finally:
            cluster._open = False
