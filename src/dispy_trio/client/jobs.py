"""A user's hold on one job: the one record that the scheduling core works on, with its result.

Results stay pickled until somebody looks at them. This module does without Trio, so that a
blocking program has its embedded node starting before Trio is imported.
"""

from __future__ import annotations

import _thread
import itertools
import os
import threading
import time
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from attrs import define, field, fields

from dispy_trio.client import forks
from dispy_trio.client.crashes import crash_report, without_report
from dispy_trio.client.unseen import FAILED, look_at
from dispy_trio.compute.packaging import unpack_exception, unpack_result
from dispy_trio.core.jobs import ENDED
from dispy_trio.errors import JobAbandoned, JobCancelled, JobTerminated
from dispy_trio.models import Job, JobStatus, Outcome

__all__ = [
    "DispyJob",
    "ProgramJob",
    "SubmittedJob",
    "UserJob",
    "Waiter",
    "next_job_id",
    "snapshot",
]

T = TypeVar("T")

Waiter = Callable[["UserJob[Any]"], None]
"""Called once, on the thread that runs the cluster, when the job has ended."""

next_job_id = itertools.count(1).__next__
"""Ids count up through a whole program, as dispy's do."""

TAIL = 16 * 1024
TAIL_LINES = 50
"""How much of stderr the error about a job that ended without a result tells, at most."""

_UNREAD: Any = object()
_FINISHED = JobStatus.Finished
"""By a name of ours, as each result needs it: Python 3.11 calls a function for a member of an Enum."""
_adding_waiter = threading.Lock()


def _renew_lock() -> None:
    """Somebody may have held it at the moment of the fork."""
    global _adding_waiter
    _adding_waiter = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _read_only(getter: Callable[[Any], Any]) -> property:
    """A property that says, to whoever sets it, what can be set."""
    name = getter.__name__

    def refuse(_job: object, _value: object) -> None:
        raise AttributeError(
            f"job.{name} is read-only: of a job only id can be set, to anything, and result, stdout"
            " and stderr to None, which drops them"
        )

    return property(getter, refuse, None, getter.__doc__)


if TYPE_CHECKING:
    read_only = property  # Type checkers know that one, and that nobody may set it.
else:
    read_only = _read_only


@define(eq=False, repr=False)
class UserJob(Job, Generic[T]):
    """What the handles of blocking and of Trio programs have in common."""

    id: Any = None
    """Counts up from 1 in a program; programs may set it to anything."""
    submitted_at: float = 0.0
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

    # What the record calls otherwise, so that the library sets plain slots, and users nothing.
    @read_only
    def status(self) -> JobStatus:
        """Where the job is in its life; dispy's number of it."""
        state = self.state
        if state in FAILED:
            look_at(self)
        return state

    @read_only
    def submit_time(self) -> float:
        """Seconds since the epoch."""
        return self.submitted_at

    @read_only
    def start_time(self) -> float | None:
        """Seconds since the epoch; None until it has started."""
        return self.started_at

    @read_only
    def end_time(self) -> float | None:
        """Seconds since the epoch; None until it has ended."""
        return self.ended_at

    @read_only
    def node(self) -> str | None:
        """Address and port of the node it was sent to last."""
        return self.node_key

    @read_only
    def ended(self) -> bool:
        """Has the job its final status?"""
        return self.state in ENDED

    @property
    def result(self) -> T | None:
        """What the job returned; None until it has finished, and when it did not return.

        While its status is ProvisionalResult, what it has sent last. Of a program, its exit status.
        Setting it to None drops it, and gives its memory back.

        Raises:
            ResultUnpicklable: the result can't be unpickled in this program.
        """
        state = self.state
        if state is not _FINISHED:
            # Of a job that failed this tells nothing, and is no look at it.
            pickled = None
            if state is JobStatus.ProvisionalResult and self.extras is not None:
                pickled = self.extras.provisional
            provisional: T | None = None if pickled is None else unpack_result(pickled)
            return provisional
        if self._value is _UNREAD:
            reply = self.reply
            # Another thread may be reading it too, or drop it: it sets the one before it clears the
            # other.
            if reply is not None:
                unpacked = unpack_result(reply)
                if self.reply is reply:
                    self._value = unpacked
                    self.reply = None
        value: T | None = self._value
        return value

    @result.setter
    def result(self, value: None) -> None:
        _check_dropped("result", value)
        self._drop_result()

    def _drop_result(self) -> None:
        if self.state is JobStatus.Finished:
            self._value = None
            self.reply = None
            self._keep_written(None)
        if self.extras is not None:
            self.extras.provisional = None

    @read_only
    def progress(self) -> tuple[float, str] | None:
        """What the job told with `job.progress` last: a fraction of 1, and a text."""
        return None if self.extras is None else self.extras.progress

    @read_only
    def exception(self) -> str | None:
        """Why the job did not return: the traceback of what it raised there, or how it ended, with
        the calls it was in when its process crashed.

        None for jobs that finished, are not over, or were cancelled.
        """
        if self.state not in FAILED:
            return None
        look_at(self)
        if self.outcome == Outcome.RAISED:
            return unpack_exception(self.reply)[1]
        if self.outcome in (Outcome.CANCELLED, Outcome.INTERRUPTED) or self.reply is None:
            return None
        return self._told() + self._crash()

    @property
    def stdout(self) -> Any:
        """What the job and its child programs wrote to stdout; None until it has ended.

        Text for functions, bytes for programs, as in dispy. Setting it to None drops it.
        """
        return self._written(0)

    @stdout.setter
    def stdout(self, value: None) -> None:
        _check_dropped("stdout", value)
        self._drop_written(0)

    @property
    def stderr(self) -> Any:
        """What the job and its child programs wrote to stderr; None until it has ended.

        Text for functions, bytes for programs, as in dispy. Setting it to None drops it.
        """
        return self._written(1)

    @stderr.setter
    def stderr(self, value: None) -> None:
        _check_dropped("stderr", value)
        self._drop_written(1)

    def _written(self, which: int) -> str | bytes | None:
        if self.output is None:
            return "" if self.state in ENDED else None
        written = self.output[which]
        return None if written is None else str(written, errors="backslashreplace")

    def _drop_written(self, which: int) -> None:
        if self.state in ENDED:
            self.output = self.output or (b"", b"")
            self._keep_written(which)

    def _keep_written(self, dropped: int | None) -> None:
        """Keep the output, but for that which is dropped, in memory of its own."""
        if self.output is not None:
            stdout, stderr = (
                None if written is None or which == dropped else bytes(written)
                for which, written in enumerate(self.output)
            )
            self.output = stdout, stderr

    def _told(self) -> str:
        """The text that came in the place of a result."""
        reply = self.reply
        if not isinstance(reply, bytes):
            reply = b"".join(reply or ())
        return reply.decode(errors="replace")

    def _crash(self) -> str:
        """The calls it was in when its process crashed, if it did."""
        if self.outcome != Outcome.DIED or self.output is None:
            return ""
        report = crash_report(self.output[1] or b"")
        return f"\n{report}" if report else ""

    @read_only
    def ip_addr(self) -> str | None:
        """IP address of the node it was sent to."""
        return None if self.node_key is None else self.node_key.rpartition(":")[0].strip("[]")

    @read_only
    def host(self) -> str | None:
        """The same; dispy's manual calls it so."""
        return self.ip_addr

    def reason(self) -> BaseException:
        """The exception that tells why the job, ended other than Finished, did so."""
        look_at(self)
        where = f"job {self.id!r} on {self.node_key or 'no node'}"
        if self.outcome == Outcome.RAISED:
            return unpack_exception(self.reply)[0]
        if self.state is JobStatus.Abandoned:
            return JobAbandoned(f"{where}: {self.exception}")
        if self.outcome == Outcome.INTERRUPTED or self.state is JobStatus.Cancelled:
            return JobCancelled(f"{where}: {self._told() or 'cancelled'}")
        written = b"" if self.output is None else self.output[1] or b""
        tail = _last_lines(without_report(written))
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
        return self.state not in ENDED

    def remove_waiter(self, waiter: Waiter) -> None:
        """Who waits no more is not to be called."""
        with _adding_waiter:
            if self.waiters is not None and waiter in self.waiters:
                self.waiters.remove(waiter)

    def _check_process(self) -> None:
        if forks.is_inherited(self.process) and self.state not in ENDED:
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


@define(eq=False, repr=False, init=False)
class DispyJob(UserJob[T]):
    """A job of a blocking `JobCluster`; the attributes and numbers are dispy's.

    Clusters make jobs, as `SubmittedJob`. One that a program makes itself is not run by anybody, and
    all its attributes can be set.
    """

    lead: Callable[[DispyJob[Any]], None] | None = field(default=None, repr=False)
    """Set for a job that was sent alone: whoever waits for it may read for its result."""
    _finish: threading.Event | None = field(default=None, repr=False, init=False)

    def __init__(self, job_id: Any, args: Any, kwargs: Any) -> None:
        """Make a job that no cluster runs, with dispy's parameters.

        Args:
            job_id: its id; the next number when there is none.
            args: what it would be called with; no more than kept.
            kwargs: likewise.
        """
        from dispy_trio.client.own_jobs import make_own

        UserJob.__init__(self, 0, (args, kwargs), id=job_id or next_job_id())
        self.lead = self._finish = None
        make_own(self, time.time())

    @read_only
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
        if self.state in ENDED:
            return True
        if self.lead is not None:
            lead, self.lead = self.lead, None
            lead(self)
            if self.state in ENDED:
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
            clear: reset `finish`; it is set again if the job ends again, as one that was abandoned
                may.

        Raises:
            ResultUnpicklable: the result can't be unpickled in this program.
        """
        if self.state not in ENDED:
            self.wait()
        if clear:
            self._finish = event = self._finish or threading.Event()
            event.clear()
            if self.state is JobStatus.Abandoned:
                self.add_waiter(lambda _job: event.set())
        return self.result


@define(eq=False, repr=False)
class SubmittedJob(DispyJob[T]):
    """One that was submitted to a cluster."""


@define(eq=False, repr=False)
class ProgramJob(SubmittedJob[T]):
    """A job of a computation that is a program: what it writes is bytes."""

    def _written(self, which: int) -> str | bytes | None:
        if self.output is None:
            return b"" if self.state in ENDED else None
        written = self.output[which]
        return None if written is None else bytes(written)


def _check_dropped(name: str, value: object) -> None:
    if value is not None:
        raise AttributeError(f"job.{name} can be set to None alone, which drops what the job gave")


def _last_lines(written: bytes | memoryview) -> str:
    lines = bytes(written[-TAIL:]).splitlines(keepends=True)[-TAIL_LINES:]
    return b"".join(lines).decode(errors="backslashreplace").rstrip()


class _Snapshot(SubmittedJob[Any]):
    """A job as it was at some moment, for callbacks; only its id is what it is now.

    In dispy it is the job itself: what is dropped here is dropped there, too.
    """

    _original: SubmittedJob[Any]

    def _get_id(self) -> Any:
        return self._original.id

    def _set_id(self, value: Any) -> None:
        self._original.id = value

    id = property(_get_id, _set_id)

    def take_result_of(self, job: SubmittedJob[Any]) -> None:
        """Have the very object that the job has as its result."""
        self._value = job._value

    def _drop_result(self) -> None:
        extras, those = self.extras, self._original.extras
        if self.state is JobStatus.Finished:
            self._original._drop_result()
        elif extras is not None and those is not None and those.provisional is extras.provisional:
            those.provisional = None
        super()._drop_result()

    def _drop_written(self, which: int) -> None:
        super()._drop_written(which)
        if self.state in ENDED:
            self._original._drop_written(which)


class _ProgramSnapshot(_Snapshot, ProgramJob[Any]):
    pass


_COPIED = [name for name in (a.name for a in fields(SubmittedJob)) if name not in ("id", "waiters")]


def snapshot(job: SubmittedJob[Any], status: JobStatus) -> Any:
    """The job as it is now, with that status; it does not change any more."""
    kind = _ProgramSnapshot if isinstance(job, ProgramJob) else _Snapshot
    taken: Any = kind.__new__(kind)
    taken._original = job
    for name in _COPIED:
        setattr(taken, name, getattr(job, name))
    taken.waiters = None
    taken.state = status
    if job.extras is not None:
        taken.extras = copy(job.extras)
    return taken
