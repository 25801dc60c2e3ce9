"""Feeds a machine, performs what it commands, and arms its timer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import trio

__all__ = ["Host", "Machine"]

EventT = TypeVar("EventT", contravariant=True)
CommandT = TypeVar("CommandT")
E = TypeVar("E")
C = TypeVar("C")


class Machine(Protocol[EventT, CommandT]):
    """A pure core: decides, and touches nothing."""

    def handle(self, event: EventT, *, now: float) -> list[CommandT]: ...

    def next_deadline(self) -> float: ...


class Host(Generic[E, C]):
    """Owns one machine.

    `feed` is sync, and so atomic: there is no lock round the machine's state. Performing a
    command may feed further events; those wait until the commands before them are done, so the
    machine is never entered twice.
    """

    def __init__(self, machine: Machine[E, C], perform: Callable[[C], None]) -> None:
        self._machine = machine
        self._perform = perform
        self._events: deque[E] = deque()
        self._feeding = False
        self._armed = float("inf")
        self._rearm = trio.Event()

    def feed(self, event: E) -> None:
        """Tell the machine, and do at once what it wants done."""
        self._events.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._events:
                for command in self._machine.handle(
                    self._events.popleft(), now=trio.current_time()
                ):
                    self._perform(command)
        finally:
            self._feeding = False
        if self._machine.next_deadline() < self._armed:
            self._rearm.set()

    async def run_timer(self, tick: E) -> None:
        """Feed `tick` whenever the machine's deadline comes. Never returns."""
        while True:
            self._rearm = trio.Event()
            self._armed = self._machine.next_deadline()
            with trio.move_on_at(self._armed) as scope:
                await self._rearm.wait()
            if scope.cancelled_caught:
                # Disarmed while fed: a deadline set now must wake us again.
                self._armed = float("inf")
                self.feed(tick)
