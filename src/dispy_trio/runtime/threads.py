"""Threads for what would keep the loop: also when the interpreter ends, which lets none start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import trio

__all__ = ["run_in_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def run_in_thread(
    function: Callable[[Unpack[Ts]], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """As `trio.to_thread.run_sync`, in a thread that counts to no limit of the program's, unless one is
    given: all threads of a program may be busy. As the interpreter ends, here, if it has to be.

    A program that comes to its end without closing its cluster waits for its jobs, and on Python
    3.12 no thread can be started then.
    """
    begun = False

    def call() -> T:
        nonlocal begun
        begun = True
        return function(*args)

    try:
        return await trio.to_thread.run_sync(
            call,
            abandon_on_cancel=abandon_on_cancel,
            limiter=limiter or trio.CapacityLimiter(1),
        )
    except RuntimeError:
        if begun:
            raise
    return call()
