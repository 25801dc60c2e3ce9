"""Threads beside those of the program: when all of its own are busy, no cluster waits for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import trio

__all__ = ["in_own_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_own_thread(
    function: Callable[[Unpack[Ts]], T], *args: *Ts, abandon_on_cancel: bool = False
) -> T:
    """Call it in a thread that counts to nobody's limit.

    There are few such calls, each once in the life of a cluster or of one of its nodes.

    Args:
        function: what is called.
        args: with what.
        abandon_on_cancel: a cancelled caller leaves at once, and the thread runs on.
    """
    return await trio.to_thread.run_sync(
        function, *args, limiter=trio.CapacityLimiter(1), abandon_on_cancel=abandon_on_cancel
    )
