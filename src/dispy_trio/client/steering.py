"""What Trio programs do with the nodes of their cluster, and see of them.

As of `JobCluster`, but for what goes wrong: that is raised, not logged and told as -1.
"""

from __future__ import annotations

import os
import time
from typing import Any

import trio

from dispy_trio.client.engine import Engine
from dispy_trio.client.events import ClusterEvents
from dispy_trio.client.nodes import (
    ClusterStatus,
    DispyNode,
    NodeAllocate,
    choose_nodes,
    to_allocation,
)
from dispy_trio.client.tables import status_lines
from dispy_trio.client.telling import Teller
from dispy_trio.core import events as e

__all__ = ["Steering"]

EVENTS_KEPT = 10_000


class Steering:
    """The part of a Trio program's cluster that is about its nodes."""

    __slots__ = ()

    _engine: Engine
    _teller: Teller
    _start_time: float

    def _check_process(self) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Of the computation."""
        return self._engine.work.opening.name

    async def _key_of(self, node: Any, *, awaited: bool = False) -> str:
        """The key of the one node that is meant.

        Args:
            node: a `DispyNode`, a name or an address.
            awaited: it may be one that has not answered yet.

        Raises:
            ValueError: there is none, or several are.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        engine = self._engine
        wanted = node if isinstance(node, DispyNode) else to_allocation(node)
        found = engine.find_nodes(wanted)
        if not found and isinstance(wanted, NodeAllocate) and not wanted.is_pattern:
            # A name server may take its time. What it says is remembered by the object.
            await trio.to_thread.run_sync(lambda: wanted.ip_addr, abandon_on_cancel=True)
            found = engine.find_nodes(wanted)
        if not awaited:
            found = [key for key in found if engine.was_met(key)]
        if len(found) > 1:
            raise ValueError(f"{node!r} may be any of {', '.join(found)}: name it with its port")
        if not found:
            raise ValueError(f"{node!r} is no node of this cluster")
        return found[0]

    async def _node_for_jobs(self, node: Any) -> str:
        """The key of the node that jobs may be pinned to.

        Raises:
            ValueError: there is none.
        """
        key = await self._key_of(node, awaited=True)
        if not self._engine.may_run(key):
            raise ValueError(f"node {key} runs no jobs of cluster {self.name}")
        return key

    def _manage(self, event: e.NodeDeallocated | e.NodeRetired | e.NodeCpusSet) -> None:
        self._engine.manage(event)
        self._teller.slots_changed()

    async def discover_nodes(self, nodes: Any) -> None:
        """Look for nodes at these addresses too.

        Which of them are used is decided by the cluster's ``nodes``, and `allocate_node`.

        Raises:
            TypeError, ValueError: one can't be meant.
        """
        self._check_open()
        choice = await trio.to_thread.run_sync(choose_nodes, nodes, abandon_on_cancel=True)
        self._engine.discover(choice.addresses)

    async def allocate_node(self, node: Any) -> None:
        """Use a node, or several, also ones that were deallocated or closed.

        Args:
            node: as an element of the cluster's ``nodes``, or a list of such.

        Raises:
            TypeError, ValueError: it names none.
        """
        self._check_open()
        several = node if isinstance(node, list) else [node]
        if not several:
            raise ValueError("allocate_node was given no node")
        choice = await trio.to_thread.run_sync(choose_nodes, several, abandon_on_cancel=True)
        self._engine.allocate(choice)
        self._teller.slots_changed()

    async def deallocate_node(self, node: Any) -> None:
        """Give a node no new jobs; what it runs goes on, and what setup made stays.

        Raises:
            ValueError: there is no such node.
        """
        self._manage(e.NodeDeallocated(await self._key_of(node)))

    async def close_node(self, node: Any, terminate_pending: bool = False) -> None:
        """End the computation on a node: its jobs end, then cleanup runs there.

        Args:
            node: a `DispyNode`, a name or an address.
            terminate_pending: stop its jobs.

        Raises:
            ValueError: there is no such node.
        """
        self._manage(e.NodeRetired(await self._key_of(node), 1, terminate_pending, False))

    async def resetup_node(self, node: Any, terminate_pending: bool = False) -> None:
        """As `close_node`, and then set it up anew, with what `NodeAllocate.allocate` says now."""
        self._manage(e.NodeRetired(await self._key_of(node), 1, terminate_pending, True))

    async def node_jobs(self, node: Any) -> list[Any]:
        """The jobs that a node has and that have not ended.

        Raises:
            ValueError: there is no such node.
        """
        return self._engine.jobs_on(await self._key_of(node))

    async def set_node_cpus(self, node: Any, cpus: int) -> int:
        """Use that many slots of a node; negative leaves that many free.

        Returns:
            The slots that are used now.

        Raises:
            TypeError: `cpus` is not an int.
            ValueError: there is no such node.
        """
        if not isinstance(cpus, int) or isinstance(cpus, bool):
            raise TypeError(f"cpus is an int, not {type(cpus).__name__}")
        key = await self._key_of(node)
        self._manage(e.NodeCpusSet(key, 1, cpus))
        return self._engine.node(key).cpus

    async def send_file(self, path: str | os.PathLike[str], node: Any) -> None:
        """Put a file into the computation's directory on a node.

        It goes to the same place relative to the current directory, or right into the computation's
        directory when it lies elsewhere.

        Raises:
            ValueError: `path` is not a file, or there is no such node.
            DispyError: the node did not take it, or is not there.
            OSError: it can't be read here.
        """
        from dispy_trio.compute.depends import to_job_file

        file = to_job_file(path, "path")
        await self._engine.put_files(await self._key_of(node), [file], 0)

    # --- what is seen ----------------------------------------------------------------------------
    def events(self, size: int = EVENTS_KEPT) -> ClusterEvents:
        """What happens to jobs and nodes, as long as the block lasts.

        >>> async with cluster.events() as events:
        ...     async for event in events:
        ...         print(event)

        Args:
            size: events that are kept for whoever has not read them yet. Those that come when there
                are so many are left out, and `EventsMissed` tells how many, in their place.

        Raises:
            ValueError: `size` is less than 1.
        """
        if size < 1:
            raise ValueError(f"size is {size}; it has to be at least 1")
        return ClusterEvents(self._teller, self._engine.node, size)

    def status(self) -> ClusterStatus:
        """The nodes, and how many jobs have not ended."""
        self._check_process()
        return self._engine.status()

    def print_status(self, wall_time: float | None = None) -> None:
        """Print a table of the nodes and what they did.

        Args:
            wall_time: seconds to compare the nodes' time with; since the start when None.
        """
        wall = wall_time if wall_time is not None else time.time() - self._start_time
        for line in status_lines(self.status(), wall):
            print(line)

    stats = print_status
