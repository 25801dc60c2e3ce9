"""What an async `map` reads when its iterables are not read on the loop as they are."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from inspect import isasyncgen
from typing import Any

import trio

__all__ = ["CLOSE_GRACE", "AsyncZip", "are_async"]

CLOSE_GRACE = 1.0
"""Seconds that an async generator may take to close when no more is read of it."""


def are_async(iterables: Iterable[Any]) -> bool:
    """Is one of them to be awaited?"""
    return any(isinstance(iterable, AsyncIterable) for iterable in iterables)


class AsyncZip:
    """As `zip`, of iterables of either kind."""

    def __init__(self, iterables: Iterable[Any]) -> None:
        self._iterators: list[AsyncIterator[Any] | Iterator[Any]] = [
            aiter(i) if isinstance(i, AsyncIterable) else iter(i) for i in iterables
        ]

    def __aiter__(self) -> AsyncZip:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        items = []
        for iterator in self._iterators:
            if isinstance(iterator, trio.MemoryReceiveChannel):
                items.append(await _receive(iterator))
            elif isinstance(iterator, AsyncIterator):
                items.append(await anext(iterator))
            else:
                try:
                    items.append(next(iterator))
                except StopIteration:
                    raise StopAsyncIteration from None
        return tuple(items)

    async def aclose(self) -> None:
        """Close generators: nobody else may have them, and Trio warns of those left half read."""
        for iterator in self._iterators:
            if isasyncgen(iterator):
                await iterator.aclose()


async def _receive(channel: trio.MemoryReceiveChannel[Any]) -> Any:
    """What is in it already is taken without waiting: a checkpoint for each costs more than the rest."""
    try:
        return channel.receive_nowait()
    except trio.WouldBlock:
        return await anext(channel)
    except trio.EndOfChannel:
        raise StopAsyncIteration from None
