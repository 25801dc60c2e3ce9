"""A cluster for Trio programs: jobs that are awaited, and a block that leaves nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

import trio
from attrs import define, field

from dispy_trio.child.functions import call
from dispy_trio.client import forks
from dispy_trio.client.blocks import async_block
from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.engine import Engine, open_engine
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.imports import refuse_in_import
from dispy_trio.client.jobs import UserJob, next_job_id
from dispy_trio.client.keywords import with_suggestions
from dispy_trio.client.listening import Listener
from dispy_trio.client.live import LiveOutput
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.options import Isolation, Options, make_options, options_of_all
from dispy_trio.client.progress import Counter, count_of, watch_counter, watch_engine
from dispy_trio.client.settings import ClusterSettings, check_bool, check_range, pack_work
from dispy_trio.client.slots import SlotLimiter
from dispy_trio.client.steering import Steering
from dispy_trio.client.telling import Teller
from dispy_trio.client.unseen import look_at
from dispy_trio.compute.packaging import Parts, pack_arguments
from dispy_trio.config import PULSE_INTERVAL
from dispy_trio.errors import ClusterClosed
from dispy_trio.models import CONDITIONS_OF_MOST, JobExtras, JobOptions

__all__ = ["Cluster", "open_cluster"]

if TYPE_CHECKING:
    from typing_extensions import ParamSpec as LaterParamSpec
    from typing_extensions import TypeVar as LaterTypeVar

    # Of a cluster without a computation.
    P = LaterParamSpec("P", default=...)
    T = LaterTypeVar("T", default=Any)
else:
    P = ParamSpec("P")
    T = TypeVar("T")
A = TypeVar("A")


@define(eq=False, repr=False)
class Cluster(Steering, Generic[P, T]):
    """One computation on the nodes of a cluster, for Trio programs; see `open_cluster`."""

    _engine: Engine
    _teller: Teller = field(factory=Teller)
    _is_program: bool = False
    _start_time: float = field(factory=time.time)
    _open: bool = True
    _next_number: int = 1
    _process: int = field(factory=forks.current_process)

    limiter: trio.CapacityLimiter = field(init=False)
    """One token for each slot of the nodes that are there: it follows them as they come and go, and
    is 1 while there is none. `run_sync` takes one for each call."""

    def __attrs_post_init__(self) -> None:
        forks.watch(self)
        self.limiter = trio.CapacityLimiter(1)
        self._teller.add(SlotLimiter(self._engine.machine, self.limiter))

    def leave_to_parent(self) -> None:
        """This process is a fork of the one that the cluster was made in."""
        self._open = False

    def __repr__(self) -> str:
        from dispy_trio.client.showing import cluster_text

        count = self._next_number - 1
        jobs = f"{count} job{'' if count == 1 else 's'}"
        pending = self._engine.count_pending()
        state = f"{jobs}, {pending} pending" if self._open else f"closed, {jobs}"
        return cluster_text(
            "Cluster", self._engine.work.opening.name, state, self._engine.dispy_nodes()
        )

    def _repr_html_(self) -> str:
        from dispy_trio.client.showing import cluster_html

        return cluster_html(repr(self), self._engine.dispy_nodes())

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a cluster stays in the program that made it")

    def _check_process(self) -> None:
        if forks.is_inherited(self._process):
            raise forks.made_elsewhere("the cluster", self._process)

    def _check_open(self) -> None:
        if not self._open:
            self._check_process()
            raise ClusterClosed("the cluster is closed and takes no more jobs")

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Queue a job and return its handle at once.

        Raises:
            PickleArgumentError: names the argument that can't be pickled.
            ClusterClosed: the cluster takes no more jobs.
        """
        return self._submit(self._pack(args, kwargs))

    async def submit_node(self, node: Any, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """As `submit`, for one node. Of a node that is not there yet, the job waits for it.

        Args:
            node: a `DispyNode`, a name or an address.
            args: of the computation.
            kwargs: of the computation.

        Raises:
            ValueError: it is no node of this cluster, or is not used by it.
            PickleArgumentError: names the argument that can't be pickled.
        """
        return await self.options().submit_node(node, *args, **kwargs)

    def _pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | Parts:
        self._check_open()
        if self._is_program:
            if kwargs:
                raise TypeError(f"a program takes no keywords: {sorted(kwargs)}")
            args = tuple(map(str, args))
        return pack_arguments(args, kwargs, self._engine.work.carried)

    def options(self, **options: Unpack[Options]) -> OptionedCluster[P, T]:
        """This cluster, for jobs that are to be run in some special way; as `JobCluster.options`.

        Raises:
            TypeError, ValueError: name the option and what is allowed.
        """
        return OptionedCluster(self, make_options(self._engine.settings.options, **options))

    def _submit(self, payload: bytes | Parts, extras: JobExtras | None = None) -> JobHandle[Any]:
        job: JobHandle[Any] = JobHandle(
            self._next_number,
            payload,
            id=next_job_id(),
            submitted_at=time.time(),
            cancel=self._engine.cancel,
            process=self._process,
        )
        if isinstance(payload, Parts):
            job.size = payload.size
            options = self._engine.settings.options
            if extras is None and options.conditions is not CONDITIONS_OF_MOST:
                extras = JobExtras(options)  # It does not travel with the others.
        self._next_number += 1
        if extras is not None:
            job.extras = extras
            self._engine.queue_aside(job)
            return job
        self._engine.queue.append(job)
        if self._engine.wants_jobs:
            self._engine.wake()
        return job

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Submit a job and wait for its result; see `JobHandle.wait` for what it raises."""
        return await self.submit(*args, **kwargs).wait()

    async def run_sync(
        self,
        function: Callable[..., A],
        *args: Any,
        kill_on_cancel: bool = False,
        limit: int | None = None,
        limiter: trio.CapacityLimiter | None = None,
    ) -> A:
        """Call a function in a process of a cluster without a computation; return what it returns.

        It may be any function that can be cloudpickled: of the main program, a lambda, a closure, a
        method. It is sent once, with what it refers to at its first call; the object of a method and
        the arguments of a partial function go with each call.

        Args:
            function: what is called.
            args: its arguments; for keywords use `functools.partial`.
            kill_on_cancel: a cancelled call stops the function. Otherwise a call that has begun ends
                with it, as of `trio.to_thread.run_sync`.
            limit: calls of this function that may be under way at once; None for no limit.
            limiter: bounds the calls that are made with it; `limiter` of this cluster when None.

        Raises:
            PickleArgumentError: names what can't be pickled.
            JobTerminated: its process ended under it.
            ClusterClosed: the cluster takes no more calls.
            TypeError: the cluster has a computation, or the function is none that can be called so.
            Exception: whatever the function raised, with the remote traceback as its cause.
        """
        raise TypeError(
            f"this cluster runs {self.name!r}, by cluster.run(…); one that calls any function is made"
            " by open_cluster()"
        )

    def cancel(self, job: JobHandle[T]) -> None:
        """Stop a job, waiting or running."""
        self._check_process()
        self._engine.cancel(job)

    def map(
        self,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        progress: bool = False,
    ) -> AsyncGenerator[T, None]:
        """Call the computation with the items of the iterables; yield the results in order.

        Cheap calls travel many in one job, by their measured duration. The iterables are read
        only as far as needed to keep the nodes busy. Close the generator when you leave it early
        (``contextlib.aclosing``): that stops what is under way.

        Args:
            iterables: one for each argument; the shortest one ends it.
            buffersize: calls that may be read ahead of the results taken; bounded also by default.
            chunksize: calls in one job; None chooses by measured duration.
            progress: show a bar of the calls on stderr, if that is a terminal.

        Raises:
            Exception: what a call raised, with the remote traceback as its cause.
        """
        return self._map(iterables, self._submit, buffersize, chunksize, progress)

    def _map(
        self,
        iterables: tuple[Iterable[Any], ...],
        submit: Callable[[bytes | Parts], JobHandle[Any]],
        buffersize: int | None,
        chunksize: int | None,
        progress: bool,
    ) -> AsyncGenerator[T, None]:
        values = self._results(iterables, submit, buffersize, chunksize)
        if not progress:
            return values
        counter = Counter(count_of(iterables))
        return self._with_bar(values, counter, counter.took)

    async def _results(
        self,
        iterables: tuple[Iterable[Any], ...],
        submit: Callable[[bytes | Parts], JobHandle[Any]],
        buffersize: int | None,
        chunksize: int | None,
    ) -> AsyncGenerator[T, None]:
        self._check_process()
        machine = self._engine.machine
        carried = self._engine.work.carried
        stream = CallStream(iterables, submit, buffersize, ChunkSizer(chunksize), carried)
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
                look_at(job)  # Nobody else can.
                job.cancel()

    def as_completed(
        self, jobs: Iterable[JobHandle[T]], *, progress: bool = False
    ) -> AsyncGenerator[JobHandle[T], None]:
        """Yield the jobs, each once, in the order in which they end.

        Args:
            jobs: to wait for.
            progress: show a bar on stderr, if that is a terminal.
        """
        if not progress:
            return self._as_completed(jobs)
        given = dict.fromkeys(jobs)
        counter = Counter(len(given))
        return self._with_bar(self._as_completed(given), counter, counter.took_job)

    async def _as_completed(
        self, jobs: Iterable[JobHandle[T]]
    ) -> AsyncGenerator[JobHandle[T], None]:
        send, receive = trio.open_memory_channel[JobHandle[T]](float("inf"))
        waiting = 0
        for job in dict.fromkeys(jobs):
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

    async def wait(self, *, progress: bool = False) -> None:
        """Wait until no job is pending.

        Args:
            progress: show a bar on stderr, if that is a terminal.
        """
        self._check_process()
        with self.progress() if progress else nullcontext():
            await self._engine.wait_drained()

    def progress(self) -> AbstractContextManager[None]:
        """Show a bar of this cluster's jobs on stderr while a block runs, if that is a terminal.

        Jobs that have ended before are not counted. What the block prints goes above the bar.
        """

        def read() -> tuple[int, int]:
            submitted = self._next_number - 1
            return submitted, submitted - self._engine.count_pending()

        return watch_engine(self._engine.work.opening.name, self._engine, read)

    async def _with_bar(
        self, values: AsyncGenerator[A, None], counter: Counter, took: Callable[[A], None]
    ) -> AsyncGenerator[A, None]:
        with watch_counter(self._engine.work.opening.name, self._engine, counter):
            async with aclosing(values):
                async for value in values:
                    took(value)
                    yield value  # noqa: ASYNC119 - left early, it ends as late as the jobs do


class OptionedCluster(Generic[P, T]):
    """A cluster as seen by jobs that are to be run in some special way; see `Cluster.options`."""

    def __init__(self, cluster: Cluster[P, T], options: JobOptions) -> None:
        self._cluster = cluster
        self._options = options

    def options(self, **options: Unpack[Options]) -> OptionedCluster[P, T]:
        """The same with more of the options of `Cluster.options`."""
        return OptionedCluster(self._cluster, make_options(self._options, **options))

    async def submit_node(self, node: Any, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """As `Cluster.submit_node`."""
        key = await self._cluster._node_for_jobs(node)
        payload = self._cluster._pack(args, kwargs)
        return self._cluster._submit(payload, JobExtras(self._options, pinned=key))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """As `Cluster.submit`."""
        payload = self._cluster._pack(args, kwargs)
        return self._cluster._submit(payload, JobExtras(self._options))

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Cluster.run`."""
        return await self.submit(*args, **kwargs).wait()

    def map(
        self,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        progress: bool = False,
    ) -> AsyncGenerator[T, None]:
        """As `Cluster.map`; the options are those of each job, which may hold many calls."""

        def submit(payload: bytes | Parts) -> JobHandle[Any]:
            return self._cluster._submit(payload, JobExtras(self._options))

        return self._cluster._map(iterables, submit, buffersize, chunksize, progress)


class _Showing(Listener):
    """Shows what jobs print while they run."""

    def __init__(self) -> None:
        live = LiveOutput()
        self.written = live.written  # type: ignore[method-assign]
        self._live = live

    def ending(self, jobs: Sequence[Any]) -> None:
        self._live.ended(jobs)

    def requeued(self, node: str, jobs: Sequence[Any]) -> None:
        self._live.restarted(jobs)


@with_suggestions("open_cluster")
@async_block(
    "open_cluster is for `async with open_cluster(…)`, in Trio programs; ordinary programs have"
    " `with JobCluster(…)`"
)
async def open_cluster(
    computation: Callable[P, T] | str | None = None,
    nodes: Any = None,
    *,
    depends: Sequence[Any] = (),
    setup: Callable[..., Any] | None = None,
    cleanup: bool | Callable[..., Any] = True,
    dest_path: str | None = None,
    setup_timeout: float | None = None,
    live_output: bool = False,
    max_output: int | str | None = None,
    cpus: int = 0,
    name: str | None = None,
    reentrant: bool = False,
    secret: str = "",
    secret_file: str | None = None,
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
    pulse_interval: float = PULSE_INTERVAL,
    connect_timeout: float | None = None,
    isolation: Isolation | None = None,
) -> AsyncIterator[Cluster[P, T]]:
    """Run a function on the processors of a cluster, or any functions.

    Leaving the block normally waits for the jobs that are left. Leaving it by an exception or by
    cancellation stops them, and in either case no process of the computation is left anywhere.

    Args:
        computation: what each job calls, any function that can be cloudpickled; or a program. An
            async function is run by Trio in the worker, and cancelled there with its job. None for
            a cluster that calls any function, by `Cluster.run_sync`.
        nodes: as of `JobCluster`; None starts an embedded node on this machine, unless the
            environment variable DISPY_TRIO_NODES names some.
        depends: what the computation needs beside itself; this and the next six are as of
            `JobCluster`.
        setup: called once on each node before its first job.
        cleanup: what happens to the computation's files at the end.
        dest_path: directory on the nodes that lasts.
        setup_timeout: seconds that setup may take on a node.
        live_output: show what jobs print while they run.
        max_output: bytes to keep of each job's stdout and stderr.
        cpus: slots of the embedded node; 0 for all processors, negative to leave that many free.
        name: of the computation, for people; its function's name when None.
        reentrant: jobs of a lost node may be run again elsewhere.
        secret: a password that nodes are started with too; else the secret file is used.
        secret_file: the secret shared with the nodes; the user's own when None.
        certfile: certificate (PEM) that all peers share; connections use TLS with it.
        keyfile: its private key, if that is not in the same file.
        pulse_interval: seconds between signs of life; a node is lost after three missed ones.
        connect_timeout: seconds to wait for a first usable node; None waits for ever.
        isolation: ``"job"`` has a process forked for each job; as of `JobCluster`.

    Raises:
        PickleArgumentError: the computation can't be pickled.
        ConnectError: no node was usable within `connect_timeout`, or all refuse for good; names each
            with its reason.
        TypeError, ValueError: name the argument that can't be used, and what is allowed.
        RuntimeError: this is no Trio program; or a module runs it whenever it is imported, and this is a
            node.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "open_cluster needs Trio: call it in trio.run(…); under asyncio use JobCluster, and await"
            " asyncio.to_thread(job) for the result of a job"
        )
    refuse_in_import()
    check_range("pulse_interval", pulse_interval, 0.1, 1000)
    check_bool("reentrant", reentrant)
    # A name server may take its time.
    choice = await trio.to_thread.run_sync(choose_nodes, nodes, abandon_on_cancel=True)
    settings = ClusterSettings(
        choice,
        cpus,
        reentrant,
        secret,
        secret_file,
        certfile,
        keyfile,
        pulse_interval,
        connect_timeout,
        options_of_all(isolation),
    )
    work = pack_work(
        call if computation is None else computation,
        name=name or ("run_sync" if computation is None else None),
        depends=depends,
        setup=setup,
        cleanup=cleanup,
        dest_path=dest_path,
        setup_timeout=setup_timeout,
        live_output=live_output,
        max_output=max_output,
    )
    embedded = None
    if choice.embedded:
        embedded = EmbeddedNode(
            cpus=cpus, secret_file=secret_file, secret=secret, certfile=certfile, keyfile=keyfile
        )
    teller = Teller()
    if live_output:
        teller.add(_Showing())
    with ExitStack() as after:
        directory = ""
        if computation is None:
            directory = after.enter_context(TemporaryDirectory(prefix="dispy_trio_"))
        async with open_engine(work, settings, teller, embedded) as engine:
            cluster: Cluster[P, T]
            if computation is None:
                from dispy_trio.client.functions import FunctionCluster

                cluster = FunctionCluster(engine, teller, directory)  # type: ignore[assignment]
            else:
                cluster = Cluster(engine, teller, work.is_program)
            try:
                yield cluster  # noqa: ASYNC119 - `async_block` makes a context manager of it
            finally:
                cluster._open = False
