"""The thread that runs the engine of a blocking cluster, and what it shares with the cluster.

It holds no reference to the `JobCluster`: a cluster that nobody refers to any more is collected, and
tells its thread on its way to close when its jobs have ended. What has to outlive the cluster is
here.

Trio is imported on that thread, while an embedded node, started before, does the same.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field

from dispy_trio.client import forks
from dispy_trio.client.ears import ClusterEars
from dispy_trio.client.jobs import DispyJob, SubmittedJob
from dispy_trio.errors import ClusterClosed, ClusterFailed
from dispy_trio.logs import DispyLogger, messages_from
from dispy_trio.models import JobStatus
from dispy_trio.texts import to_bytes

if TYPE_CHECKING:
    import trio

    from dispy_trio.client.callbacks import Notifier
    from dispy_trio.client.embedded import EmbeddedNode
    from dispy_trio.client.engine import Engine
    from dispy_trio.client.live import LiveOutput
    from dispy_trio.client.nodes import DispyNode
    from dispy_trio.client.settings import ClusterSettings, Work

__all__ = ["ClusterThread"]

A = TypeVar("A")

CALLBACK_GRACE = 1.0
"""Seconds that callbacks have at the end of a close that is limited."""
EXIT_PATIENCE = 1.0
"""Seconds that a program which ends waits for its jobs before it says so."""


@define(eq=False)
class ClusterThread:
    """The engine's thread of one cluster."""

    name: str
    settings: ClusterSettings
    work: Work
    embedded: EmbeddedNode | None
    _cluster: weakref.ref[Any]
    _make_cluster: Callable[[ClusterThread], Any]
    """Makes a cluster of this thread, when its own was collected."""
    notifier: Notifier | None = None
    live: LiveOutput | None = None
    refuses: bool = False
    """It takes no more jobs: the cluster is closed, or gone, or this is a child. At last it is set with
    `submitting` held, so that each job that is counted before is waited for."""
    gone: bool = False
    """The engine has ended."""
    number: int = 0
    """Jobs submitted."""
    ended: int = 0
    """Jobs ended."""
    submitting: threading.Lock = field(factory=threading.Lock)
    drained: threading.Condition = field(factory=threading.Condition)
    engine: Engine | None = None
    process: int = field(factory=forks.current_process)
    """Where it runs."""
    origin: forks.Origin = field(factory=forks.Origin)
    """By which its jobs know it."""
    log: DispyLogger = field(init=False)
    """For what is said of this cluster."""
    _was_closed: bool = False
    _ends_early: bool = False
    """It is to end, and may not have started."""
    _failure: BaseException | None = None
    _started: threading.Event = field(factory=threading.Event)
    _token: trio.lowlevel.TrioToken | None = None
    _leave: Callable[[bool], None] = field(default=lambda terminate: None)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.log = DispyLogger(self.settings.loglevel)

    def start(self) -> None:
        """Start the engine, and return when it has started.

        Raises:
            Exception: why it has not.
        """
        self._thread = threading.Thread(
            target=self._run, name=f"dispy_trio {self.name}", daemon=True
        )
        forks.watch(self)
        _running.add(self)
        self._thread.start()
        try:
            self._started.wait()
        except KeyboardInterrupt:
            # The user has no cluster to close yet.
            self._end_engine(terminate=True)
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    # --- on the thread -------------------------------------------------------------------------
    def _run(self) -> None:
        import trio

        try:
            with messages_from(self.settings.loglevel):
                trio.run(self._main)
        except BaseException as exc:  # noqa: ASYNC103 - outside of Trio; told to the user's thread
            self._failure = exc
            if self.engine is not None:
                self.log.error("cluster %s: %s", self.name, exc)
        finally:
            self._end_what_is_left()
            _running.discard(self)
            self._started.set()

    async def _main(self) -> None:
        import trio

        from dispy_trio.client.engine import open_engine

        leave = trio.Event()
        opening = trio.CancelScope()
        terminate = False

        def set_leave(how: bool) -> None:
            nonlocal terminate
            terminate = terminate or how
            leave.set()
            if self.engine is None:
                opening.cancel()  # It waits for a first node.
            if terminate and self.engine is not None:
                self.engine.close(terminate=True)

        self._leave = set_leave
        self._token = trio.lowlevel.current_trio_token()
        if self._ends_early:
            opening.cancel()
        with opening:
            async with open_engine(
                self.work,
                self.settings,
                ClusterEars(self),
                self.embedded,
                find_owner=self._find_cluster,
            ) as engine:
                self.engine = engine
                # Callbacks are told of each job.
                engine.unseen.wanted = self.notifier is None
                self._started.set()
                await leave.wait()
                if terminate:
                    engine.close(terminate=True)

    def _find_cluster(self) -> Any:
        """For `NodeAllocate.allocate`."""
        found = self._cluster()
        return self._make_cluster(self) if found is None else found

    def over(self, failure: Exception | None) -> None:
        """The engine takes no more jobs; with `failure`, because of that."""
        self._failure = failure
        self.refuses = self.gone = True

    def _end_what_is_left(self) -> None:
        with self.submitting:
            # Whoever counts a job now has looked before; later nobody counts one.
            self.refuses = self.gone = True
        if self.engine is not None:
            # What was submitted while it ended.
            self.engine.end_left(f"the cluster ended: {self._failure or 'closed'}")
        with self.drained:
            self.ended = self.number
            self.drained.notify_all()

    # --- on any thread -------------------------------------------------------------------------
    def end_late(self, job: SubmittedJob[Any]) -> None:
        """A job was submitted while the engine ended: it may have missed it."""
        if not job.ended:
            job.reply = to_bytes(f"the cluster ended: {self._failure or 'closed'}")
            job.state = JobStatus.Abandoned
            job.announce()
            if self.notifier is not None:
                self.notifier.ended([job])

    def running(self) -> Engine:
        """The engine.

        Raises:
            ClusterClosed, ClusterFailed: it does not run any more.
        """
        if self.engine is None or self.gone:
            raise self.why_closed()
        return self.engine

    def why_closed(self) -> Exception:
        if forks.is_inherited(self.process):
            return forks.made_elsewhere(f"cluster {self.name}", self.process)
        if self._failure is not None:
            failed = ClusterFailed(f"cluster {self.name} failed: {self._failure}")
            failed.__cause__ = self._failure
            return failed
        return ClusterClosed(f"cluster {self.name} is closed and takes no more jobs")

    def check_process(self) -> None:
        """See that the cluster was made here.

        Raises:
            ClusterClosed: this is a fork of the process in which it was made.
        """
        if forks.is_inherited(self.process):
            raise self.why_closed()

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        """Have a function called on the engine's thread."""
        import trio

        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            pass  # It has ended, and its jobs with it.

    def _end_engine(self, *, terminate: bool) -> None:
        """Have the engine end, also when it is still starting: Ctrl-C, or the end of the program, may
        come before it has."""
        self._ends_early = True
        if self._token is not None:
            self.call_soon(lambda: self._leave(terminate))

    def ask(self, function: Callable[..., A], *args: Any) -> A:
        """Call a function on the engine's thread, and wait for what it returns."""
        import trio

        self.check_process()
        try:
            # What runs there takes the context along from here.
            with messages_from(self.settings.loglevel):
                return trio.from_thread.run_sync(function, *args, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise self.why_closed() from None  # noqa: ASYNC104 - this thread is no task

    def run_there(self, function: Callable[..., Awaitable[A]], *args: Any) -> A:
        """Run an async function on the engine's thread, and wait for what it returns."""
        import trio

        self.check_process()
        try:
            # What runs there takes the context along from here.
            with messages_from(self.settings.loglevel):
                return trio.from_thread.run(function, *args, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise self.why_closed() from None  # noqa: ASYNC104 - this thread is no task

    def wake(self, engine: Engine, job: SubmittedJob[Any], *, alone: bool) -> None:
        """Have the engine look at its queue."""
        if not alone:
            self.call_soon(engine.wake)
        elif not engine.wake_from_thread():
            self.call_soon(engine.resume)
        elif not engine.queue:
            job.lead = self._lead  # A lone job, sent from here.

    def _lead(self, job: DispyJob[Any]) -> None:
        if self.engine is not None and not self.gone:
            self.engine.lead(job, self.call_soon)

    def describe(self) -> str:
        """Its state and that of its jobs, in a few words."""
        jobs = f"{self.number} job{'' if self.number == 1 else 's'}"
        if forks.is_inherited(self.process):
            return f"of the parent process, {jobs}"
        if self.gone:
            return f"{'failed' if self._failure else 'closed'}, {jobs}"
        return f"{jobs}, {max(0, self.number - self.ended)} pending"

    def find_dispy_node(self, key: str) -> DispyNode:
        assert self.engine is not None
        return self.engine.node(key)

    def wait(self, timeout: float | None) -> bool:
        """Wait until no job is pending, and the callbacks of those that were have been called."""
        self.check_process()
        return self._wait_for(self._drained(), timeout)

    def _wait_for(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        with self.drained:
            return self.drained.wait_for(predicate, timeout)

    def _drained(self) -> Callable[[], bool]:
        """Tells whether no job is pending and all callbacks have returned that were due then.

        A callback may submit: then its jobs and their callbacks are waited for as well. Callbacks
        about nodes go on coming, and those that came later are not.
        """
        number, calls = -1, 0

        def is_drained() -> bool:
            nonlocal number, calls
            if self.ended < self.number:
                return False
            if self.notifier is None:
                return True
            if number != self.number:
                number, calls = self.number, self.notifier.queued
            return self.notifier.have_returned(calls)

        return is_drained

    def _closing(self) -> Callable[[], bool]:
        """As `_drained`; from the moment on in which it says so no more jobs are taken."""
        is_drained = self._drained()

        def refuses() -> bool:
            if is_drained():
                with self.submitting:
                    # Another thread may have submitted just now.
                    self.refuses = self.refuses or self.ended >= self.number
            return self.refuses

        return refuses

    def close(self, timeout: float | None, *, terminate: bool) -> bool | None:
        """See `JobCluster.close`."""
        self.check_process()
        was_closed = self._was_closed and not self._thread.is_alive()
        if not terminate or timeout is not None:
            drained = self._wait_for(self._closing(), timeout)
            if not drained and not terminate:
                return False
        with self.submitting:
            self._was_closed = self.refuses = True
        if self._thread.is_alive():
            self._end_engine(terminate=terminate)
            self._thread.join()
        if (notifier := self.notifier) is not None:
            limit = CALLBACK_GRACE if terminate or timeout is not None else None
            calls = notifier.queued
            if not self._wait_for(lambda: notifier.have_returned(calls), limit):
                self.log.warning(
                    "cluster %s is closed, and %d of its callbacks have not returned; they are called"
                    " as long as the program lasts",
                    self.name,
                    calls - notifier.returned,
                )
        return None if was_closed else True

    def close_unattended(self) -> None:
        """Nobody refers to the cluster any more: close when its jobs have ended.

        May be called by the garbage collector, at any point of any thread: it only leaves word.
        """
        if not forks.is_inherited(self.process) and self._thread.is_alive():
            self.call_soon(lambda: self._leave(False))

    def leave_to_parent(self) -> None:
        """This process is a fork of the one in which the thread runs."""
        self.refuses = self.gone = True
        _running.discard(self)

    def leave_running(self) -> str:
        """End the thread, and leave what runs on the nodes to them.

        Returns:
            How many jobs that are, and where; empty for none.
        """
        try:
            left = self.ask(self._leave_running)
        except (ClusterClosed, ClusterFailed):
            return ""  # It ends by itself just now.
        self._thread.join()
        return left

    def tell_what_it_waits_for(self) -> None:
        """Say what keeps the program from ending, and how to end it all the same."""
        try:
            text = self.ask(self._what_it_waits_for)
        except (ClusterClosed, ClusterFailed):
            return  # It ends by itself just now.
        self.log.warning(
            "cluster %s: the program ends when %s; Ctrl-C ends it now", self.name, text
        )

    def _what_it_waits_for(self) -> str:
        engine = self.running()
        count = engine.count_pending()
        if not count:
            return "its callbacks have returned"
        jobs = f"{count} jobs have" if count > 1 else "a job has"
        missing = engine.what_is_missing()
        return f"{jobs} ended" + (f" ({missing})" if missing else "")

    def _leave_running(self) -> str:
        engine = self.running()
        nodes = engine.machine.nodes.values()
        sent = Counter({node.key: len(node.outstanding) for node in nodes if node.outstanding})
        waiting = engine.count_pending() - sent.total()
        engine.abandon()
        self._leave(False)
        text = ", ".join(f"{count} at {key}" for key, count in sent.items())
        if waiting:
            text += f"{', and ' if text else ''}{waiting} that wait here will not be run"
        if not sent:
            return text
        several = "jobs run" if sent.total() > 1 else "job runs"
        return f"{sent.total()} {several} on at the nodes: {text}"


_running: set[ClusterThread] = set()
"""Those whose engine has not ended."""


def _close_at_exit() -> None:
    """A program that ends without closing: its jobs are waited for, but not after Ctrl-C.

    Nor after an error that nobody caught: an embedded node is ended with its jobs; what others run,
    they run on.
    """
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    failed = _has_failed()
    for thread in list(_running):
        elsewhere = thread.engine is not None and thread.embedded is None
        if failed and not interrupted and elsewhere:
            if left := thread.leave_running():
                sys.stderr.write(f"cluster {thread.name} was not closed: {left}\n")
            continue
        try:
            if not (interrupted or failed or thread.wait(EXIT_PATIENCE)):
                thread.tell_what_it_waits_for()
            thread.close(None, terminate=interrupted or failed)
        except KeyboardInterrupt:
            interrupted = True
            thread.close(None, terminate=True)


def _has_failed() -> bool:
    """Does the program end because of an exception that nobody caught?

    Python keeps the last one that it showed. In a session at the prompt, and in some libraries, that
    may be one after which the program went on; only of that which ends it the first frame is the
    program's.
    """
    shown = getattr(sys, "last_traceback", None)
    if shown is None or hasattr(sys, "ps1"):
        return False
    return shown.tb_frame.f_code.co_name in ("<module>", "_run_module_as_main")


atexit.register(_close_at_exit)
