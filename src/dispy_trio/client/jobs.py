"""A user's hold on one job: the one record that the scheduling core works on, with its result.

Results stay pickled until somebody looks at them. This module does without Trio, so that a
blocking program has its embedded node starting before Trio is imported.
"""

from __future__ import annotations

import _thread
import itertools
import os
import threading
from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar, Generic, TypeVar

from attrs import define, field, fields

from dispy_trio.client import forks
from dispy_trio.client.crashes import crash_report, without_report
from dispy_trio.compute.packaging import unpack_exception, unpack_result
from dispy_trio.core.jobs import ENDED
from dispy_trio.errors import JobAbandoned, JobCancelled, JobTerminated
from dispy_trio.models import Job, JobStatus, Outcome

__all__ = ["DispyJob", "ProgramJob", "UserJob", "Waiter", "next_job_id", "snapshot"]

T = TypeVar("T")

Waiter = Callable[["UserJob[Any]"], None]
"""Called once, on the thread that runs the cluster, when the job has ended."""

next_job_id = itertools.count(1).__next__
"""Ids count up through a whole program, as dispy's do."""

TAIL = 16 * 1024
TAIL_LINES = 50
"""How much of stderr the error about a job that ended without a result tells, at most."""

_UNREAD: Any = object()
_adding_waiter = threading.Lock()


def _renew_lock() -> None:
    """Somebody may have held it at the moment of the fork."""
    global _adding_waiter
    _adding_waiter = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@define(eq=False, repr=False)
class UserJob(Job, Generic[T]):
    """What the handles of blocking and of Trio programs have in common."""

    id: Any = None
    """Counts up from 1 in a program; programs may set it to anything."""
    submit_time: float = 0.0
    """Seconds since the epoch."""
    waiters: list[Waiter] | None = field(default=None, repr=False)
    process: int = field(default=0, repr=False)
    """Id of the process that made it."""
    _value: Any = field(default=_UNREAD, repr=False, init=False)

    # dispy programs compare with these.
    Created = JobStatus.Created
    Running = JobStatus.Running
    ProvisionalResult = JobStatus.ProvisionalResult
    Cancelled = JobStatus.Cancelled
    Terminated = JobStatus.Terminated
    Abandoned = JobStatus.Abandoned
    Finished = JobStatus.Finished

    @property
    def ended(self) -> bool:
        """Has the job its final status?"""
        return self.status in ENDED

    @property
    def result(self) -> T | None:
        """What the job returned; None until it has finished, and when it did not return.

        While its status is ProvisionalResult, what it has sent last. Of a program, its exit status.

        Raises:
            ResultUnpicklable: the result can't be unpickled in this program.
        """
        if self.status is JobStatus.ProvisionalResult and self.extras is not None:
            provisional: T = unpack_result(self.extras.provisional)
            return provisional
        if self.status is not JobStatus.Finished:
            return None
        if self._value is _UNREAD:
            reply = self.reply
            # Another thread may be reading it too: it sets the one before it clears the other.
            if reply is not None:
                self._value = unpack_result(reply)
                self.reply = None
        value: T = self._value
        return value

    @property
    def progress(self) -> tuple[float, str] | None:
        """What the job told with `job.progress` last: a fraction of 1, and a text."""
        return None if self.extras is None else self.extras.progress

    @property
    def exception(self) -> str | None:
        """Why the job did not return: the traceback of what it raised there, or how it ended, with
        the calls it was in when its process crashed.

        None for jobs that finished, are not over, or were cancelled.
        """
        if self.status not in (JobStatus.Terminated, JobStatus.Abandoned):
            return None
        if self.outcome == Outcome.RAISED:
            return unpack_exception(self.reply)[1]
        if self.outcome in (Outcome.CANCELLED, Outcome.INTERRUPTED) or self.reply is None:
            return None
        return self._told() + self._crash()

    @property
    def stdout(self) -> Any:
        """What the job and its child programs wrote to stdout; None until it has ended.

        Text for functions, bytes for programs, as in dispy.
        """
        return self._written(0)

    @property
    def stderr(self) -> Any:
        """What the job and its child programs wrote to stderr; None until it has ended.

        Text for functions, bytes for programs, as in dispy.
        """
        return self._written(1)

    def _written(self, which: int) -> str | bytes | None:
        if self.output is None:
            return "" if self.status in ENDED else None
        return str(self.output[which], errors="backslashreplace")

    def _told(self) -> str:
        """The text that came in the place of a result."""
        reply = self.reply
        if not isinstance(reply, bytes):
            reply = b"".join(reply or ())
        return reply.decode(errors="replace")

    def _crash(self) -> str:
        if self.outcome != Outcome.DIED or self.output is None:
            return ""
        report = crash_report(self.output[1])
        return f"\n{report}" if report else ""

    @property
    def ip_addr(self) -> str | None:
        """IP address of the node it was sent to."""
        return None if self.node is None else self.node.rpartition(":")[0].strip("[]")

    @property
    def host(self) -> str | None:
        """The same; dispy's manual calls it so."""
        return self.ip_addr

    def reason(self) -> BaseException:
        """The exception that tells why the job, ended other than Finished, did so."""
        where = f"job {self.id!r} on {self.node or 'no node'}"
        if self.outcome == Outcome.RAISED:
            return unpack_exception(self.reply)[0]
        if self.status is JobStatus.Abandoned:
            return JobAbandoned(f"{where}: {self.exception}")
        if self.outcome == Outcome.INTERRUPTED or self.status is JobStatus.Cancelled:
            return JobCancelled(f"{where}: {self._told() or 'cancelled'}")
        tail = "" if self.output is None else _last_lines(without_report(self.output[1]))
        return JobTerminated(f"{where}: {self.exception}" + (f"\n{tail}" if tail else ""))

    def add_waiter(self, waiter: Waiter) -> bool:
        """Have `waiter` called at the end; False, and nothing done, when it has ended already.

        It may be called although the answer is False, if the end comes at this very moment.

        Raises:
            ClusterClosed: this is a fork of the process that made the job, and will not hear of it.
        """
        self._check_process()
        with _adding_waiter:
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)
        # Look again after adding: whoever ends the job sets the status before it looks for
        # waiters, so one of the two sees the other.
        return self.status not in ENDED

    def _check_process(self) -> None:
        if forks.is_inherited(self.process) and self.status not in ENDED:
            raise forks.made_elsewhere(f"job {self.id!r}", self.process)

    def announce(self) -> None:
        """Call the waiters. Runs on the cluster's thread."""
        if self.waiters is not None:
            with _adding_waiter:
                waiters, self.waiters = self.waiters, None
            for waiter in waiters or ():
                waiter(self)

    def __lt__(self, other: Job) -> bool:
        return self.number < other.number

    _name: ClassVar[str] = "DispyJob"

    def __repr__(self) -> str:
        from dispy_trio.client.showing import job_text

        return job_text(self._name, self)

    def _repr_html_(self) -> str:
        from dispy_trio.client.showing import job_html

        return job_html(self)


@define(eq=False, repr=False)
class DispyJob(UserJob[T]):
    """A job of a blocking `JobCluster`; the attributes and numbers are dispy's."""

    lead: Callable[[DispyJob[Any]], None] | None = field(default=None, repr=False)
    """Set for a job that was sent alone: whoever waits for it may read for its result."""
    _finish: threading.Event | None = field(default=None, repr=False, init=False)

    @property
    def finish(self) -> threading.Event:
        """Set when the job has ended.

        Raises:
            ClusterClosed: this is a fork of the process that made the job, and will not hear of it.
        """
        self._check_process()
        if self._finish is None:
            # An event costs more than the rest of the job: made only for who asks.
            event = threading.Event()
            self._finish = event
            if not self.add_waiter(lambda _job: event.set()):
                event.set()
        return self._finish

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended; False when `timeout` seconds have passed before."""
        if self.status in ENDED:
            return True
        if self.lead is not None:
            lead, self.lead = self.lead, None
            lead(self)
            if self.status in ENDED:
                return True
        lock = _thread.allocate_lock()
        lock.acquire()
        if not self.add_waiter(lambda _job: lock.release()):
            return True
        return lock.acquire(timeout=-1 if timeout is None else timeout)

    def __call__(self, clear: bool = False) -> T | None:
        """Wait until the job has ended and return its result.

        A job that did not return gives None, as in dispy: `status` and `exception` tell why.

        Args:
            clear: reset `finish`, for jobs that are waited for again.

        Raises:
            ResultUnpicklable: the result can't be unpickled in this program.
        """
        if self.status not in ENDED:
            self.wait()
        if clear and self._finish is not None:
            self._finish.clear()
        return self.result


@define(eq=False, repr=False)
class ProgramJob(DispyJob[T]):
    """A job of a computation that is a program: what it writes is bytes."""

    def _written(self, which: int) -> str | bytes | None:
        if self.output is None:
            return b"" if self.status in ENDED else None
        return bytes(self.output[which])


def _last_lines(written: bytes | memoryview) -> str:
    lines = bytes(written[-TAIL:]).splitlines(keepends=True)[-TAIL_LINES:]
    return b"".join(lines).decode(errors="backslashreplace").rstrip()


class _Snapshot:
    """A job as it was at some moment, for callbacks; only its id is what it is now."""

    _original: DispyJob[Any]

    def _get_id(self) -> Any:
        return self._original.id

    def _set_id(self, value: Any) -> None:
        self._original.id = value

    id = property(_get_id, _set_id)

    def take_result_of(self, job: DispyJob[Any]) -> None:
        """Have the very object that the job has as its result."""
        self._value = job._value


class _FunctionSnapshot(_Snapshot, DispyJob[Any]):
    pass


class _ProgramSnapshot(_Snapshot, ProgramJob[Any]):
    pass


_COPIED = [name for name in (a.name for a in fields(DispyJob)) if name not in ("id", "waiters")]


def snapshot(job: DispyJob[Any], status: JobStatus) -> Any:
    """The job as it is now, with that status; it does not change any more."""
    kind = _ProgramSnapshot if isinstance(job, ProgramJob) else _FunctionSnapshot
    taken: Any = kind.__new__(kind)
    taken._original = job
    for name in _COPIED:
        setattr(taken, name, getattr(job, name))
    taken.waiters = None
    taken.status = status
    if job.extras is not None:
        taken.extras = copy(job.extras)
    return taken
