"""Ctrl-C while a cluster is opened or closed waits for the next checkpoint of the main task.

Anywhere else it would strike between two steps, and leave what the first has begun.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

import trio
from attrs import frozen

__all__ = ["at_checkpoints"]

P = ParamSpec("P")
T = TypeVar("T")


@frozen
class _AtCheckpoints(AbstractAsyncContextManager[T, bool | None], Generic[T]):
    _inner: AbstractAsyncContextManager[T, bool | None]

    # All that they call is protected with them; the block between them is not.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._inner.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, where)


def at_checkpoints(
    function: Callable[P, AbstractAsyncContextManager[T, bool | None]],
) -> Callable[P, AbstractAsyncContextManager[T, bool | None]]:
    """Have a context manager enter and leave its block so that Ctrl-C comes at checkpoints alone."""

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T, bool | None]:
        return _AtCheckpoints(function(*args, **kwargs))

    return make
