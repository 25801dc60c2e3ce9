"""`JobCluster`, the cluster of ordinary programs: the engine in a thread, and a thread-safe face.

What crosses between the threads: jobs, by appending to the engine's queue (the engine is woken only
when it would take a job at once, so a burst of submits costs one wake-up); and their ends, by the
waiters that jobs carry. Results are unpickled by whoever reads them, not by the engine's thread.

Trio is imported on that thread, while an embedded node, started before, does the same.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.jobs import DispyJob, UserJob, next_job_id
from dispy_trio.compute.packaging import Parts, pack_arguments
from dispy_trio.config import PULSE_INTERVAL
from dispy_trio.errors import ClusterClosed, ClusterFailed
from dispy_trio.models import ClusterStatus, JobStatus

if TYPE_CHECKING:
    import trio

    from dispy_trio.client.engine import Engine

__all__ = ["JobCluster"]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("dispy_trio")

_now = time.time


class JobCluster(Generic[P, T]):
    """One computation on the processors of a cluster.

    >>> with JobCluster(compute) as cluster:
    ...     jobs = [cluster.submit(n) for n in range(100)]
    ...     print([job() for job in jobs])
    """

    def __init__(
        self,
        computation: Callable[P, T],
        nodes: Sequence[str] | str | None = None,
        *,
        cpus: int = 0,
        name: str | None = None,
        reentrant: bool = False,
        secret_file: str | None = None,
        pulse_interval: float = PULSE_INTERVAL,
        connect_timeout: float | None = None,
    ) -> None:
        """Pack the computation and start to reach nodes; does not wait for any.

        Args:
            computation: what each job calls; any function that can be cloudpickled.
            nodes: ``"host"`` or ``"host:port"`` each; None starts an embedded node here.
            cpus: slots of the embedded node; 0 for all processors, negative leaves that many free.
            name: of the computation, for people; its function's name when None.
            reentrant: jobs of a lost node may be run again elsewhere.
            secret_file: the secret shared with the nodes; the user's own when None.
            pulse_interval: seconds between signs of life; a node is lost after three missed.
            connect_timeout: seconds to wait here for a first usable node; None does not wait.

        Raises:
            PickleArgumentError: the computation can't be pickled.
            ConnectError: no node was usable within `connect_timeout`.
            ValueError: a node is not of the form host or host:port.
        """
        named = [nodes] if isinstance(nodes, str) else nodes
        # Started first: its interpreter starts up while ours imports what it needs.
        embedded = None if named else EmbeddedNode(cpus=cpus, secret_file=secret_file)
        try:
            from dispy_trio.client.engine import ClusterSettings, make_opening, parse_node

            for node in named or ():
                parse_node(node)
            self._settings = ClusterSettings(
                named, cpus, name, reentrant, secret_file, pulse_interval, connect_timeout
            )
            self._opening = make_opening(computation, self._settings)
        except BaseException:
            if embedded is not None:
                embedded.end()
                embedded.wait(1.0)
            raise
        self.name = self._opening.name
        self._embedded = embedded
        self._number = 0
        self._submitting = threading.Lock()
        self._closed = False
        self._ended = 0
        self._drained = threading.Condition()
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._engine: Engine | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._leave: Callable[[bool], None] = lambda terminate: None
        self._start_time = time.time()
        self._thread = threading.Thread(
            target=self._run, name=f"dispy_trio {self.name}", daemon=True
        )
        self._thread.start()
        self._started.wait()
        self._check_started()
        _open_clusters.append(self)

    def _check_started(self) -> None:
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    # --- the engine's thread -------------------------------------------------------------------
    def _run(self) -> None:
        import trio

        try:
            trio.run(self._main)
        except BaseException as exc:  # noqa: ASYNC103 - outside of Trio; told to the user's thread
            self._failure = exc
            if self._engine is not None:
                log.error("cluster %s: %s", self.name, exc)
        finally:
            self._end_what_is_left()
            self._started.set()

    async def _main(self) -> None:
        import trio

        from dispy_trio.client.engine import open_engine

        leave = trio.Event()
        terminate = False

        def set_leave(how: bool) -> None:
            nonlocal terminate
            terminate = terminate or how
            leave.set()
            if terminate and self._engine is not None:
                self._engine.close(terminate=True)

        self._token = trio.lowlevel.current_trio_token()
        self._leave = set_leave
        async with open_engine(
            self._opening, self._settings, self._on_ended, self._embedded
        ) as engine:
            self._engine = engine
            self._started.set()
            await leave.wait()
            if terminate:
                engine.close(terminate=True)

    def _on_ended(self, jobs: Sequence[Any], again: bool) -> None:
        if again:
            return  # Counted when they were abandoned.
        with self._drained:
            self._ended += len(jobs)
            if self._ended >= self._number:
                self._drained.notify_all()

    def _end_what_is_left(self) -> None:
        """The engine is gone: nobody may wait for a job for ever."""
        queue: deque[Any] = self._engine.queue if self._engine is not None else deque()
        left: list[Any] = list(queue)
        if self._engine is not None:
            for node in self._engine.machine.nodes.values():
                left += node.outstanding.values()
        for job in left:
            if not job.ended:
                job.status = JobStatus.Abandoned
                job.reply = f"the cluster ended: {self._failure or 'closed'}".encode()
                job.announce()
        with self._drained:
            self._ended = self._number
            self._drained.notify_all()

    def _call_soon(self, function: Callable[..., None], *args: Any) -> None:
        import trio

        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            pass  # It has ended, and its jobs with it.

    # --- jobs ----------------------------------------------------------------------------------
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T]:
        """Queue a job and return at once.

        Raises:
            PickleArgumentError: names the argument that can't be pickled.
            ClusterClosed: the cluster takes no more jobs.
        """
        if self._closed or self._failure is not None:
            raise self._why_closed()
        return self._submit(pack_arguments(args, kwargs))

    def _submit(self, payload: bytes | Parts) -> DispyJob[Any]:
        engine = self._engine
        assert engine is not None
        with self._submitting:
            # Many threads may submit: no two jobs may have one number.
            self._number = number = self._number + 1
        job: DispyJob[Any] = DispyJob(number, payload, id=next_job_id(), submit_time=_now())
        if isinstance(payload, Parts):
            job.size = payload.size
        engine.queue.append(job)
        if engine.wants_jobs:
            # Set before the call: of many threads that see it set, one wake-up is enough, and
            # the engine looks at the queue after it has set it again.
            engine.wants_jobs = False
            self._wake(engine, job, alone=self._ended + 1 == number)
        return job

    def _wake(self, engine: Engine, job: DispyJob[Any], *, alone: bool) -> None:
        """Have the engine look at its queue."""
        if not alone:
            self._call_soon(engine.wake)
        elif not engine.wake_from_thread():
            self._call_soon(engine.resume)
        elif not engine.queue:
            # A lone job, sent from here: nothing woke the other thread, so nobody else sets this.
            engine.wants_jobs = True
            job.lead = self._lead
            if engine.queue:
                self._call_soon(engine.wake)

    def _lead(self, job: DispyJob[Any]) -> None:
        assert self._engine is not None
        self._engine.lead(job, self._call_soon)

    def _why_closed(self) -> Exception:
        if self._failure is not None:
            failed = ClusterFailed(f"cluster {self.name} failed: {self._failure}")
            failed.__cause__ = self._failure
            return failed
        return ClusterClosed(f"cluster {self.name} is closed and takes no more jobs")

    def cancel(self, job: DispyJob[T]) -> int:
        """Stop a job, waiting or running: 0, or -1 when it has ended already."""
        if job.ended:
            log.warning("job %r has ended; it can't be cancelled", job.id)
            return -1
        assert self._engine is not None
        self._call_soon(self._engine.cancel, job)
        return 0

    def as_completed(self, jobs: Iterable[DispyJob[T]]) -> Iterator[DispyJob[T]]:
        """Yield the jobs in the order in which they end."""
        done: SimpleQueue[UserJob[Any]] = SimpleQueue()
        given = list(jobs)
        for job in given:
            if not job.add_waiter(done.put):
                # Both may happen at the very moment it ends; below each is taken once.
                done.put(job)
        seen: set[int] = set()
        while len(seen) < len(given):
            ended: Any = done.get()
            if ended.number not in seen:
                seen.add(ended.number)
                yield ended

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no job is pending; False when `timeout` seconds have passed before."""
        with self._drained:
            return self._drained.wait_for(lambda: self._ended >= self._number, timeout)

    __call__ = wait

    def map(
        self,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
    ) -> Iterator[T]:
        """Call the computation with the items of the iterables; yield the results in order.

        Cheap calls travel many in one job, by their measured duration. The iterables are read
        only as far as needed to keep the nodes busy.

        Args:
            iterables: one for each argument; the shortest one ends it.
            buffersize: calls that may be read ahead of the results taken; bounded also by default.
            chunksize: calls in one job; None chooses by measured duration.

        Raises:
            Exception: what a call raised, with the remote traceback as its cause.
        """
        assert self._engine is not None
        machine = self._engine.machine
        stream = CallStream(iterables, self._submit, buffersize, ChunkSizer(chunksize))
        try:
            while (under_way := stream.next_job(machine.slots)) is not None:
                job, calls = under_way
                job.wait()
                values, failure = stream.take(job, calls)
                yield from values
                if failure is not None:
                    raise failure
        finally:
            for job, _ in stream.pending:
                if not job.ended:
                    self.cancel(job)

    # --- the cluster ---------------------------------------------------------------------------
    def status(self) -> ClusterStatus:
        """The nodes, and how many jobs have not ended."""
        assert self._engine is not None
        return ClusterStatus(self._engine.machine.node_infos(), max(0, self._number - self._ended))

    def print_status(self, wall_time: float | None = None) -> None:
        """Print a table of the nodes and what they did.

        Args:
            wall_time: seconds to compare the nodes' time with; since the start when None.
        """
        nodes, pending = self.status()
        wall = wall_time if wall_time is not None else time.time() - self._start_time
        row = "{:<28.28} | {:>5} | {:>9} | {:>10} | {:>13}"
        print(row.format("Node", "CPUs", "Jobs", "Sec/Job", "Node Time Sec"))
        print("-" * 78)
        total = 0.0
        for node in nodes:
            total += node.cpu_time
            mean = node.cpu_time / node.jobs_done if node.jobs_done else 0.0
            label = f"{node.address} ({node.name})"
            print(
                row.format(label, node.cpus, node.jobs_done, f"{mean:.3g}", f"{node.cpu_time:.3f}")
            )
        speedup = total / wall if wall else 0.0
        print()
        print(f"Jobs pending: {pending}")
        print(f"Total job time: {total:.3f} sec, wall time: {wall:.3f} sec, speedup: {speedup:.3f}")

    stats = print_status

    def close(self, timeout: float | None = None, terminate: bool = False) -> bool:
        """End the cluster: wait for its jobs, or with `terminate` stop them.

        Args:
            timeout: seconds to wait for jobs; then False, or with `terminate` they are stopped.
            terminate: stop what has not ended (at once when there is no `timeout`).

        Returns:
            True when the cluster is closed and nothing of it is left on any node.
        """
        self._closed = True
        if not terminate or timeout is not None:
            drained = self.wait(timeout)
            if not drained and not terminate:
                self._closed = False
                return False
        if self._thread.is_alive():
            self._call_soon(lambda: self._leave(terminate))
            self._thread.join()
        if self in _open_clusters:
            _open_clusters.remove(self)
        return True

    def shutdown(self) -> None:
        """The same as `close`, for programs that call it."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(terminate=exc is not None)


_open_clusters: list[JobCluster[..., Any]] = []


def _close_at_exit() -> None:
    """A program that ends without closing: its jobs are waited for, but not after Ctrl-C."""
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for cluster in list(_open_clusters):
        try:
            cluster.close(terminate=interrupted)
        except KeyboardInterrupt:
            interrupted = True
            cluster.close(terminate=True)


atexit.register(_close_at_exit)
