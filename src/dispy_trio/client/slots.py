"""A limiter with a token for each slot of a cluster."""

from __future__ import annotations

import trio

from dispy_trio.client.listening import Listener
from dispy_trio.core.cluster import ClusterMachine

__all__ = ["SlotLimiter"]


class SlotLimiter(Listener):
    """Keeps a limiter as large as the cluster is."""

    def __init__(self, machine: ClusterMachine, limiter: trio.CapacityLimiter) -> None:
        self._machine = machine
        self._limiter = limiter

    def slots_changed(self) -> None:
        # The first call may wait for a node instead of for the limiter.
        self._limiter.total_tokens = max(1, self._machine.slots)

    def node_usable(self, key: str) -> None:
        self.slots_changed()

    def node_unusable(self, key: str, *, failed: bool) -> None:
        self.slots_changed()

    def node_status(self, key: str) -> None:
        self.slots_changed()
