"""What an engine tells whoever owns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Listener"]


class Listener:
    """Is told what happens to jobs and nodes, in order; does nothing with it.

    Called on the engine's thread, or, for the end of a lone job, on the thread that waits for it.
    """

    def ending(self, jobs: Sequence[Any]) -> None:
        """They have their final status, and nobody was told of it yet."""

    def ended(self, jobs: Sequence[Any], again: bool) -> None:
        """They have their final status; with `again` for the second time, after having been
        abandoned. Who waits for them is awake already."""

    def started(self, jobs: Sequence[Any]) -> None:
        """They run by now; very short ones are never told of."""

    def requeued(self, node: str, jobs: Sequence[Any]) -> None:
        """They were lost with that node, and wait for another one."""

    def provisional(self, job: Any) -> None:
        """It has sent a provisional result."""

    def written(self, job: Any, stdout: bytes, stderr: bytes) -> None:
        """It has written something, and runs on."""

    def node_usable(self, key: str) -> None:
        """A node is ready to run jobs."""

    def node_unusable(self, key: str, *, failed: bool) -> None:
        """It is not any more, or, with `failed`, can't be at all."""

    def node_status(self, key: str) -> None:
        """A node has told what is free on it."""

    def slots_changed(self) -> None:
        """The user has changed what is used of the nodes."""

    def over(self, failure: Exception | None) -> None:
        """No more jobs are taken; with `failure`, because of that."""
