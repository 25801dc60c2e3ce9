"""Runs tasks as jobs of a dispy_trio cluster, with the blocks in the keeping of its nodes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import trio
from attrs import define, field, frozen

import dispy_trio
from dispy_mapreduce.errors import EngineMisused, TaskLost
from dispy_mapreduce.tasks import Recipe, Task, TaskDone, run_task
from dispy_trio import job as node

__all__ = ["AsyncClusterEngine", "ClusterEngine", "NodeStore", "TaskRunner", "open_cluster_engine"]

AsyncFactory = Callable[["TaskRunner"], AbstractAsyncContextManager[Any]]

_directory = os.getcwd()
"""In a worker, where jobs may write: it is imported before the user's code can go elsewhere."""


@frozen
class NodeStore:
    """Blocks in the keeping of the node that the task runs on."""

    def path_for(self, name: str) -> str:
        """A path in the directory of the computation."""
        return os.path.join(_directory, name)

    def keep(self, path: str) -> node.FileRef:
        """Give it to the node."""
        return node.keep_file(path)

    def find(self, reference: node.FileRef) -> str:
        """Here, or fetched from the node that has it.

        Raises:
            OSError: it is not to be had.
        """
        return node.fetch_file(reference)


@frozen
class TaskRunner:
    """The computation: what each job calls."""

    recipe: Recipe

    def __call__(self, task: Task) -> TaskDone:
        return run_task(task, self.recipe, NodeStore())

    @property
    def __name__(self) -> str:
        mapper = getattr(self.recipe.mapper, "function", self.recipe.mapper)
        return f"map_reduce {getattr(mapper, '__name__', type(mapper).__name__)}"


@define(eq=False)
class ClusterEngine:
    """A cluster of its own for each run.

    `factory` makes one of a computation; by default it is a `dispy_trio.JobCluster` on `nodes`, and
    without those on an embedded node with all processors of this machine.
    """

    nodes: Sequence[str] | None = None
    factory: Callable[[TaskRunner], Any] | None = None
    _cluster: Any = None
    _pending: list[Any] = field(factory=list)

    @property
    def slots(self) -> int:
        """Processors of the nodes that are connected; a guess until one is."""
        return _count_slots(self._cluster, self.nodes)

    @property
    def place(self) -> str:
        """Where tasks run, for people."""
        return str(self._cluster.status().place)

    def open(self, recipe: Recipe) -> None:
        """Start the cluster."""
        if self._cluster is not None:
            raise EngineMisused("this engine runs another map_reduce")
        runner = TaskRunner(recipe)
        if self.factory is not None:
            self._cluster = self.factory(runner)
        else:
            # Tasks are functions of their arguments: a lost node's may run again elsewhere.
            self._cluster = dispy_trio.JobCluster(
                runner, nodes=self.nodes, reentrant=True, name=runner.__name__
            )

    def submit(self, task: Task) -> None:
        """Queue a job."""
        self._pending.append(self._cluster.submit(task))

    def next_done(self) -> TaskDone:
        """Wait for whichever job ends first.

        Raises:
            TaskLost: it did not return.
        """
        ended = next(iter(self._cluster.as_completed(self._pending)))
        self._pending.remove(ended)
        return _answer_of(ended)

    def close(self, *, terminate: bool) -> None:
        """End the cluster, and with it everything that is left on its nodes."""
        if self._cluster is not None:
            self._cluster.close(terminate=terminate)
        self._cluster = None
        self._pending.clear()


@define(eq=False)
class AsyncClusterEngine:
    """The same on a cluster that a Trio program has opened; see `open_cluster_engine`."""

    _cluster: Any
    _nodes: Sequence[str] | None
    _nursery: trio.Nursery
    _send: trio.MemorySendChannel[Any]
    _receive: trio.MemoryReceiveChannel[Any]

    @property
    def slots(self) -> int:
        """Processors of the nodes that are connected; a guess until one is."""
        return _count_slots(self._cluster, self._nodes)

    @property
    def place(self) -> str:
        """Where tasks run, for people."""
        return str(self._cluster.status().place)

    def submit(self, task: Task) -> None:
        """Queue a job."""
        self._nursery.start_soon(self._attend, self._cluster.submit(task))

    async def _attend(self, handle: Any) -> None:
        await handle.wait_ended()
        self._send.send_nowait(handle)

    async def next_done(self) -> TaskDone:
        """Wait for whichever job ends first.

        Raises:
            TaskLost: it did not return.
        """
        return _answer_of(await self._receive.receive())


@asynccontextmanager
async def open_cluster_engine(
    recipe: Recipe, nodes: Sequence[str] | None, factory: AsyncFactory | None
) -> AsyncIterator[AsyncClusterEngine]:
    """A cluster for one run. Leaving the block by an exception stops everything there."""
    runner = TaskRunner(recipe)
    if factory is not None:
        opened = factory(runner)
    else:
        opened = dispy_trio.open_cluster(runner, nodes, reentrant=True, name=runner.__name__)
    # Bounded by the walk, which submits no more than it has room for.
    send, receive = trio.open_memory_channel[Any](float("inf"))
    async with opened as cluster, trio.open_nursery() as nursery:
        yield AsyncClusterEngine(cluster, nodes, nursery, send, receive)
        nursery.cancel_scope.cancel()


def _count_slots(cluster: Any, nodes: Sequence[str] | None) -> int:
    known = sum(info.cpus for info in cluster.status().nodes)
    return known or len(os.sched_getaffinity(0)) * max(1, len(nodes or ()))


def _answer_of(ended: Any) -> TaskDone:
    if ended.status != dispy_trio.DispyJob.Finished:
        why = ended.exception or f"it ended {ended.status.name}"
        raise TaskLost(f"a task was lost on node {ended.ip_addr}: {why}")
    return cast("TaskDone", ended.result)
