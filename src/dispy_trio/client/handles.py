"""A Trio program's hold on one job."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import trio
from attrs import define, field

from dispy_trio.client import forks
from dispy_trio.client.jobs import UserJob
from dispy_trio.core.jobs import ENDED
from dispy_trio.models import Job, JobStatus

__all__ = ["JobHandle"]

T = TypeVar("T")


@define(eq=False, repr=False)
class JobHandle(UserJob[T]):
    """A job of a Trio program."""

    _name: ClassVar[str] = "JobHandle"

    _cancel: Callable[[Job], None] | None = field(default=None, repr=False)

    def __dir__(self) -> list[str]:
        """What it is to its users; it is also the record of the scheduling core."""
        return [*_SHOWN, *(name for name in super().__dir__() if name.startswith("__"))]

    async def wait_ended(self) -> None:
        """Wait until the job has its final status; cancelling the wait leaves the job alone."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.state in ENDED:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        event = trio.Event()
        if self.add_waiter(lambda _job: event.set()):
            await event.wait()

    async def wait(self) -> T:
        """Wait for the job and return its result. Cancelling the wait stops the job.

        Raises:
            JobCancelled: it was cancelled.
            JobTerminated: its process ended under it; the text says how, and on which node.
            JobAbandoned: its node was lost.
            ResultUnpicklable: the result can't be unpickled here.
            Exception: whatever the job raised, with the remote traceback as its cause.
        """
        try:
            await self.wait_ended()
        except trio.Cancelled:
            self.cancel()
            raise
        if self.state is not JobStatus.Finished:
            raise self.reason()
        value: T = self.result  # type: ignore[assignment]  # Finished, so it is a T
        return value

    def cancel(self) -> None:
        """Stop the job, waiting or running. It still ends, by `wait_ended`.

        Raises:
            ClusterClosed: this is a fork of the process that made it.
        """
        if forks.is_inherited(self.process):
            raise forks.made_elsewhere(f"job {self.id!r}", self.process)
        if self._cancel is not None:
            self._cancel(self)


_SHOWN = [
    "cancel",
    "end_time",
    "ended",
    "exception",
    "host",
    "id",
    "ip_addr",
    "node",
    "progress",
    "reason",
    "result",
    "start_time",
    "status",
    "stderr",
    "stdout",
    "submit_time",
    "wait",
    "wait_ended",
    *(status.name for status in JobStatus),
]
"""The attributes of a `JobHandle`."""
