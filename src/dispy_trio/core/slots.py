"""Which job runs in which worker.

Theory of operation
-------------------
A node has slots. A slot is taken by each worker that has been given jobs, so a node never runs
more jobs than it has slots, whatever a returning or a second client believes.

Each computation has its own queue and its own workers, forked when a slot is free and jobs wait.
A worker is given one job, and, when its computation's jobs are short, as many more as fit into
`WORKER_SECONDS`; they can be recalled until they start. A worker that has run dry gives its slot
back, and the computation whose turn it is takes it.

Workers that idle are kept. When that makes more of them than the node can have, or one can't be
started, those of other computations give way.

A job with conditions (cores, GPUs, a process of its own…) is given to a worker alone, and takes
what it asks for from the time it is given to the time it ends. Jobs keep their order: one that does
not fit yet is waited for.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Sequence

from attrs import define, evolve, field

from dispy_trio.core import commands as c
from dispy_trio.core.nodes import demands, slots_taken
from dispy_trio.core.sessions import Computation, Loading, NodeJob, Worker, WorkerState
from dispy_trio.models import Conditions

__all__ = [
    "DUE_SLACK",
    "POLL_SECONDS",
    "STARTED_SECONDS",
    "WORKER_BYTES",
    "Slots",
    "device_variables",
    "thread_variables",
]

WORKER_BYTES = 256 * 1024
POLL_SECONDS = 0.002
"""How often a worker with more than one job is looked at."""
LINGER_SECONDS = 0.0001
"""A lone job shorter than this is waited for on the spot: that costs less than coming back."""
STARTED_SECONDS = 0.02
"""A job that runs this long is reported as started."""
START_AGAIN = 0.05
START_AGAIN_AT_LAST = 5.0
"""Seconds before a worker is started after one could not be; doubled each time, up to the last."""
DUE_SLACK = 0.25
"""Seconds after its deadline at which a node stops a job by itself."""
ISOLATED_DEPTH = 8
"""Isolated jobs to give to a worker at a time: forking is most of what they take."""


@define(eq=False)
class Slots:
    """The slots of a node, and who takes them."""

    slots: int = field(kw_only=True)
    resources: dict[str, int] = field(factory=dict, kw_only=True)
    """What jobs may take beside slots; GPUs under ``gpus``."""
    slot_threads: int = field(default=1, kw_only=True)
    """Processors of one slot."""
    most_workers: int = field(default=sys.maxsize, kw_only=True)
    """Of all computations together; not fewer than slots."""
    _most_slots: int = field(init=False)
    """It has had at any time: jobs that run go on when slots are taken away."""
    _free: dict[str, int] = field(init=False)
    _free_gpus: list[int] = field(init=False)
    _taken: int = field(default=0, init=False)
    """Slots with a worker that starts or has jobs."""
    _turn: deque[Computation] = field(factory=deque, init=False)
    """Whose turn it is to take a slot."""
    _next_worker: int = field(default=1, init=False)
    _poll_at: float = field(default=math.inf, init=False)
    _out: list[c.NodeCommand] = field(factory=list, init=False)
    _now: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._most_slots = self.slots
        self._free = dict(self.resources)
        self._free_gpus = list(range(self.resources.get("gpus", 0)))

    def _fill_slots(self) -> None:
        """Give free slots to the computations in turn."""
        turn = self._turn
        for _ in range(len(turn)):
            if self._taken >= self.slots:
                return
            computation = turn[0]
            turn.rotate(-1)
            if computation.state is Loading.READY and computation.waiting:
                try:
                    self._employ_workers(computation)
                    if computation.waiting:
                        self._start_workers(computation)
                except Exception as exc:
                    # A fault of ours: others have their turn all the same.
                    self._out.append(c.GiveUp(computation.session, computation.number, exc))

    def _employ_workers(self, computation: Computation) -> None:
        """Give waiting jobs to idle workers."""
        for worker in list(computation.idle_workers):
            if not computation.waiting or not self._has_room(computation):
                return
            job = computation.waiting[0]
            if _needs_fresh_worker(job) and worker.jobs_run:
                continue
            self._take_slots(worker, job.conditions)
            worker.move(WorkerState.BUSY)
            worker.busy_since = self._now
            self._give_jobs(computation, worker)

    def _start_workers(self, computation: Computation) -> None:
        """Fork workers for the waiting jobs that no idle one can take."""
        if self._now < computation.start_at:
            self._arm(computation.start_at - self._now)
            return
        states = [w.state for w in computation.workers.values()]
        starting = states.count(WorkerState.STARTING)
        living = len(states) - states.count(WorkerState.ENDING)
        while len(computation.waiting) > starting and self._has_room(computation):
            if living >= self.slots:
                if not self._dismiss_worker(computation):
                    return
                living -= 1
            if self._living() >= self.most_workers:
                wanted = min(len(computation.waiting) - starting, self.slots - self._taken)
                if self._make_way(computation, wanted):
                    self._dismiss_worker(computation)
                return
            self._start_worker(computation)
            starting += 1
            living += 1

    def _dismiss_worker(self, computation: Computation) -> bool:
        """Stop an idle worker that has run jobs, for one that has not; False when there is none."""
        if _needs_fresh_worker(computation.waiting[0]):
            for worker in computation.idle_workers:
                if worker.jobs_run:
                    self._stop_worker(computation, worker)
                    return True
        return False

    def _living(self) -> int:
        """Workers of all computations, those included that are about to end."""
        return sum(len(computation.workers) for computation in self._turn)

    def _make_way(self, computation: Computation, wanted: int) -> int:
        """Have that many workers of others end that idle; when they have, this one gets theirs.

        Returns how many it still lacks then.
        """
        others = [other for other in self._turn if other is not computation]
        for one in self._turn:
            states = [worker.state for worker in one.workers.values()]
            wanted -= states.count(WorkerState.ENDING)
        # Those last that will have work for them in a moment.
        for other in sorted(others, key=lambda other: bool(other.waiting)):
            for worker in list(other.idle_workers):
                if wanted <= 0:
                    return 0
                self._stop_worker(other, worker)
                wanted -= 1
        return max(0, wanted)

    def _put_off_start(self, computation: Computation, failures: int) -> None:
        """Let time pass before the next worker is started, the more the oftener it failed."""
        delay = START_AGAIN_AT_LAST if failures > 6 else START_AGAIN * 2**failures
        computation.start_at = self._now + delay

    def _start_others(self, computation: Computation) -> None:
        """Something of this one has ended: what it had may be what others lacked."""
        for other in self._turn:
            if other.refused and other is not computation:
                other.start_at = self._now

    def _has_room(self, computation: Computation) -> bool:
        """May the job that waits first be started now?"""
        if self._taken >= self.slots:
            return False
        conditions = computation.waiting[0].conditions
        needed = 1 if conditions is None else slots_taken(conditions)
        if computation.limit and computation.held + needed > computation.limit:
            return False
        if conditions is None:
            return True
        return self._taken + needed <= self.slots and all(
            amount <= self._free.get(name, 0) for name, amount in demands(conditions).items()
        )

    def _can_fit(self, computation: Computation, conditions: Conditions | None) -> bool:
        """Could such a job be started if nothing else ran?"""
        if conditions is None:
            return True
        most = min(self.slots, computation.limit or self.slots)
        return slots_taken(conditions) <= most and all(
            amount <= self.resources.get(name, 0) for name, amount in demands(conditions).items()
        )

    def _take_slots(self, worker: Worker, conditions: Conditions | None) -> None:
        worker.held = 1
        worker.conditions = conditions
        if conditions is not None:
            worker.held = slots_taken(conditions)
            worker.taken = demands(conditions)
            for name, amount in worker.taken.items():
                self._free[name] -= amount
            devices = worker.taken.get("gpus", 0)
            worker.gpus = self._free_gpus[:devices]
            del self._free_gpus[:devices]
        self._taken += worker.held

    def _give_slot_back(self, worker: Worker) -> None:
        self._taken -= worker.held
        worker.held = 0
        if worker.taken:
            for name, amount in worker.taken.items():
                self._free[name] += amount
            worker.taken = {}
            self._free_gpus = sorted([*self._free_gpus, *worker.gpus])
            worker.gpus = []

    def _start_worker(self, computation: Computation) -> None:
        worker = Worker(self._next_worker)
        self._next_worker += 1
        computation.workers[worker.number] = worker
        self._take_slots(worker, None)
        self._out.append(c.StartWorker(computation.session, computation.number, worker.number))

    def _stop_worker(self, computation: Computation, worker: Worker) -> None:
        worker.move(WorkerState.ENDING)
        self._out.append(c.StopWorker(computation.session, computation.number, worker.number))

    def _others_wait(self, computation: Computation) -> bool:
        return len(self._turn) > 1 and any(
            other.waiting and other.state is Loading.READY
            for other in self._turn
            if other is not computation
        )

    def _top_up(self, computation: Computation, worker: Worker) -> None:
        """A busy worker has ended jobs: keep it supplied, unless its slot is another's due."""
        sent = worker.sent
        if not computation.waiting or (sent and sent[0].cancelled):
            return
        if worker.conditions is not None or computation.waiting[0].conditions is not None:
            return  # It runs dry, and then takes the slots that the next one needs.
        if not self.slots or (computation.limit and computation.held > computation.limit):
            return
        if len(sent) * 2 > computation.depth:
            return  # A good batch will fit soon.
        if self._taken >= self.slots and self._others_wait(computation):
            return  # It runs dry, and the slot goes to whoever's turn it is.
        self._give_jobs(computation, worker)

    def _give_jobs(self, computation: Computation, worker: Worker) -> None:
        waiting = computation.waiting
        busy = sum(1 for w in computation.workers.values() if w.state is WorkerState.BUSY)
        # An even share at most, so that no worker hoards what another could run.
        room = min(computation.depth - len(worker.sent), len(waiting) // max(1, busy) + 1)
        first = worker.next_sequence
        batch: list[NodeJob] = []
        size = 0
        if worker.conditions is not None:
            room = ISOLATED_DEPTH if _may_queue(worker.conditions) else 1
        while waiting and len(batch) < room and size <= WORKER_BYTES:
            job = waiting[0]
            if job.conditions is not worker.conditions:
                break
            if job.conditions is not None:
                if job.due < math.inf:
                    if batch:
                        break
                    room = 1  # Nobody waits behind it, and it behind nobody.
                self._set_conditions(worker, job.conditions, job)
            del waiting[0]
            job.sequence = first + len(batch)
            batch.append(job)
            size += len(job.payload) if job.payload is not None else WORKER_BYTES
        if not batch:
            return
        worker.next_sequence = first + len(batch)
        worker.sent.extend(batch)
        self._out.append(
            c.SendJobsToWorker(computation.session, computation.number, worker.number, batch)
        )
        # Isolated jobs take longer than that by themselves: nothing is to be seen so soon.
        short = len(worker.sent) > 1 and worker.conditions is None
        self._arm(POLL_SECONDS if short else STARTED_SECONDS)
        if (
            len(worker.sent) == 1
            and self._taken == 1
            and computation.duration is not None
            and computation.duration < LINGER_SECONDS
        ):
            self._out.append(
                c.LingerAtWorker(
                    computation.session, computation.number, worker.number, 2 * LINGER_SECONDS
                )
            )
            # And a program that sends lone jobs is about to send the next one.
            self._out.append(c.LingerAtSession(computation.session, 2 * LINGER_SECONDS))

    def _set_conditions(self, worker: Worker, conditions: Conditions, job: NodeJob) -> None:
        """What the worker is told before a job with conditions."""
        environment: dict[str, str] = {}
        if conditions.cpus > 1:
            environment |= thread_variables(conditions.cpus * self.slot_threads)
        if "gpus" in self.resources:
            environment |= device_variables(worker.gpus)
        settings = {
            "environment": environment,
            "memory": conditions.memory,
            "isolated": conditions.isolated,
        }
        job.settings = {name: value for name, value in settings.items() if value}
        if 0 < conditions.timeout < math.inf:
            worker.timeout_at = self._now + conditions.timeout
            job.settings["left"] = conditions.timeout
        if job.due < math.inf:
            left = job.due - self._now
            job.settings["left"] = min(left, job.settings.get("left", math.inf))
            # Its client stops it first, if it is there, and says why.
            worker.timeout_at = min(worker.timeout_at, job.due + DUE_SLACK)
        if worker.timeout_at < math.inf:
            self._arm(worker.timeout_at - self._now)

    def _arm(self, delay: float) -> None:
        self._poll_at = min(self._poll_at, self._now + delay)


_ISOLATED = Conditions(isolated=True)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)


def thread_variables(threads: int) -> dict[str, str]:
    """What tells numerical libraries how many threads to use."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def device_variables(gpus: Sequence[int]) -> dict[str, str]:
    """What tells libraries which GPUs are theirs."""
    return dict.fromkeys(_DEVICE_VARIABLES, ",".join(map(str, gpus)))


def _may_queue(conditions: Conditions) -> bool:
    """May jobs with these wait in a worker behind each other?"""
    return conditions.isolated and conditions == evolve(_ISOLATED, memory=conditions.memory)


def _needs_fresh_worker(job: NodeJob) -> bool:
    return job.conditions is not None and job.conditions.isolated
