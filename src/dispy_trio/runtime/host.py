"""Feeds a machine, performs what it commands, and arms its timer."""

from __future__ import annotations

import threading
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

    `feed` is sync, and so atomic among tasks. Performing a command may feed further events; those
    wait until the commands before them are done, so the machine is never entered twice. The lock
    is for the one case of `feed_from_thread`; commands keep their order through it. Ctrl-C waits
    until `feed` is done: half an event would leave the machine in no state at all.
    """

    def __init__(
        self,
        machine: Machine[E, C],
        perform: Callable[[C], None],
        failed: Callable[[E | C, Exception], None] | None = None,
    ) -> None:
        """Own a machine.

        Args:
            machine: decides.
            perform: does what it commands.
            failed: is told of what went wrong with an event or a command, instead of whoever fed
                the event: that need not be its fault.
        """
        self._machine = machine
        self._perform = perform
        self._failed = failed
        self._events: deque[E] = deque()
        self._commands: deque[C] = deque()
        self._feeding = False
        self._lock = threading.RLock()
        self._armed = float("inf")
        self._rearm = trio.Event()

    @trio.lowlevel.enable_ki_protection
    def feed(self, event: E) -> None:
        """Tell the machine, and do at once what it wants done."""
        self._events.append(event)
        if not self._feeding:
            with self._lock:
                self._work_off()

    def _work_off(self) -> None:
        self._feeding = True
        try:
            while self._commands or self._events:
                while self._commands:
                    command = self._commands.popleft()
                    try:
                        self._perform(command)
                    except Exception as exc:
                        if self._failed is None:
                            raise
                        self._failed(command, exc)
                if self._events:
                    event = self._events.popleft()
                    try:
                        commands = self._machine.handle(event, now=trio.current_time())
                    except Exception as exc:
                        if self._failed is None:
                            raise
                        self._failed(event, exc)
                    else:
                        self._commands.extend(commands)
        finally:
            self._feeding = False
        if self._machine.next_deadline() < self._armed:
            self._rearm.set()

    def feed_from_thread(
        self, event: E, now: float, perform_here: Callable[[C], bool]
    ) -> bool | None:
        """Tell the machine from another thread, if it is idle, to save a switch of threads.

        Args:
            event: must be one that needs no answer at once.
            now: the Trio clock's time.
            perform_here: does a command and says so, or leaves it to the Trio thread.

        Returns:
            None when the machine is busy and was told nothing; False when `resume` has to be
            called on the Trio thread to do the rest; True when all is done.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._commands.extend(self._machine.handle(event, now=now))
            while self._commands and perform_here(self._commands[0]):
                self._commands.popleft()
            return not self._commands and self._machine.next_deadline() >= self._armed
        finally:
            self._lock.release()

    @trio.lowlevel.enable_ki_protection
    def resume(self) -> None:
        """Do what `feed_from_thread` left."""
        if not self._feeding:
            with self._lock:
                self._work_off()

    @trio.lowlevel.enable_ki_protection
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
