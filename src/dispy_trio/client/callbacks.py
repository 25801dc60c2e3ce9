"""Calls the user's `job_status` and `cluster_status`: in a thread of their own, one at a time, in the
order in which things happened.

The thread is one for all clusters of a program, as in dispy. What is called may take its time, and
may call the cluster, also for more jobs. It may raise or exit, which is logged: the thread goes on.
Nothing waits for it but the cluster's `wait` and `close`, which count the calls.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from attrs import define, field

from dispy_trio.client.jobs import DispyJob, SubmittedJob, snapshot
from dispy_trio.client.nodes import DispyNode
from dispy_trio.core.jobs import has_run
from dispy_trio.errors import ResultUnpicklable
from dispy_trio.logs import DispyLogger, log
from dispy_trio.models import JobStatus

__all__ = ["ClusterCallback", "JobCallback", "Notifier", "is_callback"]

JobCallback = Callable[[DispyJob[Any]], object]
ClusterCallback = Callable[[int, DispyNode | None, DispyJob[Any] | None], object]

_queue: SimpleQueue[tuple[Notifier, Callable[[], object]]] = SimpleQueue()
_thread: threading.Thread | None = None
_starting = threading.Lock()


def _ensure_thread() -> None:
    global _thread
    with _starting:
        if _thread is None:
            _thread = threading.Thread(target=_work, name="dispy_trio callbacks", daemon=True)
            _thread.start()


def _begin_anew() -> None:
    """A forked child has neither the thread nor any use for what was to be told there."""
    global _queue, _thread, _starting
    _queue, _thread, _starting = SimpleQueue(), None, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


def _work() -> None:
    while True:
        notifier, call = _queue.get()
        try:
            call()
        except BaseException:  # noqa: ASYNC103 - Trio does not run on this thread
            # SystemExit and KeyboardInterrupt, too, would end this thread alone, and nobody would be
            # told of anything any more.
            notifier.log.exception("a status callback failed")
        finally:
            # What the call holds on to is gone before whoever waits for it goes on.
            del call
            notifier.call_returned()
            del notifier


def is_callback() -> bool:
    """Is this the thread of the callbacks, on which nobody can wait for others?"""
    return threading.current_thread() is _thread


@define(eq=False)
class Notifier:
    """The callbacks of one cluster."""

    job_status: JobCallback | None
    cluster_status: ClusterCallback | None
    find_node: Callable[[str], DispyNode]
    drained: threading.Condition
    """Guards the counts, and is told when as many as were awaited have returned."""
    log: DispyLogger = log
    """Of the cluster."""
    queued: int = 0
    """Calls that there were and are to be."""
    returned: int = 0
    _awaited: int = sys.maxsize
    _running: set[int] = field(factory=set)
    """Numbers of the jobs that were told of as running."""
    _initialized: set[str] = field(factory=set)
    """Nodes that were told of as initialized."""

    def __attrs_post_init__(self) -> None:
        _ensure_thread()

    # --- jobs ----------------------------------------------------------------------------------
    def created(self, job: SubmittedJob[Any]) -> None:
        self._tell_cluster(JobStatus.Created, None, snapshot(job, JobStatus.Created))

    def started(self, jobs: Sequence[SubmittedJob[Any]]) -> None:
        if self.cluster_status is None:
            return
        for job in jobs:
            if job.number not in self._running:
                self._running.add(job.number)
                self._tell_cluster(
                    JobStatus.Running, job.node_key, snapshot(job, JobStatus.Running)
                )

    def provisional(self, job: SubmittedJob[Any]) -> None:
        self.started([job])
        self._tell(JobStatus.ProvisionalResult, job)

    def requeued(self, node: str, jobs: Sequence[SubmittedJob[Any]]) -> None:
        """Lost with their node, and to be run elsewhere."""
        for job in jobs:
            self._running.discard(job.number)
            self._tell_cluster(JobStatus.Abandoned, node, snapshot(job, JobStatus.Abandoned))

    def ended(self, jobs: Sequence[SubmittedJob[Any]]) -> None:
        for job in jobs:
            if has_run(job):
                # It was too short to be told of while it ran.
                self.started([job])
            self._running.discard(job.number)
            self._tell(job.state, job)

    def _tell(self, status: JobStatus, job: SubmittedJob[Any]) -> None:
        taken = snapshot(job, status)
        if self.job_status is not None:
            self._put(lambda: self._call_job_status(taken, job))
        self._tell_cluster(status, job.node_key, taken, job)

    def _call_job_status(self, taken: SubmittedJob[Any], job: SubmittedJob[Any]) -> None:
        assert self.job_status is not None
        _share_result(taken, job)
        self.job_status(taken)

    # --- nodes ---------------------------------------------------------------------------------
    def node_initialized(self, key: str) -> None:
        self._initialized.add(key)
        self._tell_cluster(DispyNode.Initialized, key, None)

    def node_closed(self, key: str, *, failed: bool) -> None:
        if key in self._initialized or failed:
            self._initialized.discard(key)
            self._tell_cluster(DispyNode.Closed, key, None)

    def node_status(self, key: str) -> None:
        self._tell_cluster(DispyNode.AvailInfo, key, None)

    # --- both ----------------------------------------------------------------------------------
    def _tell_cluster(
        self,
        status: int,
        key: str | None,
        taken: SubmittedJob[Any] | None,
        job: SubmittedJob[Any] | None = None,
    ) -> None:
        call = self.cluster_status
        if call is None:
            return
        node = None if key is None else self.find_node(key)

        def tell() -> None:
            if job is not None and taken is not None:
                _share_result(taken, job)
            call(status, node, taken)

        self._put(tell)

    def _put(self, call: Callable[[], object]) -> None:
        with self.drained:
            self.queued += 1
            _queue.put((self, call))

    def call_returned(self) -> None:
        """Count one that is over."""
        with self.drained:
            self.returned += 1
            if self.returned >= self._awaited:
                self._awaited = sys.maxsize
                self.drained.notify_all()

    def have_returned(self, count: int) -> bool:
        """Have the first so many calls returned? If not, `drained` is told when they have.

        Called with `drained` held.
        """
        if self.returned >= count or is_callback():
            return True
        self._awaited = min(self._awaited, count)
        return False


def _share_result(taken: Any, job: SubmittedJob[Any]) -> None:
    """Unpickle the result once for both."""
    if taken.state is JobStatus.Finished:
        try:
            job.result  # noqa: B018 - reading it unpickles it
        except ResultUnpicklable:
            return  # Whoever reads it is told.
        taken.take_result_of(job)
