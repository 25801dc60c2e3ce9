"""What a node decides: what becomes of its sessions, computations, jobs and workers. Which job runs in
which worker is decided in `core.slots`.

Theory of operation
-------------------
Results stay in the session until the client acknowledged them. When the client is gone they wait,
and a client that comes back with the same session is sent all of them again; whoever receives a
result twice drops it by number and attempt.

What an absent client's jobs take stays taken until they end: long ones are what one comes back for.
After `zombie_seconds` away, and as long without a job that ended, a client with nothing left to run
is forgotten; where the node is to end what absent clients run, so is one with jobs. A client that
comes back after that is told, so that it does not take what is gone for what has never run.

The cancel ladder of a running job: SIGINT at once, SIGTERM after its grace, which is 5 s if nobody
says more, SIGKILL 2 s later, each to the process group of that very job. Before the first rung what
waits behind the job in its worker is recalled, so that no other job suffers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from attrs import define, field

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core import workers
from dispy_trio.core.nodes import demands, slots_taken
from dispy_trio.core.sessions import (
    WORKER_JOBS,
    Computation,
    DueJob,
    EndedJob,
    Loading,
    NodeJob,
    Session,
    Worker,
    WorkerState,
)
from dispy_trio.core.slots import DUE_SLACK, POLL_SECONDS, STARTED_SECONDS, WORKER_BYTES, Slots
from dispy_trio.errors import IllegalMove
from dispy_trio.models import (
    CONDITIONS_OF_MOST,
    KILL_SECONDS,
    Conditions,
    Outcome,
    SlotHolder,
)
from dispy_trio.texts import to_bytes

__all__ = ["NodeMachine", "NodeMachineEvent", "TemplateReport"]

LIVE_SECONDS = 0.2
"""How often what a job writes is sent while it runs, to who wants that."""
HOLDERS_TOLD = 32
"""Clients that take slots, of which others are told."""
FORGOTTEN_KEPT = 4096
"""Clients that were forgotten, to be recognised should they come back."""
STILLBORN_LIMIT = 3
"""Workers of a computation that may die in a row before any ran a job."""
TEMPLATE_WORKERS = 2
"""Idle workers that give way to the process of a computation."""
REFUSED_LIMIT = 8
"""Times in a row that starting a worker may fail on a node that has none at all."""


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
    | e.SessionReleased
    | e.MessageReceived
    | e.BulkJobReceived
    | e.BundleReceived
    | e.TemplateClosed
    | e.TemplateRefused
    | e.SlotsSet
    | e.LeaveRequested
    | e.TerminateRequested
    | e.JobUnstarted
    | TemplateReport
)


@define(eq=False)
class NodeMachine(Slots):
    """All sessions, computations and workers of one node."""

    name: str
    platform: str = ""
    sessions: dict[str, Session] = field(factory=dict)
    jobs_done: int = 0
    leaving: e.LeaveRequested | None = None
    zombie_seconds: float = 0.0
    """After which a client that is away is forgotten; 0 for never."""
    ends_zombie_jobs: bool = False
    """Also one whose jobs still run."""
    _forgotten: dict[str, None] = field(factory=dict)
    """Sessions that were, the oldest first."""
    _next_blob: int = 1

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
                else:
                    # It is closed, and nobody waits for what came too late.
                    self._out += [c.ReleaseSegment(segment) for segment in _segments_of(report)]
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
            case e.JobUnstarted():
                self._look_again(event)
            case e.SessionConnected(session=key, peer=peer):
                self._connected(key, peer)
            case e.SessionDisconnected(session=key):
                if (session := self.sessions.get(key)) is not None:
                    self._went_away(session)
            case e.SessionReleased(session=key):
                session = self.sessions.get(key)
                if session is not None and not (session.connected or session.closed):
                    self._forget(session, "was released")
            case e.SessionClosed(session=key):
                if (session := self.sessions.get(key)) is not None:
                    self._end_session(session)
            case e.TemplateClosed(session=key, computation=number):
                self._template_closed(key, number)
            case e.TemplateRefused(session=key, computation=number):
                session = self.sessions.get(key)
                computation = session.computations.get(number) if session else None
                if computation is not None:
                    self._make_way(computation, TEMPLATE_WORKERS)
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
                self._return_misfits(session, computation)

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
        if session.closed or key in self._forgotten:
            self._forgotten.pop(key, None)
            session.closed = False
            session.forgotten = True
        session.connected = True
        session.away_since = None
        session.peer = peer
        known: dict[int, NodeJob | EndedJob] = {**session.ended, **session.jobs}
        self._send(
            session,
            messages.SessionState(
                name=self.name,
                cpus=self.slots,
                platform=self.platform,
                numbers=list(known),
                attempts=[job.attempt for job in known.values()],
                computations=list(session.computations),
                resources=self.resources,
                forgotten=session.forgotten,
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

    # --- clients that are away -----------------------------------------------------------------
    def holders(self, but: str, *, now: float) -> list[SlotHolder]:
        """Who takes slots, those that are away first, the longest first.

        Args:
            but: a session to leave out.
            now: the time.
        """
        found = [
            SlotHolder(
                session.peer,
                session.held,
                None if session.away_since is None else now - session.away_since,
            )
            for session in self.sessions.values()
            if session.key != but and session.held
        ]
        found.sort(key=lambda holder: (holder.away is None, -(holder.away or 0.0)))
        return found[:HOLDERS_TOLD]

    def _went_away(self, session: Session) -> None:
        session.connected = False
        session.away_since = session.kept_since = self._now
        self._is_overdue(session)

    def _is_overdue(self, session: Session) -> bool:
        """Has it been away for too long? If not, it is looked at again in time."""
        if session.away_since is None or session.closed or not self.zombie_seconds:
            return False
        since = session.away_since
        if not session.jobs:
            # Results, too, are kept for as long as one waits for a client.
            since = max(since, session.kept_since)
        elif not self.ends_zombie_jobs:
            since = self._now
        due = since + self.zombie_seconds
        if self._now < due:
            # Not as a delay: rounded, it may come a little too soon, again and again.
            self._poll_at = min(self._poll_at, due)
        return self._now >= due

    def _forget(self, session: Session, why: str) -> None:
        ran = f", and the {len(session.jobs)} jobs that it has here" if session.jobs else ""
        self._out.append(
            c.ForgetClient(session.key, f"client {session.peer} {why}; its computations end{ran}")
        )
        self._forgotten[session.key] = None
        if len(self._forgotten) > FORGOTTEN_KEPT:
            del self._forgotten[next(iter(self._forgotten))]
        self._end_session(session)

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
                    self._return_misfits(session, computation)
            case messages.CloseComputation(computation=number, terminate=terminate):
                computation = session.computations.get(number)
                if computation is None:
                    # There may be files of it. Whoever opens it meanwhile waits until it is closed.
                    computation = Computation(session.key, number, "", release=message.release)
                    session.computations[number] = computation
                    self._close_template(computation)
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
        elif not self._is_new(session, number, message.attempt):
            self._out.append(c.ReleaseSegment(segment))
        elif not self._can_fit(computation, message.conditions):
            self._out.append(c.ReleaseSegment(segment))
            self._send(session, messages.JobsReturned(message.computation, [number]))
        else:
            job = self._make_job(
                message.left,
                None,
                number,
                message.attempt,
                message.conditions,
                segment,
                message.sizes,
            )
            session.jobs[number] = job
            computation.waiting.append(job)
            self._watch_due(computation, job)

    def _open(self, session: Session, message: messages.OpenComputation, bundle: Any) -> None:
        number = message.computation
        session.forgotten = False
        if (old := session.computations.get(number)) is not None:
            if old.state is Loading.CLOSING:
                old.successor = (message, bundle)
            return
        options = message.options
        computation = Computation(
            session.key,
            number,
            message.name,
            limit=options.cpus,
            live_output=options.live_output,
            grace=options.grace,
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
        if not self._can_fit(computation, message.conditions):
            # Sent before its client knew what there is. Nobody is to wait behind these.
            unknown = [
                number
                for number, attempt in zip(message.numbers, message.attempts, strict=True)
                if self._is_new(session, number, attempt)
            ]
            self._send(session, messages.JobsReturned(message.computation, unknown))
            return
        append = computation.waiting.append
        if message.left is not None:
            self._run_timed(session, computation, message, message.left)
            return
        for number, attempt, payload in zip(
            message.numbers, message.attempts, message.payloads, strict=True
        ):
            if number in jobs or (number in ended and not self._is_new(session, number, attempt)):
                continue
            job = NodeJob(0, payload, number=number, attempt=attempt, conditions=message.conditions)
            jobs[number] = job
            append(job)
        if not self.slots:
            # It was on its way when we stopped to take jobs.
            self._recall(session, computation.number, len(message.numbers))

    def _run_timed(
        self,
        session: Session,
        computation: Computation,
        message: messages.RunJobs,
        left: Sequence[float],
    ) -> None:
        """The same for jobs with deadlines."""
        for number, attempt, payload, seconds in zip(
            message.numbers, message.attempts, message.payloads, left, strict=True
        ):
            if self._is_new(session, number, attempt):
                job = self._make_job(seconds, payload, number, attempt, message.conditions)
                session.jobs[number] = job
                computation.waiting.append(job)
                self._watch_due(computation, job)
        if not self.slots:
            self._recall(session, computation.number, len(message.numbers))

    def _is_new(self, session: Session, number: int, attempt: int) -> bool:
        """Has this try of a job not been here before? Then its client knows how the last one ended,
        though it may not have said so yet."""
        if number in session.jobs:
            return False
        if (ended := session.ended.get(number)) is not None:
            if ended.attempt >= attempt:
                return False
            self._acknowledged(session, [number])
        return True

    def _return_misfits(self, session: Session, computation: Computation) -> None:
        """Slots were taken away: give back the waiting jobs that ask for more than there are now,
        so that nobody waits behind them."""
        misfits = [
            job for job in computation.waiting if not self._can_fit(computation, job.conditions)
        ]
        if not misfits:
            return
        for job in misfits:
            computation.waiting.remove(job)
            del session.jobs[job.number]
            if job.segment is not None:
                self._out.append(c.ReleaseSegment(job.segment))
        self._send(
            session, messages.JobsReturned(computation.number, [job.number for job in misfits])
        )
        if computation.closing:
            self._check_drained(session, computation)

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
            for segment in _segments_of(report):
                self._out.append(c.ReleaseSegment(segment))
            return
        match report:
            case workers.WorkerResults(worker=number, results=results):
                self._results(session, computation, computation.workers[number], results)
            case workers.WorkerStarted(worker=number):
                worker = computation.workers[number]
                computation.refused = 0
                if worker.state is WorkerState.STARTING:
                    worker.move(WorkerState.IDLE)
                    self._give_slot_back(worker)
            case workers.WorkerRecalled(worker=number, started=started):
                self._recalled(session, computation, computation.workers[number], started)
            case workers.WorkerDied():
                self._worker_died(session, computation, report)
            case workers.WorkerRefused():
                self._worker_refused(session, computation, report)
            case workers.TemplateReady():
                if computation.state is Loading.LOADING:
                    computation.state = Loading.READY
                    self._send(session, messages.ComputationReady(computation.number))
            case workers.TemplateFailed(text=text):
                self._fail(session, computation, text)
            case workers.TemplateDied(text=text, workers=deaths):
                for death in deaths:
                    self._bury(session, computation, death)
                again = computation.state is Loading.READY
                self._fail(session, computation, f"its process ended: {text}", again=again)
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
            if not sent or sent[0].sequence != result.sequence:
                self._distrust(computation, worker, result)
                continue
            job = sent.popleft()
            number = job.number
            outcome = result.outcome
            if not outcome:
                pass  # By far the most of them.
            elif outcome == Outcome.CANCELLED:
                outcome = Outcome.INTERRUPTED
                if job.timed_out:
                    outcome, result.payload = Outcome.TIMED_OUT, _timed_out(job)
            elif outcome == Outcome.DIED:
                # An isolated job: its process is not a worker.
                result.payload += to_bytes(f", on node {self.name}")
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
                self._attach(record, result.segment, result.sizes)
            del jobs[number]
            ended[number] = record
            fresh[number] = record
        if not fresh:
            return
        if not -1e12 < total < 1e12:
            # A job has written to the memory in which its worker keeps the times.
            total = 0.0
            for record in fresh.values():
                record.start = record.end = 0.0
        count = len(fresh)
        self.jobs_done += count
        worker.ran = True
        if worker.conditions is None or not worker.conditions.isolated:
            worker.jobs_run += count
        computation.stillborn = 0
        computation.has_run = True
        mean = max(total / count, 1e-7)
        old = computation.duration
        weight = min(0.5, 0.1 * count)
        computation.duration = mean if old is None else old + weight * (mean - old)
        worker.busy_since = self._now
        worker.cancel_at = math.inf
        worker.ladder = 0
        worker.timeout_at = math.inf
        if worker.is_spent and not sent and worker.state is not WorkerState.ENDING:
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

    def _attach(self, record: EndedJob, segment: int, sizes: Sequence[int]) -> None:
        record.segment = segment
        record.sizes = sizes
        record.blob = self.next_blob()

    def _distrust(
        self, computation: Computation, worker: Worker, result: workers.WorkerResult
    ) -> None:
        """A result of no job that it has: one of its jobs wrote what only workers write."""
        if result.segment is not None:
            self._out.append(c.ReleaseSegment(result.segment))
        if worker.state is not WorkerState.ENDING:
            worker.move(WorkerState.ENDING)
            self._out.append(c.KillWorker(computation.session, computation.number, worker.number))

    def _recalled(
        self, session: Session, computation: Computation, worker: Worker, started: int
    ) -> None:
        returned: list[NodeJob] = []
        while worker.sent and worker.sent[-1].sequence > started:
            returned.append(worker.sent.pop())
        for job in returned:
            computation.wait_again(job)
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
        worker = self._bury(session, computation, report)
        if report.started:
            computation.stillborn = 0
        elif not worker.ran and worker.state is not WorkerState.ENDING:
            computation.stillborn += 1
            if computation.stillborn >= STILLBORN_LIMIT:
                if not computation.has_run:
                    self._fail(
                        session,
                        computation,
                        f"{computation.stillborn} worker processes in a row ended before they ran"
                        f" a job, the last one: {report.how}",
                    )
                    return
                # Others of its workers did run: it is not to blame, but whatever kills them.
                self._put_off_start(computation, computation.stillborn - STILLBORN_LIMIT)
        self._start_others(computation)
        self._drop_cancelled(session, computation)
        if computation.closing:
            self._check_drained(session, computation)

    def _worker_refused(
        self, session: Session, computation: Computation, report: workers.WorkerRefused
    ) -> None:
        self._give_slot_back(computation.workers.pop(report.worker))
        if self._now >= computation.start_at:
            # Once for all that were to be started together.
            computation.refused += 1
            self._put_off_start(computation, computation.refused)
        if computation.refused >= REFUSED_LIMIT and not self._living():
            # Nobody is here who could give anything back.
            self._fail(session, computation, f"no worker can be started: {report.text}")
            return
        self._make_way(computation, 1)

    def _bury(
        self, session: Session, computation: Computation, report: workers.WorkerDied
    ) -> Worker:
        """A worker is dead: the job it ran ends, and what waited in it waits here again."""
        worker = computation.workers.pop(report.worker)
        self._give_slot_back(worker)
        victim: NodeJob | None = None
        if worker.sent and worker.sent[0].sequence <= report.started:
            victim = worker.sent.popleft()
            self._end_unbelieved(session, worker, report)
        for job in reversed(worker.sent):
            computation.wait_again(job)
        worker.sent.clear()
        if victim is not None:
            computation.has_run = True
            outcome = Outcome.INTERRUPTED if victim.cancelled else Outcome.DIED
            text = f"{report.how}, on node {self.name}"
            if victim.timed_out:
                outcome, text = Outcome.TIMED_OUT, f"{_timed_out(victim).decode()}; {text}"
            self._end(session, victim, outcome, text, died=report)
        elif report.segment is not None:
            self._out.append(c.ReleaseSegment(report.segment))
        return worker

    def _end_unbelieved(self, session: Session, worker: Worker, report: workers.WorkerDied) -> None:
        """Jobs that ran before the one it died with, and whose results could not be believed: they
        are not to run again."""
        text = f"{report.how}, on node {self.name}"
        while worker.sent and worker.sent[0].sequence <= report.started:
            self._end(session, worker.sent.popleft(), Outcome.DIED, text)

    def _end(
        self,
        session: Session,
        job: NodeJob,
        outcome: Outcome,
        text: str,
        *,
        died: workers.WorkerDied | None = None,
    ) -> None:
        """A job ends by something other than its own result, maybe by the death of its worker."""
        session.jobs.pop(job.number, None)
        if job.segment is not None:
            self._out.append(c.ReleaseSegment(job.segment))
        record = EndedJob(job.attempt, outcome, 0.0, 0.0, to_bytes(text))
        if died is not None:
            record.start, record.end = died.start, died.end
            if died.segment is not None:
                self._attach(record, died.segment, died.sizes)
            elif died.stdout or died.stderr:
                record.output = (died.stdout, died.stderr)
        if session.closed:
            self._release(record)
        else:
            session.ended[job.number] = record
            self._deliver(session, {job.number: record})

    def _deliver(self, session: Session, ended: dict[int, EndedJob]) -> None:
        if not session.connected:
            session.kept_since = self._now
            self._is_overdue(session)
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

    def _poll(self) -> None:
        """Look at the workers: results they hold back, jobs to report, ladders to climb."""
        self._poll_at = math.inf
        for session in [s for s in self.sessions.values() if not s.connected]:
            if self._is_overdue(session):
                self._forget(session, f"stayed away for {self.zombie_seconds / 60:g} min")
        for session in self.sessions.values():
            started: list[c.StartedJob] = []
            for computation in session.computations.values():
                if computation.next_due < math.inf:
                    self._end_overdue(session, computation)
                try:
                    for worker in computation.workers.values():
                        if worker.sent:
                            self._poll_worker(computation, worker, started)
                except Exception as exc:
                    # A fault of ours: the others are looked at all the same.
                    self._out.append(c.GiveUp(session.key, computation.number, exc))
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
            short = stuck < STARTED_SECONDS and worker.conditions is None
            self._arm(POLL_SECONDS if short else STARTED_SECONDS)
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
            if isinstance(head, DueJob):
                head.late = self._now >= head.due
            self._climb(computation, worker)
        elif worker.timeout_at < math.inf:
            self._arm(worker.timeout_at - self._now)

    def _look_again(self, event: e.JobUnstarted) -> None:
        session = self.sessions.get(event.session)
        computation = session.computations.get(event.computation) if session else None
        worker = computation.workers.get(event.worker) if computation else None
        if worker is not None and worker.sent and worker.sent[0].sequence == event.sequence:
            worker.sent[0].reported = False
            self._arm(STARTED_SECONDS)

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
        grace = computation.grace
        if head.conditions is not None and head.conditions.grace is not None:
            grace = head.conditions.grace
        if worker.ladder == 1 and since >= grace:
            worker.ladder = 2
            self._out.append(c.TerminateJob(*where, head.sequence))
        if worker.ladder == 2 and since >= grace + KILL_SECONDS:
            worker.ladder = 3
            self._out.append(c.KillWorker(*where))
            if worker.state is not WorkerState.ENDING:
                worker.move(WorkerState.ENDING)
        if worker.ladder < 3:
            rung = grace if worker.ladder == 1 else grace + KILL_SECONDS
            self._arm(rung - since + 0.001)

    # --- deadlines -----------------------------------------------------------------------------
    def _make_job(
        self,
        left: float | None,
        payload: bytes | None,
        number: int,
        attempt: int,
        conditions: Conditions | None,
        segment: int | None = None,
        sizes: Sequence[int] = (),
    ) -> NodeJob:
        """A job, with a deadline if it has seconds left."""
        if left is None:
            return NodeJob(
                0,
                payload,
                segment,
                sizes,
                number=number,
                attempt=attempt,
                conditions=conditions,
            )
        return DueJob(
            0,
            payload,
            segment,
            sizes,
            number=number,
            attempt=attempt,
            conditions=conditions or CONDITIONS_OF_MOST,
            due=self._now + left,
        )

    def _watch_due(self, computation: Computation, job: NodeJob) -> None:
        if job.due < computation.next_due:
            computation.next_due = job.due
            self._poll_at = min(self._poll_at, job.due + DUE_SLACK)

    def _end_overdue(self, session: Session, computation: Computation) -> None:
        """End what waits here though its deadline has passed, as does its client, if it is there."""
        if self._now >= computation.next_due + DUE_SLACK:
            waiting, computation.waiting = computation.waiting, deque()
            for job in waiting:
                if self._now >= job.due + DUE_SLACK:
                    text = "its deadline passed before it started"
                    self._end(session, job, Outcome.TIMED_OUT, f"{text}, on node {self.name}")
                else:
                    computation.waiting.append(job)
            computation.next_due = min((job.due for job in computation.waiting), default=math.inf)
            if computation.closing:
                self._check_drained(session, computation)
        # Not as a delay: see `_is_overdue`.
        self._poll_at = min(self._poll_at, computation.next_due + DUE_SLACK)

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
            computation.successor = None
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

    def _fail(
        self, session: Session, computation: Computation, text: str, *, again: bool = False
    ) -> None:
        """The computation can't go on here: what runs ends, what waits goes back.

        Args:
            session: whose it is.
            computation: which.
            text: why.
            again: it did work here, and may do so once more.
        """
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
        self._send(session, messages.ComputationFailed(computation.number, text, again))
        self._close_template(computation)

    def _template_closed(self, key: str, number: int) -> None:
        session = self.sessions.get(key)
        if session is None:
            return
        closed = session.computations.pop(number, None)
        if closed is not None:
            self._start_others(closed)
            if closed.successor is not None and not session.closed:
                self._open(session, *closed.successor)
                return
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
        self._validate_resources()

    def _validate_resources(self) -> None:
        """What is free and what workers hold is what the node has; no device is in two hands."""
        workers_here = [
            worker
            for session in self.sessions.values()
            for computation in session.computations.values()
            for worker in computation.workers.values()
        ]
        for worker in workers_here:
            assert worker.held >= 0, worker
            if worker.sent and worker.conditions is not None:
                assert worker.held == slots_taken(worker.conditions), worker
                assert worker.taken == demands(worker.conditions), worker
        for name, amount in self.resources.items():
            held = sum(worker.taken.get(name, 0) for worker in workers_here)
            assert 0 <= self._free[name] == amount - held, (name, self._free, held)
        devices = [device for worker in workers_here for device in worker.gpus]
        assert sorted(devices + self._free_gpus) == list(range(self.resources.get("gpus", 0)))


def _segments_of(report: workers.TemplateEvent) -> list[int]:
    """The memory files that come with a report."""
    bearers: Sequence[workers.WorkerResult | workers.WorkerDied] = ()
    if isinstance(report, workers.WorkerResults):
        bearers = report.results
    elif isinstance(report, workers.WorkerDied):
        bearers = (report,)
    elif isinstance(report, workers.TemplateDied):
        bearers = report.workers
    return [bearer.segment for bearer in bearers if bearer.segment is not None]


def _timed_out(job: NodeJob) -> bytes:
    if isinstance(job, DueJob) and job.late:
        return b"its deadline has passed"
    assert job.conditions is not None
    return f"ran longer than its timeout of {job.conditions.timeout:g} s".encode()
