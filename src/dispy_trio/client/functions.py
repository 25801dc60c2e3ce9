"""A cluster without a computation: it calls any function.

A function goes to the nodes as a file of the computation, once for each content; a call carries its
digest and its arguments. A node that comes later is given all of them before it is used. Where a
function is missing all the same, the worker says so: it is put there, and the call made again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import trio
from attrs import define, field

from dispy_trio.child.functions import DIRECTORY, FunctionMissing
from dispy_trio.client.cluster import Cluster
from dispy_trio.client.engine import Engine
from dispy_trio.client.telling import Teller
from dispy_trio.client.unseen import look_at
from dispy_trio.compute.functions import (
    PackedFunction,
    is_lasting,
    pack_call,
    pack_function,
    to_plain,
)
from dispy_trio.compute.sources import own_sources
from dispy_trio.core.nodes import NodeState
from dispy_trio.errors import ClusterClosed, DispyError
from dispy_trio.models import JobFile

__all__ = ["FunctionCluster"]

T = TypeVar("T")

TRIES = 5
"""How often a call is made again because its node has not got the function."""


@define(eq=False)
class _Known:
    """A function that was called."""

    packed: PackedFunction
    file: JobFile
    there: set[str] = field(factory=set)
    """Nodes that it was put on."""
    under_way: set[str] = field(factory=set)
    changed: trio.Event = field(factory=trio.Event)
    """Set when one of these is over."""
    failure: Exception | None = None
    """Why the last of those that failed did so."""
    _limiter: trio.CapacityLimiter | None = None

    def limiter(self, limit: int) -> trio.CapacityLimiter:
        """Of the calls of this function that have a limit; the last one told holds."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(limit)
        self._limiter.total_tokens = limit
        return self._limiter


@define(eq=False)
class _Functions:
    """Those that a cluster has called, and where they are."""

    _engine: Engine
    _directory: str
    """Of the files, here."""
    _sources: frozenset[str] = field(factory=lambda: frozenset(own_sources().modules))
    """Names of the modules that nodes are sent with the computation."""
    _by_digest: dict[str, _Known] = field(factory=dict)
    _by_object: weakref.WeakKeyDictionary[Any, _Known] = field(factory=weakref.WeakKeyDictionary)

    def know(self, function: Callable[..., Any]) -> _Known:
        """Pack it, if this has not been done."""
        lasts = is_lasting(function)
        if lasts and (known := self._by_object.get(function)) is not None:
            return known
        packed = pack_function(function, self._sources)
        known = self._by_digest.get(packed.digest)
        if known is None:
            path = Path(self._directory, packed.digest)
            path.write_bytes(packed.data)
            known = _Known(packed, JobFile(str(path), f"{DIRECTORY}/{packed.digest}"))
            self._by_digest[packed.digest] = known
            work = self._engine.work
            work.files = (*work.files, known.file)
        if lasts:
            self._by_object[function] = known
        return known

    async def bring(self, known: _Known) -> None:
        """Put it on all nodes that have not got it; wait for the first."""
        for key, node in self._engine.machine.nodes.items():
            if node.state is NodeState.CONNECTED and key not in known.there:
                self._start(known, key)
        while known.under_way and not known.there:
            await known.changed.wait()

    async def bring_again(self, known: _Known, key: str) -> None:
        """Put it on a node that was found to have lost it."""
        known.there.discard(key)
        self._start(known, key)
        while key in known.under_way:
            await known.changed.wait()

    def _start(self, known: _Known, key: str) -> None:
        if key not in known.under_way:
            known.under_way.add(key)
            self._engine.start_task(self._put, known, key)

    async def _put(self, known: _Known, key: str) -> None:
        try:
            await self._engine.put_files(key, [known.file], 0)
            known.there.add(key)
        except (DispyError, OSError) as exc:
            known.failure = exc  # Told when a call fails by it.
        finally:
            known.under_way.discard(key)
            known.changed.set()
            known.changed = trio.Event()


async def _take(limiter: trio.CapacityLimiter, borrower: object) -> None:
    """Take a token; a checkpoint only where there is none, for a call has others."""
    try:
        limiter.acquire_on_behalf_of_nowait(borrower)
    except trio.WouldBlock:
        await limiter.acquire_on_behalf_of(borrower)


class FunctionCluster(Cluster[..., Any]):
    """A cluster that calls any function; `open_cluster` without a computation opens it."""

    def __init__(self, engine: Engine, teller: Teller, directory: str) -> None:
        super().__init__(engine, teller)
        self._functions = _Functions(engine, directory)

    async def run_sync(
        self,
        function: Callable[..., T],
        *args: Any,
        kill_on_cancel: bool = False,
        limit: int | None = None,
        limiter: trio.CapacityLimiter | None = None,
    ) -> T:
        """As told at `Cluster.run_sync`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        plain, args, kwargs = to_plain(function, args)
        known = self._functions.know(plain)
        limiter = self.limiter if limiter is None else limiter
        payload = pack_call(known.packed, args, kwargs)
        limiters = [limiter] if limit is None else [known.limiter(limit), limiter]
        borrower = object()  # A task may have some tokens itself.
        taken: list[trio.CapacityLimiter] = []
        try:
            for one in limiters:
                await _take(one, borrower)
                taken.append(one)
            with trio.CancelScope(shield=not kill_on_cancel):
                value: T = await self._call(known, payload)
            return value
        finally:
            for one in taken:
                one.release_on_behalf_of(borrower)

    async def _call(self, known: _Known, payload: Any) -> Any:
        for _ in range(TRIES):
            if self._engine.has_ended:
                raise ClusterClosed("the cluster has ended, and takes no more calls")
            await self._functions.bring(known)
            self._check_open()
            job = self._submitter()(payload)
            try:
                return await job.wait()
            except FunctionMissing:
                look_at(job)
                if job.node_key is not None:
                    await self._functions.bring_again(known, job.node_key)
        raise DispyError(
            f"the function did not reach node {job.node_key}: {known.failure or 'it is not there'}"
        ) from known.failure

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(
            "this cluster has no computation: call cluster.run_sync(function, …), or make it with"
            " one, open_cluster(function)"
        )

    submit = run = map = options = _refuse
