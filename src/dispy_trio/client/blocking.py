"""`JobCluster`, the cluster of ordinary programs: the engine in a thread, and a thread-safe face.

What crosses between the threads: jobs, by appending to the engine's queue (the engine is woken only
when it would take a job at once, so a burst of submits costs one wake-up); and their ends, by the
waiters that jobs carry. Results are unpickled by whoever reads them, not by the engine's thread.

The thread, and what it shares with the cluster, is in `client.thread`.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Self, TypeVar, Unpack, overload

from dispy_trio import config
from dispy_trio.client import forks
from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.imports import refuse_in_import
from dispy_trio.client.jobs import (
    DispyJob,
    ProgramJob,
    SubmittedJob,
    UserJob,
    check_job,
    next_job_id,
)
from dispy_trio.client.keywords import with_suggestions
from dispy_trio.client.nodes import (
    ClusterStatus,
    DispyNode,
    NodeAllocate,
    choose_nodes,
    to_allocation,
)
from dispy_trio.client.optioned import OptionedCluster
from dispy_trio.client.options import Isolation, Options, make_options, options_of_all
from dispy_trio.client.tables import status_lines
from dispy_trio.client.thread import ClusterThread
from dispy_trio.client.unseen import look_at
from dispy_trio.compute.packaging import Parts, pack_arguments
from dispy_trio.config import PULSE_INTERVAL
from dispy_trio.errors import ClusterClosed, ClusterFailed, DispyError
from dispy_trio.logs import check_level, logger, messages_from
from dispy_trio.models import CONDITIONS_OF_MOST, JobExtras, JobFile, JobOptions

if TYPE_CHECKING:
    from dispy_trio.client.callbacks import ClusterCallback, JobCallback
    from dispy_trio.client.progress import Counter

__all__ = ["JobCluster"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")

_now = time.time

JOB_DEPENDS = "dispy_job_depends"
"""The keyword of `JobCluster.submit` that is not the computation's."""


class JobCluster(Generic[P, T]):
    """One computation on the processors of a cluster.

    >>> with JobCluster(compute) as cluster:
    ...     jobs = [cluster.submit(n) for n in range(100)]
    ...     print([job() for job in jobs])
    """

    @with_suggestions("JobCluster")
    def __init__(
        self,
        computation: Callable[P, T] | str,
        nodes: Any = None,
        depends: Sequence[Any] = (),
        job_status: JobCallback | None = None,
        cluster_status: ClusterCallback | None = None,
        host: str | Sequence[str] | None = None,
        dispy_port: int | None = None,
        ext_host: str | Sequence[str] | None = None,
        ip_addr: str | Sequence[str] | None = None,
        ext_ip_addr: str | Sequence[str] | None = None,
        ipv4_udp_multicast: bool = False,
        dest_path: str | None = None,
        loglevel: int = logger.INFO,
        callback: JobCallback | None = None,
        setup: Callable[..., Any] | None = None,
        cleanup: bool | Callable[..., Any] = True,
        ping_interval: float | None = None,
        pulse_interval: float | None = None,
        poll_interval: float | None = None,
        reentrant: bool = False,
        secret: str = "",
        keyfile: str | os.PathLike[str] | None = None,
        certfile: str | os.PathLike[str] | None = None,
        recover_file: str | None = None,
        *,
        cpus: int = 0,
        name: str | None = None,
        secret_file: str | None = None,
        connect_timeout: float | None = None,
        setup_timeout: float | None = None,
        live_output: bool = False,
        max_output: int | str | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        """Pack the computation and start to reach nodes; does not wait for any.

        Args:
            computation: what each job calls, any function that can be cloudpickled; or the path of a
                program, or its name on ``$PATH``, which is sent to the nodes and run with the
                arguments of each job.
            nodes: which to use: ``"host"`` or ``"host:port"``, patterns, `NodeAllocate` objects,
                ``(host, port, cpus, depends, setup_args)``, or dicts of these. None takes those that
                the environment variable DISPY_TRIO_NODES names, else starts an embedded node here.
            depends: what the computation needs beside itself: functions, classes, instances, modules,
                paths of files.
            job_status: called with each job that has a provisional result or has ended.
            cluster_status: called as ``cluster_status(status, node, job)`` with all that happens to
                jobs and nodes.
            host: has no effect, because the client dials and listens nowhere; so have `ext_host`,
                `ip_addr`, `ext_ip_addr`, `ipv4_udp_multicast`, `ping_interval`, `poll_interval` and
                `recover_file`.
            dispy_port: sets `config.DispyPort`, from which the port of nodes counts.
            dest_path: directory on the nodes that lasts from one cluster to the next.
            loglevel: DEBUG, INFO, WARNING, ERROR or CRITICAL of `logger`: from where on messages of this
                cluster are logged. Where the program has configured logging, INFO stands for the
                level configured there. Where it has not, messages are shown on stderr.
            callback: old name of `job_status`.
            setup: called once on each node before its first job, with the node's ``setup_args``; it
                has to return 0, 1 or 2. What it makes global is shared by the node's jobs.
            cleanup: True removes the computation's files from the nodes at the end, False leaves
                them; a function is called with the ``setup_args`` before they are removed.
            pulse_interval: seconds between signs of life, 0.1 to 1000; a node is lost after three
                missed.
            reentrant: jobs of a lost node may be run again elsewhere.
            secret: a password that nodes are started with too; else the secret file is used.
            keyfile: private key of `certfile`, if it is not in the same file.
            certfile: certificate (PEM) that all peers share; connections use TLS with it.
            cpus: slots of the embedded node; 0 for all processors, negative leaves that many free.
            name: of the computation, for people; its function's name when None.
            secret_file: the secret shared with the nodes; the user's own when None.
            connect_timeout: seconds to wait here for a first usable node; None does not wait. While
                jobs wait, the log says what for: when it comes up, and each minute.
            setup_timeout: seconds that setup may take on a node; None for no limit.
            live_output: show what jobs print while they run.
            max_output: bytes to keep of each job's stdout and stderr, or a text such as ``"10M"``;
                the middle of longer ones is cut out, which a line in its place tells. None for all.
            isolation: ``"job"`` has a process forked for each job; ``"worker"`` has jobs run one
                after the other in the same processes, where what they leave in globals of modules
                stays. None takes what the environment variable DISPY_TRIO_ISOLATION says, else
                ``"worker"``.

        Raises:
            PickleArgumentError: the computation or something it depends on can't be pickled.
            ConnectError: no node was usable within `connect_timeout`, or all refuse for good: they
                have another secret, certificate, Python or protocol. Without a `connect_timeout`
                jobs end with that reason.
            TypeError, ValueError: name the argument that can't be used, and what is allowed.
            RuntimeError: a module makes it whenever it is imported, and this is a node.
        """
        refuse_in_import()
        for parameter, text in (("secret", secret), ("recover_file", recover_file)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{parameter} is a str, not {type(text).__name__}")
        _set_port(dispy_port)
        loglevel = check_level("loglevel", loglevel)
        logger.setLevel(loglevel)
        with messages_from(loglevel):
            choice = choose_nodes(nodes)
            # Started first: its interpreter starts up while ours imports what it needs.
            embedded = None
            if choice.embedded:
                embedded = EmbeddedNode(
                    cpus=cpus,
                    secret_file=secret_file,
                    secret=secret,
                    certfile=certfile,
                    keyfile=keyfile,
                )
        try:
            from dispy_trio.client import settings as s

            for parameter, value in (
                ("host", host),
                ("ext_host", ext_host),
                ("ip_addr", ip_addr),
                ("ext_ip_addr", ext_ip_addr),
            ):
                _check_hosts(parameter, value)
            s.check_range("ping_interval", ping_interval, 1, 1000)
            s.check_range("pulse_interval", pulse_interval, 0.1, 1000)
            s.check_range("poll_interval", poll_interval, 5, 1000)
            s.check_range("connect_timeout", connect_timeout, 0, 10**9)
            s.check_bool("reentrant", reentrant)
            s.check_bool("ipv4_udp_multicast", ipv4_udp_multicast)
            job_status = job_status or callback
            s.check_callback("job_status", job_status, "job")
            s.check_callback("cluster_status", cluster_status, "status, node, job")
            settings = s.ClusterSettings(
                choice,
                cpus,
                reentrant,
                secret,
                secret_file,
                certfile,
                keyfile,
                PULSE_INTERVAL if pulse_interval is None else pulse_interval,
                connect_timeout,
                options_of_all(isolation),
                loglevel,
            )
            with messages_from(loglevel):
                work = s.pack_work(
                    computation,
                    name=name,
                    depends=depends,
                    setup=setup,
                    cleanup=cleanup,
                    dest_path=dest_path,
                    setup_timeout=setup_timeout,
                    live_output=live_output,
                    max_output=max_output,
                )
        except BaseException:
            if embedded is not None:
                embedded.end()
                embedded.wait(1.0)
            raise
        thread = ClusterThread(
            work.opening.name, settings, work, embedded, weakref.ref(self), _another_face
        )
        if job_status is not None or cluster_status is not None:
            from dispy_trio.client.callbacks import Notifier

            thread.notifier = Notifier(
                job_status, cluster_status, thread.find_dispy_node, thread.drained, thread.log
            )
        if live_output:
            from dispy_trio.client.live import LiveOutput

            thread.live = LiveOutput()
        self._attach(thread)
        thread.start()
        # Nobody is asked at exit: the thread is on the list of what is closed then.
        weakref.finalize(self, thread.close_unattended).atexit = False

    def _attach(self, thread: ClusterThread) -> None:
        self.name = thread.name
        self._thread = thread
        is_program = thread.work.is_program
        self._job_type: type[SubmittedJob[Any]] = ProgramJob if is_program else SubmittedJob
        self._start_time = time.time()

    # --- jobs ----------------------------------------------------------------------------------
    # Type checkers know each way to submit twice: no signature made of the computation's can have a
    # keyword of ours.
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T]: ...
    @overload
    def submit(
        self, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T]: ...
    def submit(self, *args: Any, **kwargs: Any) -> DispyJob[T]:
        """Queue a job and return at once.

        The keyword ``dispy_job_depends`` is a list of what this one job needs beside its arguments,
        as the cluster's ``depends``; it goes when the job has ended.

        Raises:
            PickleArgumentError: names the argument that can't be pickled.
            ClusterClosed: the cluster takes no more jobs.
        """
        if self._thread.refuses:
            raise self._thread.why_closed()
        if self._thread.work.is_program or (kwargs and JOB_DEPENDS in kwargs):
            return self._submit_with(args, kwargs, None)
        return self._submit(pack_arguments(args, kwargs, self._thread.work.carried))

    @overload
    def submit_job_id(self, job_id: Any, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T]: ...
    @overload
    def submit_job_id(
        self, job_id: Any, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T]: ...
    def submit_job_id(self, job_id: Any, *args: Any, **kwargs: Any) -> DispyJob[T]:
        """As `submit`, with an id that the job has from its beginning."""
        return self._submit_with(args, kwargs, None, job_id=job_id)

    @overload
    def submit_node(self, node: Any, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T] | None: ...
    @overload
    def submit_node(
        self, node: Any, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T] | None: ...
    def submit_node(self, node: Any, *args: Any, **kwargs: Any) -> DispyJob[T] | None:
        """As `submit`, for one node: None when that is none of this cluster, or is not used by it.

        Of a node that the cluster was told of and that is not there yet, the job waits for it.

        Args:
            node: a `DispyNode`, a name or an address.
            args: of the computation.
            kwargs: of the computation.
        """
        return self.submit_job_id_node(None, node, *args, **kwargs)

    @overload
    def submit_job_id_node(
        self, job_id: Any, node: Any, *args: P.args, **kwargs: P.kwargs
    ) -> DispyJob[T] | None: ...
    @overload
    def submit_job_id_node(
        self, job_id: Any, node: Any, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T] | None: ...
    def submit_job_id_node(
        self, job_id: Any, node: Any, *args: Any, **kwargs: Any
    ) -> DispyJob[T] | None:
        """As `submit_node`, with an id that the job has from its beginning."""
        key = self._node_for_jobs(node)
        if key is None:
            return None
        return self._submit_with(
            args, kwargs, JobExtras(self._thread.settings.options, pinned=key), job_id=job_id
        )

    def options(self, **options: Unpack[Options]) -> OptionedCluster[P, T]:
        """This cluster, for jobs that are to be run in some special way.

        >>> job = cluster.options(timeout=60, retries=2).submit(17)

        Args:
            options: see `client.options.Options`.

        Raises:
            TypeError, ValueError: name the option and what is allowed.
        """
        return OptionedCluster(self, make_options(self._thread.settings.options, **options))

    def _submit_with(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        extras: JobExtras | None,
        job_id: Any = None,
    ) -> DispyJob[Any]:
        """Queue a job that is special in any way."""
        if self._thread.refuses:
            raise self._thread.why_closed()
        depends = kwargs.pop(JOB_DEPENDS, None) if kwargs else None
        if self._thread.work.is_program:
            if kwargs:
                raise TypeError(f"the program {self.name!r} takes no keywords: {sorted(kwargs)}")
            args = tuple(map(str, args))
        carried = self._thread.work.carried
        if not depends:
            return self._submit(pack_arguments(args, kwargs, carried), extras, job_id)
        from dispy_trio.compute.depends import sort_depends
        from dispy_trio.compute.packaging import pack_code

        needs = sort_depends(depends, JOB_DEPENDS)
        extras = extras or JobExtras(self._thread.settings.options)
        extras.files = needs.all_files
        if not needs.code:
            return self._submit(pack_arguments(args, kwargs, carried), extras, job_id)
        return self._submit(pack_code(needs, args, kwargs, carried), extras, job_id)

    def _submit(
        self, payload: bytes | Parts, extras: JobExtras | None = None, job_id: Any = None
    ) -> SubmittedJob[Any]:
        thread = self._thread
        engine = thread.engine
        assert engine is not None
        with thread.submitting:
            # Many threads may submit, and one may close: no two jobs may have one number, and none
            # may come when nobody waits for it any more.
            if thread.refuses:
                raise thread.why_closed()
            thread.number = number = thread.number + 1
        job = self._job_type(
            number, payload, id=job_id or next_job_id(), submitted_at=_now(), origin=thread.origin
        )
        if isinstance(payload, Parts):
            job.size = payload.size
            if extras is None and thread.settings.options.conditions is not CONDITIONS_OF_MOST:
                extras = JobExtras(thread.settings.options)  # It does not travel with the others.
        if thread.notifier is not None:
            thread.notifier.created(job)
        if extras is not None:
            job.extras = extras
            thread.call_soon(engine.queue_aside, job)
        else:
            engine.queue.append(job)
            if engine.wants_jobs:
                # Set before the call: of many threads that see it set, one wake-up is enough, and
                # the engine looks at the queue after it has set it again.
                engine.wants_jobs = False
                thread.wake(engine, job, alone=thread.ended + 1 == number)
        if thread.gone:
            thread.end_late(job)
        return job

    def cancel(self, job: DispyJob[T]) -> int:
        """Stop a job, waiting or running: 0, or -1 when it has ended already.

        A running job gets KeyboardInterrupt and has its grace to end, 5 seconds; what it returns counts.

        Raises:
            TypeError: it is no job.
            ValueError: it is another cluster's job.
        """
        check_job(job, DispyJob, "cancel")
        if job.number:
            check_job(job, DispyJob, "cancel", self._thread.origin)
        if job.ended or not job.number:
            why = "has ended" if job.ended else "was never submitted"
            self._thread.log.warning("job %r %s; it can't be cancelled", job.id, why)
            return -1
        self._thread.call_soon(self._thread.running().cancel, job)
        return 0

    def as_completed(
        self, jobs: Iterable[DispyJob[T]], *, progress: bool = False
    ) -> Iterator[DispyJob[T]]:
        """Yield the jobs, each once, in the order in which they end.

        Args:
            jobs: to wait for; also of several clusters.
            progress: show a bar on stderr, if that is a terminal.
        """
        if not progress:
            return self._as_completed(jobs)
        from dispy_trio.client.progress import Counter

        given = dict.fromkeys(jobs)
        counter = Counter(len(given))
        return self._with_bar(self._as_completed(given), counter, counter.took_job)

    def _as_completed(self, jobs: Iterable[DispyJob[T]]) -> Iterator[DispyJob[T]]:
        done: SimpleQueue[UserJob[Any]] = SimpleQueue()
        pending = dict.fromkeys(jobs)
        for job in pending:
            check_job(job, DispyJob, "as_completed")
        for job in pending:
            if not job.add_waiter(done.put):
                # Both may happen at the very moment it ends; below each is taken once.
                done.put(job)
        while pending:
            ended: Any = done.get()
            if ended in pending:
                del pending[ended]
                yield ended

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> bool:
        """Wait until no job is pending and the callbacks of all have returned, also of those that
        callbacks have submitted meanwhile. Within a callback, wait for the jobs alone.

        Args:
            timeout: seconds to wait at most; None for no limit.
            progress: show a bar on stderr, if that is a terminal.

        Returns:
            False when `timeout` seconds have passed before.
        """
        if not progress:
            return self._thread.wait(timeout)
        with self.progress():
            return self._thread.wait(timeout)

    __call__ = wait

    def map(
        self,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]:
        """Call the computation with the items of the iterables; yield the results in order.

        Cheap calls travel many in one job, by their measured duration. The iterables are read
        only as far as needed to keep the nodes busy.

        Args:
            iterables: one for each argument; the shortest one ends it.
            buffersize: calls that may be read ahead of the results taken; bounded also by default.
            chunksize: calls in one job; None chooses by measured duration.
            progress: show a bar of the calls on stderr, if that is a terminal.

        Raises:
            Exception: what a call raised, with the remote traceback as its cause.
        """
        return self._map(iterables, buffersize, chunksize, None, progress)

    def _map(
        self,
        iterables: tuple[Iterable[Any], ...],
        buffersize: int | None,
        chunksize: int | None,
        options: JobOptions | None,
        progress: bool,
    ) -> Iterator[T]:
        values = self._results(iterables, buffersize, chunksize, options)
        if not progress:
            return values
        from dispy_trio.client.progress import Counter, count_of

        counter = Counter(count_of(iterables))
        return self._with_bar(values, counter, counter.took)

    def _results(
        self,
        iterables: tuple[Iterable[Any], ...],
        buffersize: int | None,
        chunksize: int | None,
        options: JobOptions | None,
    ) -> Iterator[T]:
        machine = self._thread.running().machine

        def submit(payload: bytes | Parts) -> SubmittedJob[Any]:
            return self._submit(payload, None if options is None else JobExtras(options))

        calls = zip(*iterables, strict=False)
        sizer = ChunkSizer(chunksize)
        stream = CallStream(submit, buffersize, sizer, self._thread.work.carried)
        try:
            while (job := stream.next_job(calls, machine.slots)) is not None:
                job.wait()
                values, failure = stream.take(job)
                yield from values
                if failure is not None:
                    raise failure
        finally:
            for job in stream.pending:
                look_at(job)  # Nobody else can.
                if not job.ended:
                    self.cancel(job)

    def progress(self) -> AbstractContextManager[None]:
        """Show a bar of this cluster's jobs on stderr while a block runs, if that is a terminal.

        >>> with cluster.progress():
        ...     results = [job() for job in jobs]

        Jobs that have ended before are not counted. What the block prints goes above the bar.
        """
        from dispy_trio.client.progress import watch_engine

        thread = self._thread
        assert thread.engine is not None
        return watch_engine(self.name, thread.engine, lambda: (thread.number, thread.ended))

    def _with_bar(
        self, values: Iterator[A], counter: Counter, took: Callable[[A], None]
    ) -> Iterator[A]:
        from dispy_trio.client.progress import watch_counter

        assert self._thread.engine is not None
        with watch_counter(self.name, self._thread.engine, counter):
            for value in values:
                took(value)
                yield value

    # --- nodes ---------------------------------------------------------------------------------
    def _key_of(self, node: Any, *, awaited: bool = False) -> str | None:
        """The key of the one node that is meant; None, and it is logged why, if there is none.

        Args:
            node: a `DispyNode`, a name or an address.
            awaited: it may be one that has not answered yet.
        """
        engine = self._thread.running()
        wanted = node if isinstance(node, DispyNode) else to_allocation(node)
        found = self._thread.ask(engine.find_nodes, wanted)
        is_name = isinstance(wanted, NodeAllocate) and not wanted.is_pattern
        # Looked up here, if nobody has done so before: others wait for the engine's thread.
        if not found and is_name:
            with messages_from(self._thread.settings.loglevel):
                is_known = wanted.ip_addr is not None
            if is_known:
                found = self._thread.ask(engine.find_nodes, wanted)
        if not awaited:
            found = [key for key in found if engine.was_met(key)]
        if len(found) == 1:
            return found[0]
        if found:
            self._thread.log.warning(
                "%r may be any of %s: name it with its port", node, ", ".join(found)
            )
        else:
            self._thread.log.warning("%r is no node of this cluster", node)
        return None

    def _node_for_jobs(self, node: Any) -> str | None:
        """The key of the node that jobs may be pinned to; None, and it is logged why, if none."""
        engine = self._thread.running()
        key = self._key_of(node, awaited=True)
        if key is not None and not self._thread.ask(engine.may_run, key):
            self._thread.log.warning("node %s runs no jobs of cluster %s", key, self.name)
            return None
        return key

    def discover_nodes(self, nodes: Any) -> int:
        """Look for nodes at these addresses too. Returns 0.

        Which of them are used is decided by the cluster's ``nodes``, and `allocate_node`.

        Raises:
            TypeError, ValueError: one can't be meant.
        """
        with messages_from(self._thread.settings.loglevel):
            choice = choose_nodes(nodes)
        self._thread.ask(self._thread.running().discover, choice.addresses)
        return 0

    def allocate_node(self, node: Any) -> int:
        """Use a node, or several, also ones that were deallocated or closed: 0, or -1 when one
        names none.

        Args:
            node: as an element of the cluster's ``nodes``, or a list of such.
        """
        engine = self._thread.running()
        several = node if isinstance(node, list) else [node]
        if not several:
            return -1
        try:
            with messages_from(self._thread.settings.loglevel):
                choice = choose_nodes(several)
        except (TypeError, ValueError) as exc:
            self._thread.log.warning("allocate_node: %s", exc)
            return -1
        self._thread.ask(engine.allocate, choice)
        return 0

    def deallocate_node(self, node: Any) -> int:
        """Give a node no new jobs; what it runs goes on, and what setup made stays: 0 or -1."""
        from dispy_trio.core.events import NodeDeallocated

        key = self._key_of(node)
        if key is None:
            return -1
        self._thread.ask(self._thread.running().manage, NodeDeallocated(key))
        return 0

    def close_node(self, node: Any, terminate_pending: bool = False) -> int:
        """End the computation on a node: its jobs end, then cleanup runs there: 0 or -1.

        Args:
            node: a `DispyNode`, a name or an address.
            terminate_pending: stop its jobs.
        """
        return self._retire(node, terminate_pending, again=False)

    def resetup_node(self, node: Any, terminate_pending: bool = False) -> int:
        """As `close_node`, and then set it up anew, with what `NodeAllocate.allocate` says now."""
        return self._retire(node, terminate_pending, again=True)

    def _retire(self, node: Any, terminate: bool, *, again: bool) -> int:
        from dispy_trio.core.events import NodeRetired

        key = self._key_of(node)
        if key is None:
            return -1
        self._thread.ask(self._thread.running().manage, NodeRetired(key, 1, terminate, again))
        return 0

    def node_jobs(self, node: Any, from_node: bool = False) -> list[DispyJob[T]] | int:
        """The jobs that a node has and that have not ended; -1 when there is no such node.

        Args:
            node: a `DispyNode`, a name or an address.
            from_node: has no effect: what this side knows is what the node was last heard of.
        """
        del from_node
        key = self._key_of(node)
        if key is None:
            return -1
        return self._thread.ask(self._thread.running().jobs_on, key)

    def set_node_cpus(self, node: Any, cpus: int) -> int:
        """Use that many slots of a node; negative leaves that many free.

        Returns:
            The slots that are used now; -1 when there is no such node.

        Raises:
            TypeError: `cpus` is not an int.
        """
        from dispy_trio.core.events import NodeCpusSet

        if not isinstance(cpus, int) or isinstance(cpus, bool):
            raise TypeError(f"cpus is an int, not {type(cpus).__name__}")
        key = self._key_of(node)
        if key is None:
            return -1
        engine = self._thread.running()
        self._thread.ask(engine.manage, NodeCpusSet(key, 1, cpus))
        return engine.node(key).cpus

    def send_file(self, path: str | os.PathLike[str], node: Any, relay: bool = False) -> int:
        """Put a file into the computation's directory on a node: 0, or -1 and the log says why.

        It goes to the same place relative to the current directory, or right into the computation's
        directory when it lies elsewhere.

        Raises:
            ValueError: `path` is not a file.
        """
        from dispy_trio.compute.depends import to_job_file

        del relay  # There is one way to a node.
        file = to_job_file(path, "path")
        key = self._key_of(node)
        if key is None:
            return -1
        return self._put_file(key, file)

    def _put_file(self, key: str, file: JobFile) -> int:
        try:
            self._thread.run_there(self._thread.running().put_files, key, [file], 0)
        except (ClusterClosed, ClusterFailed):
            raise
        except (DispyError, OSError) as exc:
            self._thread.log.warning("send_file: %s", exc)
            return -1
        return 0

    # --- the cluster ---------------------------------------------------------------------------
    def status(self) -> ClusterStatus:
        """The nodes, and how many jobs have not ended."""
        thread = self._thread
        thread.check_process()
        return ClusterStatus(self._nodes(), max(0, thread.number - thread.ended))

    def print_status(self, wall_time: float | None = None) -> None:
        """Print a table of the nodes and what they did.

        Args:
            wall_time: seconds to compare the nodes' time with; since the start when None.
        """
        wall = wall_time if wall_time is not None else time.time() - self._start_time
        for line in status_lines(self.status(), wall):
            print(line)

    stats = print_status

    def close(self, timeout: float | None = None, terminate: bool = False) -> bool | None:
        """End the cluster: wait as `wait` does, or with `terminate` stop its jobs.

        Callbacks may submit until nothing is left to be waited for; from then on, or from when jobs
        are stopped, no more are taken. When jobs are stopped, callbacks have a second more. Those
        that have not returned then are no longer waited for, and the log says so: they go on, and
        the others are called, as long as the program lasts, and no longer.

        Args:
            timeout: seconds to wait for jobs and callbacks; then False, and the cluster can be used
                as before, or with `terminate` the jobs are stopped.
            terminate: stop what has not ended (at once when there is no `timeout`).

        Returns:
            True when the cluster is closed and nothing of it is left on any node; None when it was
            closed before.
        """
        return self._thread.close(timeout, terminate=terminate)

    def shutdown(self) -> None:
        """The same as `close`, for programs that call it."""
        self.close()

    def __repr__(self) -> str:
        from dispy_trio.client.showing import cluster_text

        return cluster_text("JobCluster", self.name, self._thread.describe(), self._nodes())

    def _repr_html_(self) -> str:
        from dispy_trio.client.showing import cluster_html

        return cluster_html(repr(self), self._nodes())

    def _nodes(self) -> list[DispyNode]:
        engine = self._thread.engine
        return [] if engine is None else engine.dispy_nodes()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a cluster stays in the program that made it")

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> NoReturn:
        self.close(terminate=True)
        raise TypeError(
            "a JobCluster is a block of an ordinary program, `with JobCluster(…)`; Trio programs have"
            " `async with open_cluster(…)`"
        )

    async def __aexit__(self, *_error: object) -> None:
        """Never called: nothing was entered."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not forks.is_inherited(self._thread.process):  # That is the parent's to close.
            self.close(terminate=exc is not None)


def _check_hosts(parameter: str, value: object) -> None:
    several = [value] if isinstance(value, str) or value is None else value
    if not isinstance(several, (list, tuple)) or not all(
        item is None or isinstance(item, str) for item in several
    ):
        raise TypeError(f"{parameter} is a str or a list of str, not {value!r}")


def _set_port(port: int | None) -> None:
    if port is None:
        return
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"dispy_port is an int, not {type(port).__name__}")
    if not 0 < port < 65536:
        raise ValueError(f"dispy_port is {port}; it has to be 1 to 65535")
    config.DispyPort = port


def _another_face(thread: ClusterThread) -> JobCluster[..., Any]:
    """The cluster of a thread, whose own was collected."""
    cluster: JobCluster[..., Any] = object.__new__(JobCluster)
    cluster._attach(thread)
    return cluster
