"""Jobs that programs make themselves: records that no cluster runs, and that hold what is set.

Programs that can also do without a cluster make them, so that what they do with a job that has ended
they can do with one that never was anywhere: ``job = DispyJob(None, args, {})``, and then
``job.result = compute(*args)`` and ``job_status(job)``.
"""

from __future__ import annotations

import html
import reprlib
import threading
from typing import Any

from dispy_trio.client.jobs import DispyJob

__all__ = ["OwnJob", "make_own"]


class _Settable:
    """An attribute that holds what the program sets it to; None before."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, job: Any, owner: type | None = None) -> Any:
        return self if job is None else job.reply.get(self._name)

    def __set__(self, job: Any, value: Any) -> None:
        job.reply[self._name] = value


class OwnJob(DispyJob[Any]):
    """What ``DispyJob(...)`` makes; `reply` is a dict of its attributes."""

    __slots__ = ()

    status: Any = _Settable()
    result: Any = _Settable()
    stdout: Any = _Settable()
    stderr: Any = _Settable()
    exception: Any = _Settable()
    submit_time: Any = _Settable()
    start_time: Any = _Settable()
    end_time: Any = _Settable()
    ip_addr: Any = _Settable()
    host: Any = ip_addr
    finish: Any = _Settable()

    @property
    def ended(self) -> bool:
        """Has the program set `finish`?"""
        return bool(self.finish.is_set())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the program has set `finish`; False when `timeout` seconds have passed."""
        return bool(self.finish.wait(timeout))

    def __call__(self, clear: bool = False) -> Any:
        """Wait until the program has set `finish`, and return `result`."""
        self.wait()
        if clear:
            self.finish.clear()
        return self.result

    def __repr__(self) -> str:
        return f"<DispyJob {reprlib.repr(self.id)} of the program's own>"

    def _repr_html_(self) -> str:
        return html.escape(repr(self))


def make_own(job: DispyJob[Any], submit_time: float) -> None:
    """Make a job that was just made one of the program's own.

    In this way, and not by a ``__new__``, as all jobs of clusters would have to pass that.
    """
    job.__class__ = OwnJob
    created = DispyJob.Created
    job.reply = {"status": created, "submit_time": submit_time, "finish": threading.Event()}
