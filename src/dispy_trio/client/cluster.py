"""A cluster for Trio programs: jobs that are awaited, and a block that leaves nothing behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack
from weakref import WeakSet

import trio
from attrs import define, field

from dispy_trio.child.functions import call
from dispy_trio.client import forks
from dispy_trio.client.blocks import async_block
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.engine import Engine, open_engine
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.imports import refuse_in_import
from dispy_trio.client.jobs import check_job, next_job_id
from dispy_trio.client.keywords import with_suggestions
from dispy_trio.client.mapping import CallFlow, Errors
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.options import Isolation, Options, make_options, options_of_all
from dispy_trio.client.progress import watch_engine
from dispy_trio.client.settings import ClusterSettings, check_bool, check_range, pack_work
from dispy_trio.client.slots import SlotLimiter
from dispy_trio.client.steering import Steering
from dispy_trio.client.stopping import extras_in_scope, extras_until
from dispy_trio.client.streaming import Streaming
from dispy_trio.client.streams import CLOSED, Stream
from dispy_trio.client.telling import Teller
from dispy_trio.client.trio_ears import TrioEars
from dispy_trio.compute.packaging import Parts, pack_arguments
from dispy_trio.config import PULSE_INTERVAL
from dispy_trio.errors import ClusterClosed
from dispy_trio.models import CONDITIONS_OF_MOST, JobExtras, JobOptions
from dispy_trio.runtime.threads import run_in_thread

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
class Cluster(Steering, Streaming[T], Generic[P, T]):
    """One computation on the nodes of a cluster, for Trio programs; see `open_cluster`."""

    _engine: Engine
    _teller: Teller = field(factory=Teller)
    _is_program: bool = False
    _start_time: float = field(factory=time.time)
    _open: bool = True
    _next_number: int = 1
    _origin: forks.Origin = field(factory=forks.Origin)
    _thread: int = field(factory=threading.get_ident)
    _maps: WeakSet[CallFlow[Any]] = field(factory=WeakSet)
    """Those that may be under way."""

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
        if forks.is_inherited(self._origin.process):
            raise forks.made_elsewhere("the cluster", self._origin.process)

    def _check_thread(self, method: str, way: str = "run_sync") -> None:
        """See that this is the thread in which Trio runs this cluster.

        Raises:
            RuntimeError: it is another one; names the method and the way to it.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"{method} is called in another thread than the cluster's: in a thread of"
                f" trio.to_thread call trio.from_thread.{way}({method}, ...), or use JobCluster, which"
                " any thread may use"
            )

    def _check_open(self) -> None:
        if not self._open:
            self._check_process()
            raise ClusterClosed("the cluster is closed and takes no more jobs")

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Queue a job and return its handle at once.

        Raises:
            PickleArgumentError: names the argument that can't be pickled.
            ClusterClosed: the cluster takes no more jobs.
            RuntimeError: this is another thread than the cluster's. Nothing is queued; the text says
                how to submit from there.
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
        if not self._open:
            self._check_process()
            raise ClusterClosed(CLOSED)
        if threading.get_ident() != self._thread:  # Asked here, as each job passes.
            self._check_thread("cluster.submit")
        job: JobHandle[Any] = JobHandle(
            self._next_number,
            payload,
            id=next_job_id(),
            submitted_at=time.time(),
            origin=self._origin,
            cluster=self,
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

    def _submitter(
        self, options: JobOptions | None = None
    ) -> Callable[[bytes | Parts], JobHandle[Any]]:
        """Submits jobs, in whatever task, that have to have ended when this task's scopes want it."""
        deadline = trio.current_effective_deadline()
        of_all = self._engine.settings.options
        if extras_until(deadline, options, of_all) is None:
            return self._submit
        return lambda payload: self._submit(payload, extras_until(deadline, options, of_all))

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Submit a job and wait for its result; see `JobHandle.wait` for what it raises, and for what
        its cancellation does.

        The deadline of the cancel scopes round it is the job's own: its node stops it then, also when
        this program has stopped or can't be reached.
        """
        extras = extras_in_scope(None, self._engine.settings.options)
        if extras is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
        job: JobHandle[T] = self._submit(self._pack(args, kwargs), extras)
        return await job.wait()

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
        """Stop a job, waiting or running.

        Raises:
            TypeError: it is no job.
            ValueError: it is another cluster's job.
            ClusterClosed: this is a fork of the process that made it.
            RuntimeError: this is another thread than the cluster's.
        """
        self._check_process()
        self._check_thread("cluster.cancel")
        check_job(job, JobHandle, "cancel", self._origin)
        self._engine.cancel(job)

    async def wait(self, *, progress: bool = False) -> None:
        """Wait until no job is pending.

        Args:
            progress: show a bar on stderr, if that is a terminal.
        """
        self._check_process()
        self._check_thread("cluster.wait", "run")
        await trio.lowlevel.checkpoint()
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
        """As `Cluster.run`; of that deadline and those of the options the earliest counts."""
        await trio.lowlevel.checkpoint_if_cancelled()
        extras = extras_in_scope(self._options, self._options)
        job: JobHandle[T] = self._cluster._submit(self._cluster._pack(args, kwargs), extras)
        return await job.wait()

    def map(
        self,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        errors: Errors = "raise",
        source_in_thread: bool = False,
        progress: bool = False,
    ) -> Stream[T]:
        """As `Cluster.map`; the options are those of each job, which may hold many calls."""
        return self._cluster._map(
            self._cluster._submitter(self._options),
            iterables,
            buffersize=buffersize,
            chunksize=chunksize,
            ordered=ordered,
            errors=errors,
            source_in_thread=source_in_thread,
            progress=progress,
        )


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
    grace: float | None = None,
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
        grace: seconds that a job which is stopped has to end, 5 when None: it is interrupted, then
            gets SIGTERM, and 2 seconds later SIGKILL.

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
    choice = await run_in_thread(choose_nodes, nodes, abandon_on_cancel=True)
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
        grace=grace,
    )
    ears = TrioEars(live_output=live_output)
    embedded = None
    if choice.embedded:
        embedded = EmbeddedNode(
            cpus=cpus, secret_file=secret_file, secret=secret, certfile=certfile, keyfile=keyfile
        )
    teller = Teller()
    teller.add(ears)
    with ExitStack() as after:
        directory = ""
        if computation is None:
            directory = after.enter_context(TemporaryDirectory(prefix="dispy_trio_"))
        try:
            async with open_engine(work, settings, teller, embedded) as engine:
                cluster: Cluster[P, T]
                if computation is None:
                    from dispy_trio.client.functions import FunctionCluster

                    cluster = FunctionCluster(engine, teller, directory)  # type: ignore[assignment]
                else:
                    cluster = Cluster(engine, teller, work.is_program)
                ears.on_node = cluster._on_node
                try:
                    yield cluster  # noqa: ASYNC119 - `async_block` makes a context manager of it
                finally:
                    cluster._open = False
                    cluster._end_maps()
        finally:
            await ears.aclose()
