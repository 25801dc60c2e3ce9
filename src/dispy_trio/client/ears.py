"""What a blocking cluster does about what its engine tells: counts, shows, calls back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dispy_trio.client.listening import Listener

if TYPE_CHECKING:
    from dispy_trio.client.thread import ClusterThread

__all__ = ["ClusterEars"]


class ClusterEars(Listener):
    """What a `JobCluster` does about what its engine tells."""

    def __init__(self, thread: ClusterThread) -> None:
        self._thread = thread
        self._notifier = thread.notifier
        self._live = thread.live

    def ending(self, jobs: Sequence[Any]) -> None:
        if self._live is not None:
            # Before whoever waits for them prints their results.
            self._live.ended(jobs)

    def ended(self, jobs: Sequence[Any], again: bool) -> None:
        thread = self._thread
        if self._notifier is not None:
            self._notifier.ended(jobs)
        if again:
            return  # Counted when they were abandoned.
        with thread.drained:
            thread.ended += len(jobs)
            if thread.ended >= thread.number:
                thread.drained.notify_all()

    def started(self, jobs: Sequence[Any]) -> None:
        if self._notifier is not None:
            self._notifier.started(jobs)

    def requeued(self, node: str, jobs: Sequence[Any]) -> None:
        if self._notifier is not None:
            self._notifier.requeued(node, jobs)
        if self._live is not None:
            self._live.restarted(jobs)

    def provisional(self, job: Any) -> None:
        if self._notifier is not None:
            self._notifier.provisional(job)

    def written(self, job: Any, stdout: bytes, stderr: bytes) -> None:
        if self._live is not None:
            self._live.written(job, stdout, stderr)

    def node_usable(self, key: str) -> None:
        if self._notifier is not None:
            self._notifier.node_initialized(key)

    def node_unusable(self, key: str, *, failed: bool) -> None:
        if self._notifier is not None:
            self._notifier.node_closed(key, failed=failed)

    def node_status(self, key: str) -> None:
        if self._notifier is not None:
            self._notifier.node_status(key)

    def over(self, failure: Exception | None) -> None:
        self._thread.over(failure)
