"""What happens to the jobs and nodes of a Trio program's cluster, as a stream to iterate over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import trio
from attrs import field, frozen

from dispy_trio.client.handles import JobHandle
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import DispyNode
from dispy_trio.client.telling import Teller
from dispy_trio.compute.packaging import unpack_result
from dispy_trio.core.jobs import has_run

__all__ = [
    "ClusterEvent",
    "ClusterEvents",
    "EventsMissed",
    "JobEnded",
    "JobProvisional",
    "JobRequeued",
    "JobStarted",
    "NodeLost",
    "NodeUsable",
]


@frozen
class JobStarted:
    """A job runs. Of one that is over soon it is told together with its end."""

    job: JobHandle[Any]


@frozen
class JobProvisional:
    """A job has sent a provisional result."""

    job: JobHandle[Any]
    _pickled: Any = field(repr=False)

    @property
    def result(self) -> Any:
        """What it has sent.

        Raises:
            ResultUnpicklable: that can't be unpickled here.
        """
        return unpack_result(self._pickled)


@frozen
class JobRequeued:
    """A job was lost with its node, and waits for another one."""

    job: JobHandle[Any]
    node: DispyNode


@frozen
class JobEnded:
    """A job has its final status."""

    job: JobHandle[Any]


@frozen
class NodeUsable:
    """A node is ready to run jobs."""

    node: DispyNode


@frozen
class NodeLost:
    """A node runs no jobs of this cluster any more, or can't run any."""

    node: DispyNode


@frozen
class EventsMissed:
    """Here so many events are missing: they came faster than they were read."""

    count: int


ClusterEvent = (
    JobStarted | JobProvisional | JobRequeued | JobEnded | NodeUsable | NodeLost | EventsMissed
)


class ClusterEvents(Listener):
    """The events of a cluster from the moment on at which this block is entered.

    Those that were not read yet are kept up to a number; when there are more, as many as are left
    out then are told in their place. The iteration ends with the cluster.
    """

    def __init__(self, teller: Teller, find_node: Callable[[str], DispyNode], size: int) -> None:
        self._teller = teller
        self._find_node = find_node
        self._size = size
        self._waiting: deque[ClusterEvent] = deque()
        self._missed = 0
        self._told = trio.Event()
        self._is_over = False
        self._running: set[int] = set()
        """Numbers of the jobs that were told of as running."""

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._is_over = self._teller.is_over
        self._teller.add(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ClusterEvent:
        await trio.lowlevel.checkpoint()
        while not self._waiting and not self._missed and not self._is_over:
            await self._told.wait()
        if self._waiting:
            return self._waiting.popleft()
        if self._missed:
            return self._take_missed()
        raise StopAsyncIteration

    def _take_missed(self) -> EventsMissed:
        count, self._missed = self._missed, 0
        return EventsMissed(count)

    def _put(self, event: ClusterEvent) -> None:
        if len(self._waiting) >= self._size:
            self._missed += 1
            return
        if self._missed:
            self._waiting.append(self._take_missed())
        self._waiting.append(event)
        self._wake()

    def _wake(self) -> None:
        self._told.set()
        self._told = trio.Event()

    # --- what the engine tells -------------------------------------------------------------------
    def started(self, jobs: Sequence[Any]) -> None:
        for job in jobs:
            if job.number not in self._running:
                self._running.add(job.number)
                self._put(JobStarted(job))

    def provisional(self, job: Any) -> None:
        self.started([job])
        self._put(JobProvisional(job, job.extras.provisional))

    def requeued(self, node: str, jobs: Sequence[Any]) -> None:
        for job in jobs:
            self._running.discard(job.number)
            self._put(JobRequeued(job, self._find_node(node)))

    def ended(self, jobs: Sequence[Any], again: bool) -> None:
        for job in jobs:
            if has_run(job):
                self.started([job])
            self._running.discard(job.number)
            self._put(JobEnded(job))

    def node_usable(self, key: str) -> None:
        self._put(NodeUsable(self._find_node(key)))

    def node_unusable(self, key: str, *, failed: bool) -> None:
        self._put(NodeLost(self._find_node(key)))

    def over(self, failure: Exception | None) -> None:
        self._is_over = True
        self._teller.remove(self)
        self._wake()
