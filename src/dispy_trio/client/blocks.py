"""Blocks that are entered by ``async with``, and say so to whoever forgets the ``async``.

Ctrl-C while one is entered or left waits for the next checkpoint of the main task: anywhere else it
would strike between two steps, and leave what the first has begun.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Generic, NoReturn, ParamSpec, TypeVar

import trio

__all__ = ["AsyncBlock", "async_block"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncBlock(AbstractAsyncContextManager[T], Generic[T]):
    """What an ``async with`` enters."""

    def __init__(self, manager: AbstractAsyncContextManager[T], advice: str) -> None:
        self._manager = manager
        self._advice = advice

    # All that they call is protected with them; the block between them is not.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._manager.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # What it waits for is bounded by whoever wrote the block.
        return await self._manager.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102

    def __enter__(self) -> NoReturn:
        raise TypeError(self._advice)

    def __exit__(self, *_error: object) -> None:
        """Never called: nothing was entered."""


def async_block(
    advice: str,
) -> Callable[[Callable[P, AsyncIterator[T]]], Callable[P, AsyncBlock[T]]]:
    """As `contextlib.asynccontextmanager`.

    Args:
        advice: what the TypeError says when it is entered without ``async``.
    """

    def wrap(function: Callable[P, AsyncIterator[T]]) -> Callable[P, AsyncBlock[T]]:
        manager = asynccontextmanager(function)

        @functools.wraps(function)
        def make(*args: P.args, **kwargs: P.kwargs) -> AsyncBlock[T]:
            return AsyncBlock(manager(*args, **kwargs), advice)

        return make

    return wrap
