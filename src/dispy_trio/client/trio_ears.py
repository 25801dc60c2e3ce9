"""What a Trio cluster does about what its engine tells: shows what jobs write, and maps on more nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from dispy_trio.client.listening import Listener
from dispy_trio.client.live import LiveOutput
from dispy_trio.client.live_thread import SHOW_GRACE, LiveThread
from dispy_trio.runtime.threads import run_in_thread

__all__ = ["TrioEars"]


class TrioEars(Listener):
    """What a Trio cluster does about what its engine tells."""

    def __init__(self, *, live_output: bool) -> None:
        self.on_node: Callable[[], None] = lambda: None
        self._live: LiveOutput | None = None
        if live_output:
            self._live = LiveOutput()
            self._thread = LiveThread(self._live)

    def node_usable(self, key: str) -> None:
        self.on_node()

    def written(self, job: Any, stdout: bytes, stderr: bytes) -> None:
        if self._live is not None:
            self._live.written(job, stdout, stderr)

    def ending(self, jobs: Sequence[Any]) -> None:
        if self._live is not None:
            self._live.ended(jobs)

    def requeued(self, node: str, jobs: Sequence[Any]) -> None:
        if self._live is not None:
            self._live.restarted(jobs)

    async def aclose(self) -> None:
        """See that all is shown, if that does not take long."""
        if self._live is not None:
            with trio.CancelScope(shield=True):
                await run_in_thread(self._thread.finish, SHOW_GRACE)
