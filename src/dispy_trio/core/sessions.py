"""What a node keeps: its sessions, their computations and results, and its workers.

`WORKER_MOVES` is the whole of a worker's life: what is not listed can't happen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any

from attrs import define, field

from dispy_trio import messages
from dispy_trio.core import workers
from dispy_trio.errors import IllegalMove
from dispy_trio.models import GRACE, Conditions

__all__ = [
    "WORKER_MOVES",
    "Computation",
    "DueJob",
    "EndedJob",
    "Loading",
    "NodeJob",
    "Session",
    "Worker",
    "WorkerState",
]

WORKER_SECONDS = 0.004
"""Work to keep waiting inside a worker."""
WORKER_JOBS = 1024


class Loading(Enum):
    """How far a computation has got on this node."""

    LOADING = auto()
    READY = auto()
    CLOSING = auto()


class WorkerState(Enum):
    """Where a worker is in its life."""

    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    RECALLING = auto()
    """Its waiting jobs are asked back; nothing is given to it meanwhile."""
    ENDING = auto()
    """It was told to stop or is being killed."""


WORKER_MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.IDLE, WorkerState.ENDING}),
    WorkerState.IDLE: frozenset({WorkerState.BUSY, WorkerState.ENDING}),
    WorkerState.BUSY: frozenset({WorkerState.IDLE, WorkerState.RECALLING, WorkerState.ENDING}),
    WorkerState.RECALLING: frozenset({WorkerState.BUSY, WorkerState.IDLE, WorkerState.ENDING}),
    WorkerState.ENDING: frozenset(),
}


@define(eq=False, kw_only=True)
class NodeJob(workers.WorkerJob):
    """One job on this node. Its `sequence` is 0 while it waits here."""

    number: int
    attempt: int
    cancelled: bool = False
    timed_out: bool = False
    reported: bool = False
    """The client was told that it runs."""
    conditions: Conditions | None = None

    @property
    def due(self) -> float:
        """When it has to have ended. No field, as most have none, and all are made on the hot path."""
        return math.inf


@define(eq=False, kw_only=True)
class DueJob(NodeJob):
    """One with a deadline. It has conditions, so that it is given to a worker alone."""

    due: float
    """By this node's clock."""
    late: bool = False
    """It was stopped for its deadline."""


@define(eq=False)
class Worker:
    """One worker process."""

    number: int
    state: WorkerState = WorkerState.STARTING
    sent: deque[NodeJob] = field(factory=deque)
    next_sequence: int = 1
    busy_since: float = 0.0
    """When the job at the head became the head, as far as this machine saw."""
    ladder: int = 0
    """Rungs of the cancel ladder climbed for the job at the head."""
    cancel_at: float = math.inf
    """When the cancel of the job at the head was asked for."""
    ran: bool = False
    jobs_run: int = 0
    """In its own process: isolated jobs leave no trace in it."""
    held: int = 0
    """Slots it takes up."""
    taken: dict[str, int] = field(factory=dict)
    """Resources that the job with conditions in it takes."""
    gpus: list[int] = field(factory=list)
    """Those of them that are devices."""
    conditions: Conditions | None = None
    """Of the one job it has, if that has some."""
    timeout_at: float = math.inf
    """When that job has run for too long."""
    output_at: float = -math.inf
    """When what it writes was sent last."""

    @property
    def is_spent(self) -> bool:
        """Has the last job been its last one?"""
        return self.conditions is not None and 0 < self.conditions.max_jobs <= self.jobs_run

    def move(self, state: WorkerState) -> None:
        if state not in WORKER_MOVES[self.state]:
            raise IllegalMove(
                f"worker {self.number} can't go from {self.state.name} to {state.name}"
            )
        self.state = state


@define(eq=False)
class Computation:
    """One computation of one session."""

    session: str
    number: int
    name: str
    state: Loading = Loading.LOADING
    waiting: deque[NodeJob] = field(factory=deque)
    workers: dict[int, Worker] = field(factory=dict)
    duration: float | None = None
    stillborn: int = 0
    """Workers in a row that died before they ran a job."""
    refused: int = 0
    """Times in a row that a worker could not be started."""
    has_run: bool = False
    """A job of it was started here."""
    start_at: float = -math.inf
    """No worker is started before that."""
    closing: bool = False
    """The client wants it closed once its jobs have ended."""
    release: bool = True
    """False when it will be opened again at once."""
    limit: int = 0
    """Slots it may take; 0 for all."""
    live_output: bool = False
    grace: float = GRACE
    """Seconds from the interrupt of a job to its SIGTERM."""
    next_due: float = math.inf
    """When the first of those that wait may have to have ended."""
    successor: tuple[messages.OpenComputation, Any] | None = None
    """To be opened, with its bundle, when this one is closed."""

    @property
    def held(self) -> int:
        """Slots its workers take up."""
        return sum(worker.held for worker in self.workers.values())

    def wait_again(self, job: NodeJob) -> None:
        """What its worker has not started waits here again, first."""
        job.sequence = 0
        self.waiting.appendleft(job)
        self.next_due = min(self.next_due, job.due)

    @property
    def depth(self) -> int:
        """Jobs to give to one worker at a time."""
        if self.duration is None:
            return 1
        return 1 + min(WORKER_JOBS, int(WORKER_SECONDS / max(self.duration, 1e-7)))

    @property
    def idle_workers(self) -> Iterator[Worker]:
        return (w for w in self.workers.values() if w.state is WorkerState.IDLE)


@define(eq=False)
class EndedJob:
    """A result kept until the client acknowledged it."""

    attempt: int
    outcome: int
    start: float
    end: float
    payload: bytes
    output: tuple[bytes, bytes] | None = None
    blob: int = 0
    segment: int | None = None
    sizes: Sequence[int] = ()


@define(eq=False)
class Session:
    """One client, connected or not."""

    key: str
    peer: str
    connected: bool = True
    closed: bool = False
    """It said goodbye, or was forgotten."""
    away_since: float | None = None
    """When its connection ended; None while it is there."""
    kept_since: float = 0.0
    """When the last of its jobs ended that nobody was there to hear of."""
    forgotten: bool = False
    """It came back after it was forgotten, and has opened nothing since."""
    jobs: dict[int, NodeJob] = field(factory=dict)
    """Waiting or running, by number."""
    ended: dict[int, EndedJob] = field(factory=dict)
    """Ended and not acknowledged, by number."""
    computations: dict[int, Computation] = field(factory=dict)

    @property
    def held(self) -> int:
        """Slots its computations take up."""
        return sum(computation.held for computation in self.computations.values())
