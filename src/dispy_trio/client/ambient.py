"""`run_sync` without a cluster in hand: each Trio run has one of its own, opened by the first call.

It ends with the run. What its functions print is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio
from attrs import define, field

from dispy_trio.client.cluster import Cluster, open_cluster
from dispy_trio.logs import log

__all__ = ["run_sync"]

T = TypeVar("T")


@define(eq=False)
class _Ambient:
    """The cluster of a Trio run."""

    opened: trio.Event = field(factory=trio.Event)
    """It is there, or it failed."""
    cluster: Cluster[..., Any] | None = None
    failure: Exception | None = None


_ambient: trio.lowlevel.RunVar[_Ambient] = trio.lowlevel.RunVar("dispy_trio")


async def run_sync(
    function: Callable[..., T],
    *args: Any,
    kill_on_cancel: bool = False,
    limit: int | None = None,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """Call a function in another process: as `Cluster.run_sync`, on a cluster of this Trio run.

    The first call opens it, as `open_cluster` without arguments does; it lasts as long as the run.

    Raises:
        DispyError: it can't be opened, or it failed; the next call opens another.
        Exception: whatever `Cluster.run_sync` raises.
    """
    ambient = _current()
    if ambient.cluster is None:
        await ambient.opened.wait()
    if ambient.failure is not None:
        raise ambient.failure
    assert ambient.cluster is not None
    return await ambient.cluster.run_sync(
        function, *args, kill_on_cancel=kill_on_cancel, limit=limit, limiter=limiter
    )


def _current() -> _Ambient:
    """That of this run; begun, if there is none that works."""
    try:
        ambient = _ambient.get()
    except LookupError:
        pass
    else:
        if ambient.failure is None:
            return ambient
    ambient = _Ambient()
    _ambient.set(ambient)
    trio.lowlevel.spawn_system_task(_keep, ambient)
    return ambient


async def _keep(ambient: _Ambient) -> None:
    """Keep the cluster until the run ends."""
    try:
        async with open_cluster(live_output=True) as cluster:
            ambient.cluster = cluster
            ambient.opened.set()
            await trio.sleep_forever()
    except Exception as exc:
        # An error of a system task would end the whole run: it is for the next call to raise it.
        ambient.failure = exc
        if ambient.opened.is_set():
            log.error("the cluster of run_sync: %s", exc)
    finally:
        ambient.opened.set()
