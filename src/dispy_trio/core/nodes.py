"""What a cluster knows of each node."""

from __future__ import annotations

from enum import Enum, auto

from attrs import define, field

from dispy_trio.models import Job

__all__ = ["Membership", "NodeRecord", "NodeState"]


class NodeState(Enum):
    """Is there a session?"""

    CONNECTED = auto()
    DISCONNECTED = auto()
    """Its session broke a moment ago. Its jobs are still its own."""
    LOST = auto()


class Membership(Enum):
    """How far a node has got with one computation."""

    OPENING = auto()
    READY = auto()
    FAILED = auto()
    CLOSING = auto()


@define(eq=False)
class NodeRecord:
    """One node of the roster."""

    key: str
    incarnation: str
    name: str
    cpus: int
    state: NodeState = NodeState.CONNECTED
    memberships: dict[int, Membership] = field(factory=dict)
    outstanding: dict[int, Job] = field(factory=dict)
    """Sent there and not ended, by number."""
    abandoned: dict[int, Job] = field(factory=dict)
    """Reported as abandoned when the node was lost; a late result still counts, once."""
    bulk_bytes: int = 0
    """Argument bytes of the outstanding jobs that went over the bulk connection."""
    unacknowledged: list[int] = field(factory=list)
    """Numbers of results that are safe here, which the node has not been told."""
    recalling: bool = False
    jobs_done: int = 0
    cpu_time: float = 0.0
    last_progress: float = 0.0

    @property
    def spare(self) -> int:
        """Slots without a job."""
        return max(0, self.cpus - len(self.outstanding))

    @property
    def surplus(self) -> int:
        """Jobs that wait there behind others."""
        return max(0, len(self.outstanding) - self.cpus)
