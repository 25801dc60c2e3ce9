"""What `map` and `as_completed` of a Trio cluster give: values that come one after the other.

A `Stream` is what the user holds. What is under way belongs to the `Flow` behind it, to which jobs
and readers refer: so a stream that nobody holds any more is noticed, also when nobody closed it.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, TypeVar

import trio

from dispy_trio.client import forks

__all__ = ["CLOSED", "TURN_SECONDS", "Flow", "Stream"]

A = TypeVar("A", covariant=True)

TURN_SECONDS = 0.001
"""After so long at most other tasks have a turn: a full checkpoint for each value costs ten times as
much as all the rest."""


CLOSED = "the cluster is closed and takes no more jobs"


class Flow(Generic[A]):
    """What is behind a stream, but for where its values come from."""

    def __init__(self) -> None:
        self.values: deque[Any] = deque()
        """Those that can be taken now."""
        self.is_over = False
        """No more values come, or nobody wants them."""
        self.is_closed = False
        """They were not wanted any more before they were over."""
        self.turn_ends = 0.0
        """When other tasks are to have one, as of `perf_counter`."""
        self._lot = trio.lowlevel.ParkingLot()
        self._process = forks.current_process()
        self._token = trio.lowlevel.current_trio_token()

    # --- of each kind ---------------------------------------------------------------------------
    async def fill(self) -> None:
        """Wait until there are values, or it is over.

        Raises:
            Exception: in the place of the next value.
        """
        raise NotImplementedError

    def end(self) -> None:
        """Nothing is wanted any more: stop what is under way."""

    async def wait_ended(self) -> None:
        """Wait until what was under way is not any more."""
        await trio.lowlevel.checkpoint()

    def left(self) -> None:
        """Whoever waited for the next value was cancelled."""

    # --- of all -----------------------------------------------------------------------------------
    def close(self) -> None:
        """Stop what is under way, if nobody did."""
        if not self.is_over:
            self.is_over = self.is_closed = True
            self.values.clear()
            self.end()
            self.wake()

    def close_unattended(self) -> None:
        """Close, called by the garbage collector, which may come at any point of any thread."""
        if self.is_over or forks.is_inherited(self._process):
            return
        try:
            self._token.run_sync_soon(self.close)
        except trio.RunFinishedError:
            pass  # It has ended, and its jobs with it.

    def is_due(self) -> bool:
        """Has it been long since other tasks had a turn?"""
        return perf_counter() >= self.turn_ends

    async def give_turn(self) -> None:
        """Let other tasks have a turn."""
        await trio.lowlevel.checkpoint()
        self.turn_ends = perf_counter() + TURN_SECONDS

    async def wait_changed(self) -> None:
        """Wait until something is different."""
        await self._lot.park()
        self.turn_ends = perf_counter() + TURN_SECONDS

    def wake(self) -> None:
        """Something is different."""
        self._lot.unpark_all()


class Stream(Generic[A]):
    """Values that come one after the other: ``async for``, in ``async with`` or not.

    Leaving the loop early ends what is under way for it. ``aclose``, which ``async with`` does, also
    waits for that.
    """

    __slots__ = ("__weakref__", "_flow", "_values")

    def __init__(self, flow: Flow[A]) -> None:
        self._flow = flow
        self._values = flow.values

    def __aiter__(self) -> Stream[A]:
        return self

    async def __anext__(self) -> A:
        flow = self._flow
        try:
            if perf_counter() >= flow.turn_ends:
                await flow.give_turn()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            while not self._values:
                if flow.is_closed:
                    raise trio.ClosedResourceError("nothing more is taken from what was closed")
                if flow.is_over:
                    await trio.lowlevel.checkpoint()
                    raise StopAsyncIteration
                await flow.fill()
        except trio.Cancelled:
            flow.left()
            raise
        value: A = self._values.popleft()
        return value

    async def aclose(self) -> None:
        """End what is under way, and wait until it has ended; cancelled, don't wait."""
        self._flow.close()
        await self._flow.wait_ended()

    async def __aenter__(self) -> Stream[A]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Not there when the arguments were refused.
        if (flow := getattr(self, "_flow", None)) is not None:
            flow.close_unattended()
