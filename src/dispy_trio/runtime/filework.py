"""Threads for what touches disks: a disk may be slow, and a node's loop must not wait for it.

They are few, and others than those that the rest of a node uses: whoever moves many files keeps
nobody from an answer that needs none. What runs in them is short or goes in steps, as a step can't
be cancelled, and others wait for their turn meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from dispy_trio.runtime.threads import run_in_thread

__all__ = ["STEP_SECONDS", "in_file_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FILE_THREADS = 8
STEP_SECONDS = 0.05
"""That long work in such a thread takes before it lets others have a turn."""

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("file threads")


async def in_file_thread(function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Call it in one of the threads for files; waits for its end also when cancelled."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(FILE_THREADS)
        _limiter.set(limiter)
    return await run_in_thread(function, *args, limiter=limiter)
