"""What a node decides: which job runs in which worker, and what becomes of it.

Theory of operation
-------------------
A node has slots. A slot is taken by each worker that has been given jobs, so a node never runs
more jobs than it has slots, whatever a returning or a second client believes.

Each computation has its own queue and its own workers, forked when a slot is free and jobs wait.
A worker is given one job, and, when its computation's jobs are short, as many more as fit into
`WORKER_SECONDS`; they can be recalled until they start. A worker that has run dry gives its slot
back, and the computation whose turn it is takes it.

A job with conditions (cores, GPUs, a process of its own…) is given to a worker alone, and takes
what it asks for from the time it is given to the time it ends. Jobs keep their order: one that does
not fit yet is waited for.

Results stay in the session until the client acknowledged them. When the client is gone they wait,
and a client that comes back with the same session is sent all of them again; whoever receives a
result twice drops it by number and attempt.

The cancel ladder of a running job: SIGINT at once, SIGTERM after 5 s, SIGKILL after 7 s, each to
the process group of that very job. Before the first rung what waits behind the job in its worker
is recalled, so that no other job suffers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from attrs import define, evolve, field

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core import workers
from dispy_trio.core.nodes import demands
from dispy_trio.core.sessions import (
    WORKER_JOBS,
    Computation,
    EndedJob,
    Loading,
    NodeJob,
    Session,
    Worker,
    WorkerState,
)
from dispy_trio.errors import IllegalMove
from dispy_trio.models import Conditions, Outcome

__all__ = [
    "NodeMachine",
    "NodeMachineEvent",
    "TemplateReport",
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
TERM_AFTER = 5.0
KILL_AFTER = 7.0
LIVE_SECONDS = 0.2
"""How often what a job writes is sent while it runs, to who wants that."""
ISOLATED_DEPTH = 4
"""Isolated jobs to give to a worker at a time: forking is most of what they take."""
STILLBORN_LIMIT = 3
"""Workers of a computation that may die in a row before any ran a job."""


@define
class TemplateReport:
    """A `workers.TemplateEvent` with the computation it is about."""

    session: str
    computation: int
    event: workers.TemplateEvent


NodeMachineEvent = (
    e.Tick
    | e.SessionConnected
    | e.SessionDisconnected
    | e.SessionClosed
    | e.MessageReceived
    | e.BulkJobReceived
    | e.BundleReceived
    | e.TemplateClosed
    | e.SlotsSet
    | e.LeaveRequested
    | e.TerminateRequested
    | TemplateReport
)


@define(eq=False)
class NodeMachine:
    """All sessions, computations and workers of one node."""

    name: str
    slots: int
    platform: str = ""
    resources: dict[str, int] = field(factory=dict)
    """What jobs may take beside slots; GPUs under ``gpus``."""
    slot_threads: int = 1
    """Processors of one slot."""
    sessions: dict[str, Session] = field(factory=dict)
    jobs_done: int = 0
    leaving: e.LeaveRequested | None = None
    _most_slots: int = field(init=False)
    """It has had at any time: jobs that run go on when slots are taken away."""
    _free: dict[str, int] = field(init=False)
    _free_gpus: list[int] = field(init=False)
    _taken: int = 0
    """Slots with a worker that starts or has jobs."""
    _turn: deque[Computation] = field(factory=deque)
    """Whose turn it is to take a slot."""
    _next_worker: int = 1
    _next_blob: int = 1
    _poll_at: float = math.inf
    _out: list[c.NodeCommand] = field(factory=list)
    _now: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._most_slots = self.slots
        self._free = dict(self.resources)
        self._free_gpus = list(range(self.resources.get("gpus", 0)))

    # --- the door ------------------------------------------------------------------------------
    def handle(self, event: NodeMachineEvent, *, now: float) -> list[c.NodeCommand]:
        """Take in what happened; return what to do about it."""
        self._now = now
        match event:
            case TemplateReport(session=key, computation=number, event=report):
                session = self.sessions.get(key)
                computation = session.computations.get(number) if session else None
                if session is not None and computation is not None:
                    self._on_report(session, computation, report)
            case e.MessageReceived(source=key, message=message):
                session = self.sessions.get(key)
                if session is not None:
                    self._on_message(session, message)
            case e.BulkJobReceived(session=key, message=bulk, segment=segment):
                if (session := self.sessions.get(key)) is None:
                    self._out.append(c.ReleaseSegment(segment))
                else:
                    self._run_bulk(session, bulk, segment)
            case e.BundleReceived(session=key, message=opening, bundle=bundle):
                if (session := self.sessions.get(key)) is not None:
                    self._open(session, opening, bundle)
            case e.Tick():
                self._poll()
            case e.SessionConnected(session=key, peer=peer):
                self._connected(key, peer)
            case e.SessionDisconnected(session=key):
                if (session := self.sessions.get(key)) is not None:
                    session.connected = False
            case e.SessionClosed(session=key):
                if (session := self.sessions.get(key)) is not None:
                    self._end_session(session)
            case e.TemplateClosed(session=key, computation=number):
                self._template_closed(key, number)
            case e.SlotsSet(slots=slots):
                self._set_slots(slots)
            case e.LeaveRequested():
                self.leaving = event
            case e.TerminateRequested():
                self._terminate_all()
            case _:
                assert_never(event)
        self._fill_slots()
        if self.leaving is not None and self._has_left(self.leaving):
            self._out.append(c.NodeFinished())
        out, self._out = self._out, []
        return out

    def next_deadline(self) -> float:
        """When to feed a `Tick`; infinity for never."""
        return self._poll_at

    def running_job(
        self, session: str, computation: int, worker: int, sequence: int
    ) -> NodeJob | None:
        """The job that a worker has under that sequence."""
        try:
            sent = self.sessions[session].computations[computation].workers[worker].sent
        except KeyError:
            return None
        return next((job for job in sent if job.sequence == sequence), None)

    @property
    def idle(self) -> bool:
        """Nothing waits, runs, or is being closed here."""
        return not any(s.jobs or s.computations for s in self.sessions.values())

    @property
    def busy(self) -> int:
        """Jobs that run."""
        return sum(
            bool(worker.sent)
            for session in self.sessions.values()
            for computation in session.computations.values()
            for worker in computation.workers.values()
        )

    # --- the node itself -----------------------------------------------------------------------
    def _set_slots(self, slots: int) -> None:
        fewer = slots < self.slots
        self.slots = slots
        self._most_slots = max(self._most_slots, slots)
        for session in self.sessions.values():
            self._send(session, messages.NodeCpus(slots))
            if not fewer:
                continue
            for computation in session.computations.values():
                # Other nodes may have room for what waits here.
                self._recall(session, computation.number, len(session.jobs))

    def _has_left(self, leaving: e.LeaveRequested) -> bool:
        if leaving.computations:
            return not any(s.computations or s.connected for s in self.sessions.values())
        # Results that nobody is there to take are not waited for.
        return not any(s.jobs or (s.ended and s.connected) for s in self.sessions.values())

    def _terminate_all(self) -> None:
        for session in self.sessions.values():
            for job in list(session.jobs.values()):
                self._cancel(session, job)

    # --- sessions ------------------------------------------------------------------------------
    def _connected(self, key: str, peer: str) -> None:
        session = self.sessions.get(key)
        if session is None:
            session = self.sessions[key] = Session(key, peer)
        session.connected = True
        session.peer = peer
        self._send(
            session,
            messages.SessionState(
                name=self.name,
                cpus=self.slots,
                platform=self.platform,
                numbers=[*session.jobs, *session.ended],
                computations=list(session.computations),
                resources=self.resources,
            ),
        )
        for computation in session.computations.values():
            if computation.state is Loading.READY:
                self._send(session, messages.ComputationReady(computation.number))
        self._deliver(session, session.ended)

    def _end_session(self, session: Session) -> None:
        session.connected = False
        session.closed = True
        for ended in session.ended.values():
            self._release(ended)
        session.ended.clear()
        for computation in list(session.computations.values()):
            self._close(session, computation, terminate=True)
        if not session.computations:
            del self.sessions[session.key]

    # --- messages ------------------------------------------------------------------------------
    def _send(self, session: Session, message: messages.Message) -> None:
        if session.connected:
            self._out.append(c.Send(session.key, message))

    def _on_message(self, session: Session, message: messages.Message) -> None:
        match message:
            case messages.RunJobs():
                self._run(session, message)
            case messages.AckResults(numbers=numbers):
                self._acknowledged(session, numbers)
            case messages.OpenComputation():
                self._open(session, message, message.bundle)
            case messages.CancelJobs():
                for number, attempt in zip(message.numbers, message.attempts, strict=True):
                    job = session.jobs.get(number)
                    if job is not None and attempt in (job.attempt, -1):
                        self._cancel(session, job)
            case messages.RecallJobs(computation=number, count=count):
                self._recall(session, number, count)
            case messages.SetCpus(computation=number, cpus=cpus):
                if (computation := session.computations.get(number)) is not None:
                    computation.limit = cpus
            case messages.CloseComputation(computation=number, terminate=terminate):
                computation = session.computations.get(number)
                if computation is None:
                    # There may be files of it.
                    self._out.append(c.CloseTemplate(session.key, number, message.release))
                else:
                    computation.release = message.release
                    self._close(session, computation, terminate=terminate)
            case _:
                # Heartbeats and files are the shell's; the rest is never sent to a node.
                return

    def _run_bulk(self, session: Session, message: messages.RunBulkJob, segment: int) -> None:
        computation = session.computations.get(message.computation)
        number = message.number
        if computation is None or computation.state is Loading.CLOSING:
            self._out.append(c.ReleaseSegment(segment))
            self._send(session, messages.JobsReturned(message.computation, [number]))
        elif number in session.jobs or number in session.ended:
            self._out.append(c.ReleaseSegment(segment))
        else:
            job = NodeJob(
                0,
                None,
                segment,
                message.sizes,
                number=number,
                attempt=message.attempt,
                conditions=message.conditions,
            )
            session.jobs[number] = job
            computation.waiting.append(job)

    def _open(self, session: Session, message: messages.OpenComputation, bundle: Any) -> None:
        number = message.computation
        if number in session.computations:
            return
        options = message.options
        computation = Computation(
            session.key,
            number,
            message.name,
            limit=options.cpus,
            live_output=options.live_output,
        )
        session.computations[number] = computation
        self._turn.append(computation)
        self._out.append(c.OpenTemplate(session.key, number, message.name, bundle, options))

    def _run(self, session: Session, message: messages.RunJobs) -> None:
        self._acknowledged(session, message.acknowledged)
        computation = session.computations.get(message.computation)
        if computation is None or computation.state is Loading.CLOSING:
            # The client closed it, or it failed; the client hears of that by its own message.
            self._send(session, messages.JobsReturned(message.computation, message.numbers))
            return
        jobs = session.jobs
        ended = session.ended
        append = computation.waiting.append
        for number, attempt, payload in zip(
            message.numbers, message.attempts, message.payloads, strict=True
        ):
            if number in jobs or (number in ended and ended[number].attempt >= attempt):
                continue
            job = NodeJob(0, payload, number=number, attempt=attempt, conditions=message.conditions)
            jobs[number] = job
            append(job)
        if not self.slots:
            # It was on its way when we stopped to take jobs.
            self._recall(session, computation.number, len(message.numbers))

    def _acknowledged(self, session: Session, numbers: Sequence[int]) -> None:
        pop = session.ended.pop
        for number in numbers:
            ended = pop(number, None)
            if ended is not None and ended.segment is not None:
                self._release(ended)

    def next_blob(self) -> int:
        """An identity for a blob that is not a result."""
        self._next_blob += 1
        return self._next_blob - 1

    def _release(self, ended: EndedJob) -> None:
        if ended.segment is not None:
            self._out.append(c.ReleaseSegment(ended.segment))
            ended.segment = None

    # --- what templates and workers tell -------------------------------------------------------
    def _on_report(
        self, session: Session, computation: Computation, report: workers.TemplateEvent
    ) -> None:
        if computation.state is Loading.CLOSING:
            # All its jobs have ended; what its dying processes still say changes nothing.
            if isinstance(report, workers.WorkerResults):
                for result in report.results:
                    if result.segment is not None:
                        self._out.append(c.ReleaseSegment(result.segment))
            return
        match report:
            case workers.WorkerResults(worker=number, results=results):
                self._results(session, computation, computation.workers[number], results)
            case workers.WorkerStarted(worker=number):
                worker = computation.workers[number]
                if worker.state is WorkerState.STARTING:
                    worker.move(WorkerState.IDLE)
                    self._give_slot_back(worker)
            case workers.WorkerRecalled(worker=number, started=started):
                self._recalled(session, computation, computation.workers[number], started)
            case workers.WorkerDied():
                self._worker_died(session, computation, report)
            case workers.TemplateReady():
                if computation.state is Loading.LOADING:
                    computation.state = Loading.READY
                    self._send(session, messages.ComputationReady(computation.number))
            case workers.TemplateFailed(text=text):
                self._fail(session, computation, text)
            case workers.TemplateDied(text=text):
                self._fail(session, computation, f"its process ended: {text}")
            case workers.WorkerCall():
                # Answered by the shell: it is about files, not about jobs.
                return
            case _:
                assert_never(report)

    def _results(
        self,
        session: Session,
        computation: Computation,
        worker: Worker,
        results: Sequence[workers.WorkerResult],
    ) -> None:
        jobs = session.jobs
        ended = session.ended
        sent = worker.sent
        fresh: dict[int, EndedJob] = {}
        total = 0.0
        for result in results:
            job = sent.popleft()
            if job.sequence != result.sequence:
                raise IllegalMove(
                    f"worker {worker.number} reports job {result.sequence} of its queue while"
                    f" {job.sequence} is next"
                )
            number = job.number
            outcome = result.outcome
            if outcome == Outcome.CANCELLED:
                outcome = Outcome.INTERRUPTED
                if job.timed_out:
                    outcome, result.payload = Outcome.TIMED_OUT, _timed_out(job)
            elif outcome == Outcome.DIED:
                # An isolated job: its process is not a worker.
                result.payload += f", on node {self.name}, attempt {job.attempt}".encode()
                if job.cancelled:
                    outcome = Outcome.INTERRUPTED
                elif job.timed_out:
                    outcome, result.payload = Outcome.TIMED_OUT, _timed_out(job)
            total += result.end - result.start
            output = (result.stdout, result.stderr) if result.stdout or result.stderr else None
            record = EndedJob(
                job.attempt, outcome, result.start, result.end, result.payload, output
            )
            if job.segment is not None:
                self._out.append(c.ReleaseSegment(job.segment))
            if result.segment is not None:
                record.segment = result.segment
                record.sizes = result.sizes
                record.blob = self._next_blob
                self._next_blob += 1
            del jobs[number]
            ended[number] = record
            fresh[number] = record
        if not fresh:
            return
        count = len(fresh)
        self.jobs_done += count
        worker.ran = True
        if worker.conditions is None or not worker.conditions.isolated:
            worker.jobs_run += count
        computation.stillborn = 0
        mean = max(total / count, 1e-7)
        old = computation.duration
        weight = min(0.5, 0.1 * count)
        computation.duration = mean if old is None else old + weight * (mean - old)
        worker.busy_since = self._now
        worker.cancel_at = math.inf
        worker.ladder = 0
        worker.timeout_at = math.inf
        if worker.is_spent and not sent:
            self._give_slot_back(worker)
            self._stop_worker(computation, worker)
        elif sent:
            if sent[0].cancelled:
                # It was waiting when its cancel came, and started before it could be recalled.
                self._climb(computation, worker)
            if worker.state is WorkerState.BUSY:
                self._top_up(computation, worker)
        elif worker.state is WorkerState.BUSY:
            self._top_up(computation, worker)
            if not sent:
                worker.move(WorkerState.IDLE)
                self._give_slot_back(worker)
        if session.closed:
            for record in fresh.values():
                self._release(record)
            ended.clear()
        else:
            self._deliver(session, fresh)
        if computation.closing:
            self._check_drained(session, computation)

    def _recalled(
        self, session: Session, computation: Computation, worker: Worker, started: int
    ) -> None:
        returned: list[NodeJob] = []
        while worker.sent and worker.sent[-1].sequence > started:
            returned.append(worker.sent.pop())
        for job in returned:
            job.sequence = 0
            computation.waiting.appendleft(job)
        self._drop_cancelled(session, computation)
        if not self.slots and computation.waiting:
            self._recall(session, computation.number, len(computation.waiting))
        if worker.state is WorkerState.RECALLING:
            if worker.sent:
                worker.move(WorkerState.BUSY)
            else:
                worker.move(WorkerState.IDLE)
                self._give_slot_back(worker)
        if worker.sent and worker.sent[0].cancelled and worker.ladder == 0:
            self._climb(computation, worker)
        if computation.closing:
            self._check_drained(session, computation)

    def _worker_died(
        self, session: Session, computation: Computation, report: workers.WorkerDied
    ) -> None:
        worker = computation.workers.pop(report.worker)
        self._give_slot_back(worker)
        victim: NodeJob | None = None
        if worker.sent and worker.sent[0].sequence <= report.started:
            victim = worker.sent.popleft()
        for job in reversed(worker.sent):
            job.sequence = 0
            computation.waiting.appendleft(job)
        worker.sent.clear()
        if victim is not None:
            computation.stillborn = 0
            outcome = Outcome.INTERRUPTED if victim.cancelled else Outcome.DIED
            text = f"{report.how}, on node {self.name}, attempt {victim.attempt}"
            if victim.timed_out:
                outcome, text = Outcome.TIMED_OUT, f"{_timed_out(victim).decode()}; {text}"
            self._end(
                session,
                victim,
                outcome,
                text,
                start=report.start,
                end=report.end,
                output=(report.stdout, report.stderr),
            )
        elif not worker.ran and worker.state is not WorkerState.ENDING:
            computation.stillborn += 1
            if computation.stillborn >= STILLBORN_LIMIT:
                self._fail(
                    session,
                    computation,
                    f"{computation.stillborn} worker processes in a row ended before they ran a"
                    f" job, the last one: {report.how}",
                )
                return
        self._drop_cancelled(session, computation)
        if computation.closing:
            self._check_drained(session, computation)

    def _end(
        self,
        session: Session,
        job: NodeJob,
        outcome: Outcome,
        text: str,
        *,
        start: float = 0.0,
        end: float = 0.0,
        output: tuple[bytes, bytes] | None = None,
    ) -> None:
        """A job ends by something other than its own result."""
        session.jobs.pop(job.number, None)
        if job.segment is not None:
            self._out.append(c.ReleaseSegment(job.segment))
        record = EndedJob(job.attempt, outcome, start, end, text.encode(), output)
        if not session.closed:
            session.ended[job.number] = record
            self._deliver(session, {job.number: record})

    def _deliver(self, session: Session, ended: dict[int, EndedJob]) -> None:
        if not session.connected or not ended:
            return
        small: list[tuple[int, EndedJob]] = []
        size = 0
        for number, record in ended.items():
            if record.segment is not None:
                self._send_columns(session, [(number, record)])
                continue
            small.append((number, record))
            size += len(record.payload)
            if record.output is not None:
                size += len(record.output[0]) + len(record.output[1])
            if size > WORKER_BYTES or len(small) >= WORKER_JOBS:
                self._send_columns(session, small)
                small = []
                size = 0
        if small:
            self._send_columns(session, small)

    def _send_columns(self, session: Session, records: list[tuple[int, EndedJob]]) -> None:
        message = messages.JobsFinished(
            numbers=[number for number, _ in records],
            attempts=[r.attempt for _, r in records],
            outcomes=[r.outcome for _, r in records],
            starts=[r.start for _, r in records],
            ends=[r.end for _, r in records],
            payloads=[r.payload for _, r in records],
            outputs={number: r.output for number, r in records if r.output is not None},
            blobs={number: (r.blob, list(r.sizes)) for number, r in records if r.blob},
            segments={},
        )
        self._out.append(
            c.SendResults(
                session.key,
                message,
                {r.blob: r.segment for _, r in records if r.segment is not None},
            )
        )

    # --- slots ---------------------------------------------------------------------------------
    def _fill_slots(self) -> None:
        """Give free slots to the computations in turn."""
        turn = self._turn
        for _ in range(len(turn)):
            if self._taken >= self.slots:
                return
            computation = turn[0]
            turn.rotate(-1)
            if computation.state is Loading.READY and computation.waiting:
                self._employ_workers(computation)
                if computation.waiting:
                    self._start_workers(computation)

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
        states = [w.state for w in computation.workers.values()]
        starting = states.count(WorkerState.STARTING)
        living = len(states) - states.count(WorkerState.ENDING)
        while len(computation.waiting) > starting and self._has_room(computation):
            if living >= self.slots:
                if not self._dismiss_worker(computation):
                    return
                living -= 1
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

    def _has_room(self, computation: Computation) -> bool:
        """May the job that waits first be started now?"""
        if self._taken >= self.slots:
            return False
        if computation.limit and computation.held >= computation.limit:
            return False
        conditions = computation.waiting[0].conditions
        if conditions is None:
            return True
        return self._taken + conditions.cpus <= self.slots and all(
            amount <= self._free.get(name, 0) for name, amount in demands(conditions).items()
        )

    def _take_slots(self, worker: Worker, conditions: Conditions | None) -> None:
        worker.held = 1
        worker.conditions = conditions
        if conditions is not None:
            worker.held = conditions.cpus
            worker.taken = demands(conditions)
            for name, amount in worker.taken.items():
                self._free[name] -= amount
            worker.gpus = self._free_gpus[: conditions.gpus]
            del self._free_gpus[: conditions.gpus]
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
            c.SendJobsToWorker(computation.session, computation.number, worker.number, first, batch)
        )
        self._arm(POLL_SECONDS if len(worker.sent) > 1 else STARTED_SECONDS)
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
        job.settings = {
            "environment": environment,
            "memory": conditions.memory,
            "isolated": conditions.isolated,
        }
        if conditions.timeout:
            worker.timeout_at = self._now + conditions.timeout
            self._arm(conditions.timeout)

    def _arm(self, delay: float) -> None:
        self._poll_at = min(self._poll_at, self._now + delay)

    def _poll(self) -> None:
        """Look at the workers: results they hold back, jobs to report, ladders to climb."""
        self._poll_at = math.inf
        for session in self.sessions.values():
            started: list[c.StartedJob] = []
            for computation in session.computations.values():
                for worker in computation.workers.values():
                    if worker.sent:
                        self._poll_worker(computation, worker, started)
            if started:
                self._out.append(c.SendStarted(session.key, started))

    def _poll_worker(
        self, computation: Computation, worker: Worker, started: list[c.StartedJob]
    ) -> None:
        head = worker.sent[0]
        stuck = self._now - worker.busy_since
        if len(worker.sent) > 1:
            self._out.append(c.PollWorker(computation.session, computation.number, worker.number))
            if (
                stuck > STARTED_SECONDS
                and worker.state is WorkerState.BUSY
                and self._taken < self.slots
            ):
                # One long job after many short ones, and a slot is free: others could run.
                self._recall_worker(computation, worker)
            self._arm(POLL_SECONDS if stuck < STARTED_SECONDS else STARTED_SECONDS)
        if not head.reported:
            if stuck >= STARTED_SECONDS:
                head.reported = True
                started.append(
                    c.StartedJob(
                        computation.number,
                        worker.number,
                        head.sequence,
                        head.number,
                        head.attempt,
                    )
                )
            else:
                self._arm(STARTED_SECONDS - stuck + 0.001)
        if computation.live_output:
            self._send_output(computation, worker, head)
        if worker.cancel_at < math.inf:
            self._climb(computation, worker)
        elif self._now >= worker.timeout_at:
            head.timed_out = True
            self._climb(computation, worker)
        elif worker.timeout_at < math.inf:
            self._arm(worker.timeout_at - self._now)

    def _send_output(self, computation: Computation, worker: Worker, head: NodeJob) -> None:
        due = worker.output_at + LIVE_SECONDS
        if self._now >= due:
            worker.output_at = self._now
            due = self._now + LIVE_SECONDS
            self._out.append(
                c.SendOutput(
                    computation.session,
                    computation.number,
                    worker.number,
                    head.sequence,
                    head.number,
                    head.attempt,
                )
            )
        self._arm(due - self._now)

    def _recall_worker(self, computation: Computation, worker: Worker) -> None:
        worker.move(WorkerState.RECALLING)
        self._out.append(c.RecallWorker(computation.session, computation.number, worker.number))

    # --- cancel and close ----------------------------------------------------------------------
    def _cancel(self, session: Session, job: NodeJob) -> None:
        if job.cancelled:
            return
        job.cancelled = True
        computation, worker = self._whereabouts(session, job)
        if worker is None:
            self._drop_cancelled(session, computation)
            return
        if worker.sent[0] is job:
            self._climb(computation, worker)
        elif worker.state is WorkerState.BUSY:
            self._recall_worker(computation, worker)

    def _whereabouts(self, session: Session, job: NodeJob) -> tuple[Computation, Worker | None]:
        for computation in session.computations.values():
            for worker in computation.workers.values():
                if job.sequence and job in worker.sent:
                    return computation, worker
            if not job.sequence and job in computation.waiting:
                return computation, None
        raise IllegalMove(f"job {job.number} is in no queue of session {session.key}")

    def _climb(self, computation: Computation, worker: Worker) -> None:
        """Go up the cancel ladder for the job at the head, as far as time says."""
        where = (computation.session, computation.number, worker.number)
        head = worker.sent[0]
        if worker.ladder == 0:
            worker.cancel_at = self._now
            worker.ladder = 1
            if len(worker.sent) > 1 and worker.state is WorkerState.BUSY:
                self._recall_worker(computation, worker)
            self._out.append(c.InterruptJob(*where, head.sequence))
        since = self._now - worker.cancel_at
        if worker.ladder == 1 and since >= TERM_AFTER:
            worker.ladder = 2
            self._out.append(c.TerminateJob(*where, head.sequence))
        if worker.ladder == 2 and since >= KILL_AFTER:
            worker.ladder = 3
            self._out.append(c.KillWorker(*where))
            if worker.state is not WorkerState.ENDING:
                worker.move(WorkerState.ENDING)
        if worker.ladder < 3:
            self._arm((TERM_AFTER if worker.ladder == 1 else KILL_AFTER) - since + 0.001)

    def _drop_cancelled(self, session: Session, computation: Computation) -> None:
        """End the cancelled jobs that wait here."""
        cancelled = [job for job in computation.waiting if job.cancelled]
        if not cancelled:
            return
        computation.waiting = deque(job for job in computation.waiting if not job.cancelled)
        for job in cancelled:
            self._end(session, job, Outcome.CANCELLED, "cancelled before it started")
        if computation.closing:
            self._check_drained(session, computation)

    def _recall(self, session: Session, number: int, count: int) -> None:
        computation = session.computations.get(number)
        returned: list[int] = []
        if computation is not None:
            while computation.waiting and len(returned) < count:
                job = computation.waiting.pop()
                del session.jobs[job.number]
                if job.segment is not None:
                    self._out.append(c.ReleaseSegment(job.segment))
                returned.append(job.number)
            if not returned:
                # Next time there may be something: what workers hold back comes here first.
                for worker in computation.workers.values():
                    if len(worker.sent) > 1 and worker.state is WorkerState.BUSY:
                        self._recall_worker(computation, worker)
        self._send(session, messages.JobsReturned(number, returned))

    def _close(self, session: Session, computation: Computation, *, terminate: bool) -> None:
        computation.closing = True
        if computation.state is Loading.CLOSING:
            return
        if not terminate:
            self._check_drained(session, computation)
            return
        for job in self._all_jobs(computation):
            job.cancelled = True
        waiting, computation.waiting = computation.waiting, deque()
        for job in waiting:
            self._end(session, job, Outcome.CANCELLED, "cancelled before it started")
        for worker in computation.workers.values():
            for job in worker.sent:
                self._end(session, job, Outcome.INTERRUPTED, "its cluster was closed")
        self._close_template(computation)

    @staticmethod
    def _all_jobs(computation: Computation) -> Iterable[NodeJob]:
        yield from computation.waiting
        for worker in computation.workers.values():
            yield from worker.sent

    def _check_drained(self, session: Session, computation: Computation) -> None:
        if computation.state is Loading.CLOSING or computation.waiting:
            return
        if not any(worker.sent for worker in computation.workers.values()):
            self._close_template(computation)

    def _close_template(self, computation: Computation) -> None:
        computation.state = Loading.CLOSING
        for worker in computation.workers.values():
            self._give_slot_back(worker)
        computation.workers.clear()
        if computation in self._turn:
            self._turn.remove(computation)
        self._out.append(
            c.CloseTemplate(computation.session, computation.number, computation.release)
        )

    def _fail(self, session: Session, computation: Computation, text: str) -> None:
        """The computation can't go on here: what runs ends, what waits goes back."""
        if computation.state is Loading.CLOSING:
            return
        returned: list[NodeJob] = []
        for worker in computation.workers.values():
            if worker.sent:
                head = worker.sent.popleft()
                self._end(session, head, Outcome.DIED, f"{text}, on node {self.name}")
                returned += worker.sent
                worker.sent.clear()
        returned += computation.waiting
        computation.waiting.clear()
        for job in returned:
            del session.jobs[job.number]
            if job.segment is not None:
                self._out.append(c.ReleaseSegment(job.segment))
        if returned:
            self._send(
                session,
                messages.JobsReturned(computation.number, [job.number for job in returned]),
            )
        self._send(session, messages.ComputationFailed(computation.number, text))
        self._close_template(computation)

    def _template_closed(self, key: str, number: int) -> None:
        session = self.sessions.get(key)
        if session is None:
            return
        session.computations.pop(number, None)
        self._send(session, messages.ComputationClosed(number))
        if session.closed and not session.computations:
            del self.sessions[key]

    def validate(self) -> None:
        """Check what must always be true; tests call it after every event."""
        taken = 0
        for session in self.sessions.values():
            held: list[int] = []
            for computation in session.computations.values():
                held += [job.number for job in self._all_jobs(computation)]
                for worker in computation.workers.values():
                    taken += worker.held
                    if worker.sent:
                        assert worker.held, worker
                    if worker.state is WorkerState.IDLE:
                        assert not worker.sent, worker
            assert sorted(held) == sorted(session.jobs), (held, session.jobs)
        assert taken <= max(self.slots, self._most_slots)
        assert taken == self._taken, (taken, self._taken)
        assert all(amount >= 0 for amount in self._free.values()), self._free


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


def _timed_out(job: NodeJob) -> bytes:
    assert job.conditions is not None
    return f"ran longer than its timeout of {job.conditions.timeout:g} s".encode()
