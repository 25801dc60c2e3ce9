"""What a cluster knows of each node."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from attrs import define, field

from dispy_trio.messages import NodeStatus
from dispy_trio.models import Conditions, Job

__all__ = ["Membership", "NodeRecord", "NodeState", "demands", "slots_taken"]


class NodeState(Enum):
    """Is there a session?"""

    CONNECTED = auto()
    DISCONNECTED = auto()
    """Its session broke a moment ago. Its jobs are still its own."""
    LOST = auto()


class Membership(Enum):
    """How far a node has got with one computation."""

    PREPARING = auto()
    """Who may use it is being asked, and files are on their way."""
    REFUSED = auto()
    """It is not to be used for this computation."""
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
    offered: int
    """Slots it has."""
    limit: int | None = None
    """Slots of it that we use, at most."""
    cpus: int = field(init=False)
    """Slots that are used."""
    platform: str = ""
    state: NodeState = NodeState.CONNECTED
    allocated: bool = True
    """False while it is given no new jobs because the user wants so."""
    memberships: dict[int, Membership] = field(factory=dict)
    outstanding: dict[int, Job] = field(factory=dict)
    """Sent there and not ended, by number."""
    pinned: deque[Job] = field(factory=deque)
    """Jobs that wait for this very node."""
    extra: int = 0
    """Slots that outstanding jobs take beyond one each."""
    resources: dict[str, int] = field(factory=dict)
    """What it has beside slots."""
    taken: dict[str, int] = field(factory=dict)
    """What outstanding jobs take of that."""
    reopening: set[int] = field(factory=set)
    """Computations that are closed there only to be opened again."""
    collapses: dict[int, int] = field(factory=dict)
    """Computations whose process died there, and how often since a job of theirs ended."""
    abandoned: dict[int, Job] = field(factory=dict)
    """Reported as abandoned when the node was lost; a late result still counts, once."""
    leftovers: set[int] = field(factory=set)
    """Numbers of jobs that it ran before it was lost and found again: it is given no more until
    these have ended, as the same jobs may be among what it is given."""
    bulk_bytes: int = 0
    """Argument bytes of the outstanding jobs that went over the bulk connection."""
    unacknowledged: list[int] = field(factory=list)
    """Numbers of results that are safe here, which the node has not been told."""
    recalling: bool = False
    jobs_done: int = 0
    cpu_time: float = 0.0
    """Seconds of wall time its jobs took, summed."""
    sent: int = 0
    """Bytes of arguments."""
    received: int = 0
    """Bytes of results."""
    last_progress: float = 0.0
    status: NodeStatus | None = None
    """What is free on its machine, as it told last."""
    error: str | None = None
    """Why it can't run the computation."""
    told_of: frozenset[str] = frozenset()
    """The absent clients that hold all its slots, of which the user knows."""

    def __attrs_post_init__(self) -> None:
        self.count_slots()

    def count_slots(self) -> None:
        """The slots offered or the limit have changed."""
        self.cpus = self.offered if self.limit is None else min(self.offered, self.limit)

    @property
    def spare(self) -> int:
        """Slots without a job."""
        return max(0, self.cpus - len(self.outstanding) - self.extra - len(self.leftovers))

    @property
    def surplus(self) -> int:
        """Jobs that wait there behind others."""
        return max(0, len(self.outstanding) + self.extra - self.cpus)

    def can_fit(self, conditions: Conditions) -> bool:
        """Could it run such a job if it had nothing else to do?"""
        return slots_taken(conditions) <= self.cpus and all(
            amount <= self.resources.get(name, 0) for name, amount in demands(conditions).items()
        )

    def fits(self, conditions: Conditions) -> bool:
        """Can it start such a job now?"""
        return slots_taken(conditions) <= self.spare and all(
            self.taken.get(name, 0) + amount <= self.resources.get(name, 0)
            for name, amount in demands(conditions).items()
        )

    def load(self, conditions: Conditions, sign: int = 1) -> None:
        """Such a job was given to it; with -1, has left it."""
        self.extra += sign * (slots_taken(conditions) - 1)
        for name, amount in demands(conditions).items():
            self.taken[name] = self.taken.get(name, 0) + sign * amount


def slots_taken(conditions: Conditions) -> int:
    """The slots that a job takes: one at least, whatever its client says."""
    return max(1, conditions.cpus)


def demands(conditions: Conditions) -> dict[str, int]:
    """What a job takes beside slots; GPUs under ``gpus``. Never gives anything."""
    if not conditions.resources and conditions.gpus <= 0:
        return {}
    amounts = {name: amount for name, amount in conditions.resources.items() if amount > 0}
    if conditions.gpus > 0:
        amounts["gpus"] = conditions.gpus
    return amounts
