"""What a Trio program's cluster does about what its engine tells: hands it on to whoever listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dispy_trio.client.listening import Listener

__all__ = ["Teller"]


class Teller(Listener):
    """Tells each of several listeners, which may come and go."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.is_over = False

    def add(self, listener: Listener) -> None:
        """Tell it, too, from now on."""
        self.listeners = (*self.listeners, listener)

    def remove(self, listener: Listener) -> None:
        """Tell it no more."""
        self.listeners = tuple(one for one in self.listeners if one is not listener)

    def ending(self, jobs: Sequence[Any]) -> None:
        for listener in self.listeners:
            listener.ending(jobs)

    def ended(self, jobs: Sequence[Any], again: bool) -> None:
        for listener in self.listeners:
            listener.ended(jobs, again)

    def started(self, jobs: Sequence[Any]) -> None:
        for listener in self.listeners:
            listener.started(jobs)

    def requeued(self, node: str, jobs: Sequence[Any]) -> None:
        for listener in self.listeners:
            listener.requeued(node, jobs)

    def provisional(self, job: Any) -> None:
        for listener in self.listeners:
            listener.provisional(job)

    def written(self, job: Any, stdout: bytes, stderr: bytes) -> None:
        for listener in self.listeners:
            listener.written(job, stdout, stderr)

    def node_usable(self, key: str) -> None:
        for listener in self.listeners:
            listener.node_usable(key)

    def node_unusable(self, key: str, *, failed: bool) -> None:
        for listener in self.listeners:
            listener.node_unusable(key, failed=failed)

    def node_status(self, key: str) -> None:
        for listener in self.listeners:
            listener.node_status(key)

    def slots_changed(self) -> None:
        for listener in self.listeners:
            listener.slots_changed()

    def over(self, failure: Exception | None) -> None:
        self.is_over = True
        for listener in self.listeners:
            listener.over(failure)
