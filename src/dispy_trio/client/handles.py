"""A Trio program's hold on one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import trio
from attrs import define, field

from dispy_trio.client.jobs import UserJob
from dispy_trio.client.stopping import stop, why
from dispy_trio.core.jobs import ENDED
from dispy_trio.models import JobStatus

if TYPE_CHECKING:
    from dispy_trio.client.cluster import Cluster

__all__ = ["JobHandle"]

T = TypeVar("T")


@define(eq=False, repr=False)
class JobHandle(UserJob[T]):
    """A job of a Trio program."""

    _name: ClassVar[str] = "JobHandle"

    _cluster: Cluster[..., Any] | None = field(default=None, repr=False)

    def __dir__(self) -> list[str]:
        """What it is to its users; it is also the record of the scheduling core."""
        return [*_SHOWN, *(name for name in super().__dir__() if name.startswith("__"))]

    async def wait_ended(self) -> None:
        """Wait until the job has its final status; cancelling the wait leaves the job alone.

        Raises:
            RuntimeError: this is another thread than the cluster's.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.state in ENDED:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if self._cluster is not None:
            self._cluster._check_thread("job.wait", "run")
        event = trio.Event()

        def wake(_job: object) -> None:
            event.set()

        if self.add_waiter(wake):
            try:
                await event.wait()
            except BaseException:
                self.remove_waiter(wake)
                raise

    async def wait(self) -> T:
        """Wait for the job and return its result.

        Cancelling the wait stops the job, unless somebody else waits for it, and lasts until the job
        has ended: it is interrupted, and killed 2 seconds after its grace. A job whose node does not
        answer is waited for 3 seconds longer, and ends as Abandoned.

        Raises:
            JobCancelled: it was cancelled; the text has the reason that was given.
            JobTerminated: its process ended under it; the text says how, and on which node.
            JobAbandoned: its node was lost.
            ResultUnpicklable: the result can't be unpickled here.
            Exception: whatever the job raised, with the remote traceback as its cause.
        """
        try:
            await self.wait_ended()
        except (trio.Cancelled, KeyboardInterrupt) as exc:
            if self._cluster is not None and not self.ended and not self.waiters:
                await stop(self._cluster._engine, self, why(exc))  # noqa: ASYNC102 - bounded there
            raise
        if self.state is not JobStatus.Finished:
            raise self.reason()
        value: T = self.result  # type: ignore[assignment]  # Finished, so it is a T
        return value

    def cancel(self) -> None:
        """Stop the job, waiting or running. It still ends, by `wait_ended`.

        Raises:
            ClusterClosed: this is a fork of the process that made it.
            RuntimeError: this is another thread than the cluster's.
        """
        if self._cluster is not None:
            self._cluster.cancel(self)


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
