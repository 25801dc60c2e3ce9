"""What happens to jobs, nodes and computations: the one scheduling core, in a client and in a
scheduler alike. Which job goes where is decided in `core.placement`.

Theory of operation
-------------------
Each computation has a queue (a deque that the user's thread appends to). Nothing is done per
queued job until a node has room for it, so a million queued jobs cost what a million records cost.

A result counts if and only if its job is outstanding at the node that reports it, in the attempt
that node was given. All else is acknowledged (so that the node forgets it) and dropped.

What is lost with a node: jobs of a reentrant computation go back to the head of the queue with a
higher attempt; others are `Abandoned`, because they may have run. What never reached the node, as
its first message after a reconnect tells, was certainly not run and goes back in any case.

Before a node is given a computation it is *prepared*: the shell asks whether to use it, and puts
the files there.
"""

from __future__ import annotations

import math
from collections import deque
from typing import assert_never

from attrs import define, evolve, field

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.aside import Deadlines, extras_of
from dispy_trio.core.jobs import has_ended, move, status_of, try_again
from dispy_trio.core.nodes import Membership, NodeRecord, NodeState, demands, slots_taken
from dispy_trio.core.placement import (
    NEVER_READY,
    NODES_SHOWN,
    ComputationRecord,
    Placement,
    late_text,
)
from dispy_trio.models import Job, JobExtras, JobStatus, Outcome
from dispy_trio.texts import to_bytes

__all__ = ["ClusterEvent", "ClusterMachine", "ComputationRecord"]

_FINISHED = JobStatus.Finished
"""By a name of ours, as each job needs it: Python 3.11 calls a function for a member of an Enum."""
MAX_SENDS = 5
"""Tries to send a job whose files go before it."""
MAX_REOPENINGS = 3
"""Times in a row that a computation's process may die on a node with no job ended in between."""
RETURN_SECONDS = 1.0
"""A node whose session is broken has that long to come back and hear that all is to end there."""
ACK_BATCH = 256
ACK_SECONDS = 0.02
"""How long an acknowledgement may wait for jobs to ride with."""

ClusterEvent = (
    e.Tick
    | e.ComputationAdded
    | e.JobsSubmitted
    | e.JobQueued
    | e.JobWithheld
    | e.JobCancelRequested
    | e.JobGivenUp
    | e.CloseRequested
    | e.NodeConnected
    | e.NodePrepared
    | e.NodeRefused
    | e.NodeAllocated
    | e.NodeDeallocated
    | e.NodeRetired
    | e.NodeCpusSet
    | e.NodeDisconnected
    | e.NodeLost
    | e.MessageReceived
)

_OPEN = frozenset({Membership.OPENING, Membership.READY, Membership.CLOSING})
_FAILURES = frozenset(
    {Outcome.RAISED, Outcome.UNPICKLABLE, Outcome.EXITED, Outcome.DIED, Outcome.TIMED_OUT}
)
"""After these a job with retries left is tried again."""


@define(eq=False)
class ClusterMachine(Placement):
    """What becomes of jobs, nodes and computations as events come in."""

    stale_results: int = 0
    """Results dropped because their job or attempt was not awaited."""
    _ack_at: float = math.inf
    _deadlines: Deadlines = field(factory=Deadlines)
    _has_timed_jobs: bool = False
    """There were jobs with deadlines, or such that wait before another try."""
    _failing: bool = False
    """There are nodes that can't run a computation."""
    _closing: bool = False
    """A computation is being closed."""
    _lose_at: float = math.inf
    """When who has not come back is lost: all is to end."""

    # --- the door ------------------------------------------------------------------------------
    def handle(self, event: ClusterEvent, *, now: float) -> list[c.ClusterCommand]:
        """Take in what happened; return what to do about it."""
        match event:
            case e.MessageReceived(source=key, message=message):
                self._on_message(key, message, now)
            case e.JobsSubmitted():
                self._dispatch(now)
                if self._failing:
                    for record in self.computations.values():
                        self._check_failed(record)
            case e.JobQueued(job=job):
                self._queue_aside(job, now)
            case e.JobWithheld():
                self._withheld(event)
                self._dispatch(now)
            case e.JobCancelRequested(job=job, reason=reason):
                self._cancel(job, reason)
            case e.JobGivenUp(job=job, reason=reason):
                self._give_up_job(job, reason)
                self._dispatch(now)
            case e.NodeConnected():
                self._connected(event, now)
            case e.NodeDisconnected(node=key):
                if (node := self.nodes.get(key)) is not None:
                    node.state = NodeState.DISCONNECTED
                    node.recalling = False
                    self._count_slots()
                    self._await_return(now)
            case e.NodeLost(node=key, reason=reason, for_good=for_good):
                self.awaited.discard(key)
                if for_good:
                    self.absent.discard(key)
                    self.refusals[key] = reason
                    self._failing = True
                else:
                    self.refusals.pop(key, None)
                    self.absent.add(key)
                self._unpark()
                if (node := self.nodes.get(key)) is not None:
                    self._lose(node, reason)
                for record in self.computations.values():
                    self._check_failed(record)
                self._dispatch(now)
            case e.NodePrepared() | e.NodeRefused():
                self._prepared(event)
            case e.NodeAllocated() | e.NodeDeallocated() | e.NodeRetired() | e.NodeCpusSet():
                self._manage(event)
                self._dispatch(now)
            case e.ComputationAdded(computation=number):
                for node in self.nodes.values():
                    self._prepare(node, self.computations[number])
            case e.CloseRequested(computation=number, terminate=terminate):
                self._close(self.computations[number], terminate)
                self._await_return(now)
            case e.Tick():
                if now >= self._ack_at:
                    self._acknowledge_all()
                for job in self._deadlines.take_due(now):
                    extras_of(job).late = True
                    self._cancel(job)
                if any(r.aside.next_wake <= now for r in self.computations.values()):
                    for record in self.computations.values():
                        record.aside.wake(now)
                    self._dispatch(now)
                if now >= self._recall_at:
                    self._rebalance(now)
                if now >= self._lose_at:
                    self._lose_at = math.inf
                    for node in self.nodes.values():
                        if node.state is NodeState.DISCONNECTED:
                            self._lose(node, "the cluster was closed while it could not be reached")
            case _:
                assert_never(event)
        if self._closing:
            # Here, once for all the ways in which a job may have ended just now.
            for record in self.computations.values():
                if record.closing and not record.closed:
                    self._go_on_closing(record)
        out, self._out = self._out, []
        return out

    def next_deadline(self) -> float:
        """When to feed a `Tick`; infinity for never."""
        if not self._has_timed_jobs:
            # Asked for after every event, and few programs have such jobs.
            return min(self._recall_at, self._ack_at, self._lose_at)
        wakes = [record.aside.next_wake for record in self.computations.values()]
        return min(self._recall_at, self._ack_at, self._lose_at, self._deadlines.next, *wakes)

    @property
    def slots(self) -> int:
        """Of all nodes that are connected."""
        return self._slots

    # --- messages ------------------------------------------------------------------------------
    def _on_message(self, key: str, message: messages.Message, now: float) -> None:
        node = self.nodes.get(key)
        if node is None:
            return
        match message:
            case messages.JobsFinished():
                self._finished(node, message, now)
            case messages.JobsStarted():
                self._started(node, message)
            case messages.JobsReturned(numbers=numbers):
                node.recalling = False
                node.leftovers.difference_update(numbers)
                self._requeue(node, numbers)
                self._dispatch(now)
            case messages.ComputationReady(computation=number):
                record = self.computations.get(number)
                if record is None or record.terminating:
                    return
                node.memberships[number] = Membership.READY
                record.failures.pop(key, None)
                record.failed = False
                node.error = None
                self._out.append(c.AnnounceNode(key, number, True, ""))
                self._dispatch(now)
            case messages.ComputationFailed(computation=number, text=text, again=again):
                if not (again and self._reopens(node, number, text)):
                    self._computation_failed(node, number, text)
                self._dispatch(now)
            case messages.ComputationClosed(computation=number):
                if (record := self.computations.get(number)) is not None:
                    self._closed_on(node, record)
            case messages.NodeCpus(cpus=cpus):
                node.offered = cpus
                self._count_slots()
                self._dispatch(now)
            case messages.NodeStatus():
                node.status = message
                self._out.append(c.AnnounceStatus(key, message))
                self._tell_of_holders(node, message.holders)
            case messages.JobProvisional() | messages.JobProgress() | messages.JobOutput():
                self._heard_of(node, message)
            case _:
                # Heartbeats and files concern the shell, not the schedule.
                return

    def _heard_of(
        self,
        node: NodeRecord,
        message: messages.JobProvisional | messages.JobProgress | messages.JobOutput,
    ) -> None:
        """A running job tells something of itself."""
        job = node.outstanding.get(message.number)
        if job is None or job.attempt != message.attempt:
            return
        match message:
            case messages.JobOutput(stdout=stdout, stderr=stderr):
                self._out.append(c.AnnounceOutput(job, stdout, stderr))
                return
            case messages.JobProgress(fraction=fraction, text=text):
                job.extras = job.extras or self._new_extras(job)
                job.extras.progress = (fraction, text)
            case messages.JobProvisional(payload=payload):
                job.extras = job.extras or self._new_extras(job)
                job.extras.provisional = payload
                move(job, JobStatus.ProvisionalResult)
                self._out.append(c.AnnounceProvisional(job))

    def _new_extras(self, job: Job) -> JobExtras:
        return JobExtras(self.computations[job.computation].options)

    def _finished(self, node: NodeRecord, message: messages.JobsFinished, now: float) -> None:
        ended: list[Job] = []
        failed: list[Job] = []
        revived: list[Job] = []
        outstanding = node.outstanding
        outputs = message.outputs
        total = 0.0
        record: ComputationRecord | None = None
        for number, attempt, outcome, start, end, payload in zip(
            message.numbers,
            message.attempts,
            message.outcomes,
            message.starts,
            message.ends,
            message.payloads,
            strict=True,
        ):
            job = outstanding.get(number)
            late: Job | None = None
            if job is None or job.attempt != attempt:
                late = node.abandoned.get(number)
                if late is None or late.attempt != attempt or outcome == Outcome.CANCELLED:
                    self.stale_results += 1
                    node.leftovers.discard(number)
                    continue
                del node.abandoned[number]
                job = late
                record = self.computations[job.computation]
            else:
                del outstanding[number]
                record = self.computations[job.computation]
                record.outstanding -= 1
                if type(job.payload) is not bytes:
                    node.bulk_bytes -= job.size
                if job.extras is not None and self._tries_again(node, record, job, outcome, now):
                    continue
                if job.extras is not None and outcome == Outcome.INTERRUPTED and job.extras.late:
                    outcome, payload = Outcome.TIMED_OUT, late_text(job)
            job.outcome = outcome
            job.reply = payload
            job.payload = None
            job.started_at = start or None
            job.ended_at = end
            if outputs:
                job.output = outputs.get(number)
            # Last: another thread may look at it, and then at all else.
            if outcome == 0:
                job.state = _FINISHED
            else:
                job.state = status_of(outcome)
                failed.append(job)
            if late is not None:
                revived.append(job)
                continue
            total += end - start
            ended.append(job)
        node.received += sum(map(len, message.payloads))
        if outputs:
            node.received += sum(len(out) + len(err) for out, err in outputs.values())
        node.unacknowledged += message.numbers
        if revived:
            self._out.append(c.AnnounceEnded(revived, again=True))
        if not ended or record is None:
            self._acknowledge(node)
            self._dispatch(now)
            return
        if node.collapses:
            node.collapses.pop(record.number, None)
        node.jobs_done += len(ended)
        node.cpu_time += total
        node.last_progress = now
        mean = max(total / len(ended), 1e-7)
        # A batch of short jobs says more than a lone one, but no batch says everything.
        weight = min(0.5, 0.1 * len(ended))
        old = record.duration
        record.duration = mean if old is None else old + weight * (mean - old)
        self._out.append(c.AnnounceEnded(ended, failed=failed))
        self._refill(node, now)
        if len(node.unacknowledged) >= ACK_BATCH:
            self._acknowledge(node)
        elif node.unacknowledged:
            # With the next jobs, or else in a moment.
            self._ack_at = min(self._ack_at, now + ACK_SECONDS)

    def _tries_again(
        self, node: NodeRecord, record: ComputationRecord, job: Job, outcome: int, now: float
    ) -> bool:
        """A job with extras has left the node; True when it is to be run once more."""
        extras = extras_of(job)
        options = extras.options
        node.load(options.conditions, -1)
        if (
            outcome not in _FAILURES
            or extras.tries >= options.retries
            or extras.late
            or extras.due <= now
            or job.cancelling
            or record.terminating
        ):
            return False
        delay = options.retry_delay * 2.0 ** min(extras.tries, 60)
        extras.tries += 1
        try_again(job)
        record.waiting_aside += 1
        if extras.pinned is not None or not delay:
            self._set_aside(record, job, counted=True)
        else:
            self._has_timed_jobs = True
            record.aside.delay(job, now + delay)
        return True

    def _acknowledge(self, node: NodeRecord) -> None:
        if node.unacknowledged and node.state is NodeState.CONNECTED:
            numbers, node.unacknowledged = node.unacknowledged, []
            self._out.append(c.Send(node.key, messages.AckResults(numbers)))

    def _acknowledge_all(self) -> None:
        self._ack_at = math.inf
        for node in self.nodes.values():
            self._acknowledge(node)

    def _started(self, node: NodeRecord, message: messages.JobsStarted) -> None:
        started: list[Job] = []
        for number, attempt, start in zip(
            message.numbers, message.attempts, message.starts, strict=True
        ):
            job = node.outstanding.get(number)
            if job is not None and job.attempt == attempt and job.state is JobStatus.Created:
                job.state = JobStatus.Running
                job.started_at = start
                started.append(job)
        if started:
            self._out.append(c.AnnounceStarted(started))

    # --- nodes ---------------------------------------------------------------------------------
    def _connected(self, event: e.NodeConnected, now: float) -> None:
        self.awaited.discard(event.node)
        self.absent.discard(event.node)
        self.refusals.pop(event.node, None)
        known = self.nodes.get(event.node)
        if known is not None and known.incarnation != event.incarnation:
            self._lose(known, f"node {event.node} was restarted")
            known = None
        elif known is not None and event.state.forgotten:
            self._lose(known, f"node {event.node} has forgotten us while we were away")
            known = None
        if known is None:
            old = self.nodes.get(event.node)
            known = NodeRecord(event.node, event.incarnation, event.state.name, event.state.cpus)
            if old is not None:
                # What the user asked of the node, and what it did before, goes on.
                known.allocated = old.allocated
                known.jobs_done, known.cpu_time = old.jobs_done, old.cpu_time
                known.sent, known.received = old.sent, old.received
                known.abandoned = old.abandoned
            self.nodes[event.node] = known
        known.state = NodeState.CONNECTED
        known.name = event.state.name
        known.platform = event.state.platform
        known.offered = event.state.cpus
        known.resources = event.state.resources
        known.last_progress = now
        # What was acknowledged with a lost frame is sent again, and acknowledged again.
        known.unacknowledged.clear()
        self._count_slots()
        there = dict(zip(event.state.numbers, event.state.attempts, strict=True))
        self._requeue(
            known, [n for n, job in known.outstanding.items() if there.get(n) != job.attempt]
        )
        cancelled = [job for job in known.outstanding.values() if job.cancelling]
        if cancelled:
            # The request was lost with the connection, or made while there was none.
            numbers, attempts = [j.number for j in cancelled], [j.attempt for j in cancelled]
            self._out.append(c.Send(known.key, messages.CancelJobs(numbers, attempts)))
        unwanted = [
            number
            for number in event.state.numbers
            if number not in known.outstanding and number not in known.abandoned
        ]
        if unwanted:
            # Given to another node since, or ended by a cancel that this node could not hear.
            # The attempt is that node's to know: -1 stands for any.
            self._out.append(c.Send(known.key, messages.CancelJobs(unwanted, [-1] * len(unwanted))))
        known.leftovers = set(unwanted)
        for number in event.state.computations:
            found = self.computations.get(number)
            if found is None or (number not in known.memberships and self._is_over(found)):
                self._out.append(c.Send(known.key, messages.CloseComputation(number, True)))
        for record in self.computations.values():
            if record.number not in event.state.computations:
                known.memberships.pop(record.number, None)
                known.reopening.discard(record.number)
            elif known.memberships.get(record.number) is Membership.CLOSING or (
                record.number in known.memberships and self._is_over(record)
            ):
                # The request was lost with the connection, or not made while there was none.
                known.memberships[record.number] = Membership.CLOSING
                self._out.append(
                    c.Send(
                        known.key,
                        messages.CloseComputation(
                            record.number,
                            record.terminating,
                            release=record.number not in known.reopening,
                        ),
                    )
                )
            self._prepare(known, record)
        self._dispatch(now)

    def _prepare(self, node: NodeRecord, record: ComputationRecord) -> None:
        if node.state is not NodeState.CONNECTED or record.number in node.memberships:
            return
        if self._is_over(record) or not node.allocated:
            return
        node.memberships[record.number] = Membership.PREPARING
        self._out.append(c.PrepareNode(node.key, record.number, node.incarnation))

    def _is_over(self, record: ComputationRecord) -> bool:
        """Is nothing left to be run? While jobs wait, a cluster that is being closed needs nodes."""
        if not record.closing or record.terminating:
            return record.closing
        return not record.pending

    def _prepared(self, event: e.NodePrepared | e.NodeRefused) -> None:
        node = self.nodes.get(event.node)
        record = self.computations[event.computation]
        if (
            node is None
            or node.incarnation != event.incarnation
            or node.memberships.get(record.number) is not Membership.PREPARING
        ):
            return  # It was lost or closed meanwhile; a new one is prepared anew.
        is_over = self._is_over(record)
        if is_over or node.state is not NodeState.CONNECTED:
            del node.memberships[record.number]
            if is_over:
                # There may be files of it.
                self._out.append(
                    c.Send(node.key, messages.CloseComputation(record.number, terminate=True))
                )
        elif isinstance(event, e.NodePrepared):
            node.limit = event.cpus or None
            self._count_slots()
            node.memberships[record.number] = Membership.OPENING
            opening = evolve(record.opening, options=event.options)
            self._out.append(c.Send(node.key, opening))
        elif event.text:
            self._computation_failed(node, record.number, event.text)
        else:
            node.memberships[record.number] = Membership.REFUSED
            self._count_slots()
            self._end_pinned(node, record)
            self._check_failed(record)

    def _manage(
        self, event: e.NodeAllocated | e.NodeDeallocated | e.NodeRetired | e.NodeCpusSet
    ) -> None:
        """The user changes what a node is used for."""
        node = self.nodes.get(event.node)
        if node is None:
            return
        match event:
            case e.NodeAllocated():
                node.allocated = True
                for record in self.computations.values():
                    membership = node.memberships.get(record.number)
                    if membership is Membership.REFUSED:
                        del node.memberships[record.number]
                    elif membership is Membership.CLOSING:
                        node.reopening.add(record.number)
                    self._prepare(node, record)
            case e.NodeDeallocated():
                node.allocated = False
            case e.NodeRetired():
                self._retire(node, self.computations[event.computation], event)
            case e.NodeCpusSet(computation=number, cpus=cpus):
                node.limit = min(node.offered, cpus) if cpus >= 0 else max(0, node.offered + cpus)
                if node.state is NodeState.CONNECTED:
                    self._out.append(c.Send(node.key, messages.SetCpus(number, node.limit)))
        self._count_slots()

    def _retire(self, node: NodeRecord, record: ComputationRecord, event: e.NodeRetired) -> None:
        membership = node.memberships.get(record.number)
        if event.again:
            node.reopening.add(record.number)
        else:
            node.allocated = False
            node.reopening.discard(record.number)
            self._unpark()
            pinned, node.pinned = node.pinned, deque()
            self._end_aside(record, pinned, "its node was closed")
        if membership in (None, Membership.REFUSED, Membership.FAILED, Membership.PREPARING):
            # Nothing runs there. What prepares it now is told off when it is done.
            node.memberships.pop(record.number, None)
            self._out.append(
                c.Send(node.key, messages.CloseComputation(record.number, terminate=True))
            )
            if event.again:
                node.reopening.discard(record.number)
                self._prepare(node, record)
            return
        node.memberships[record.number] = Membership.CLOSING
        if node.state is NodeState.CONNECTED:
            # What has not started may run elsewhere.
            self._out.append(
                c.Send(node.key, messages.RecallJobs(record.number, len(node.outstanding)))
            )
            self._out.append(
                c.Send(
                    node.key,
                    messages.CloseComputation(
                        record.number, event.terminate, release=not event.again
                    ),
                )
            )

    def _closed_on(self, node: NodeRecord, record: ComputationRecord) -> None:
        """Nothing of the computation is left on the node."""
        if node.memberships.get(record.number) in _OPEN:
            del node.memberships[record.number]
            self._out.append(c.AnnounceNode(node.key, record.number, False, "closed"))
        if record.number in node.reopening:
            node.reopening.discard(record.number)
            self._prepare(node, record)

    def _lose(self, node: NodeRecord, reason: str) -> None:
        if node.state is NodeState.LOST:
            return
        node.state = NodeState.LOST
        self._count_slots()
        node.bulk_bytes = 0
        node.extra = 0
        node.taken.clear()
        node.reopening.clear()
        pinned, node.pinned = node.pinned, deque()
        for record in self.computations.values():
            self._end_aside(
                record,
                [job for job in pinned if job.computation == record.number],
                f"node {node.name} ({node.key}) was lost: {reason}",
            )
        abandoned: list[Job] = []
        requeued: list[Job] = []
        for job in reversed(node.outstanding.values()):
            record = self.computations[job.computation]
            record.outstanding -= 1
            stays = job.extras is not None and job.extras.pinned is not None
            if record.reentrant and not (record.terminating or job.cancelling or stays):
                try_again(job)
                requeued.append(job)
                self._put_back(record, job)
            else:
                job.outcome = -1
                job.reply = to_bytes(f"node {node.name} ({node.key}) was lost: {reason}")
                job.payload = None
                move(job, JobStatus.Abandoned)
                node.abandoned[job.number] = job
                abandoned.append(job)
        node.outstanding.clear()
        if requeued:
            requeued.reverse()
            self._out.append(c.AnnounceRequeued(node.key, requeued))
        if abandoned:
            abandoned.reverse()
            self._out.append(c.AnnounceEnded(abandoned))
        for number in list(node.memberships):
            del node.memberships[number]
            self._out.append(c.AnnounceNode(node.key, number, False, reason))

    def _computation_failed(self, node: NodeRecord, number: int, text: str) -> None:
        record = self.computations.get(number)
        if record is None:
            return
        node.memberships[number] = Membership.FAILED
        node.error = text
        record.failures[node.key] = text
        self._failing = True
        self._requeue(
            node, [j.number for j in node.outstanding.values() if j.computation == number]
        )
        self._out.append(c.AnnounceNode(node.key, number, False, text))
        self._count_slots()
        self._end_pinned(node, record)
        self._check_failed(record)
        if record.terminating:
            del node.memberships[number]  # It was told to close it, and has nothing left to close.

    def _end_pinned(self, node: NodeRecord, record: ComputationRecord) -> None:
        """The node will not run the computation: who waits for it waits in vain."""
        jobs = [job for job in node.pinned if job.computation == record.number]
        node.pinned = deque(job for job in node.pinned if job.computation != record.number)
        self._end_refused(node, record, jobs)

    def _reopens(self, node: NodeRecord, number: int, text: str) -> bool:
        """Its process died there, though it had worked: is a new one started once it is closed?"""
        if node.memberships.get(number) is not Membership.READY:
            return False
        count = node.collapses[number] = node.collapses.get(number, 0) + 1
        if count > MAX_REOPENINGS:
            return False
        node.memberships[number] = Membership.CLOSING
        node.reopening.add(number)
        self._requeue(
            node, [j.number for j in node.outstanding.values() if j.computation == number]
        )
        self._out.append(c.AnnounceNode(node.key, number, False, f"{text}; it is started again"))
        self._count_slots()
        return True

    def _check_failed(self, record: ComputationRecord) -> None:
        """When no node is left that could run the computation, nobody need wait any longer."""
        if self.awaited or record.closed or not (record.failures or self.refusals):
            return
        if self.absent and not record.failures:
            return  # One that may come may be the one that takes us.
        number = record.number
        if any(
            n.state is NodeState.DISCONNECTED
            or (n.state is NodeState.CONNECTED and n.memberships.get(number) not in NEVER_READY)
            for n in self.nodes.values()
        ):
            return
        reason = f"no node can run {record.opening.name!r}: {self._why_failed(record)}"
        if not record.failed:
            record.failed = True
            self._out.append(c.AnnounceFailed(number, reason))
        self._end_queued(record, JobStatus.Terminated, reason)

    def _why_failed(self, record: ComputationRecord) -> str:
        for key, text in record.failures.items():
            return f"{self.nodes[key].name} says: {text}"
        shown = list(self.refusals.values())[:NODES_SHOWN]
        more = len(self.refusals) - len(shown)
        return "; ".join(shown) + (f"; and {more} more" if more else "")

    # --- the end of jobs and computations ------------------------------------------------------
    def _cancel(self, job: Job, reason: str = "") -> None:
        if has_ended(job):
            return
        job.cancelling = True
        node = self.nodes.get(job.node_key) if job.node_key is not None else None
        if node is None or job.number not in node.outstanding:
            # Still queued. The record stays in the queue as an ended one and is passed over
            # when its turn comes: taking it out would cost a scan.
            record = self.computations[job.computation]
            if job.extras is not None:
                record.waiting_aside -= 1
            else:
                record.ended_in_queue += 1
            if job.extras is not None and job.extras.late:
                job.outcome, job.reply = Outcome.TIMED_OUT, late_text(job)
                move(job, JobStatus.Terminated)
            else:
                move(job, JobStatus.Cancelled)
            job.payload = None
            self._note_reason(job, reason)
            self._out.append(c.AnnounceEnded([job]))
        else:
            self._note_reason(job, reason)
            told = messages.CancelJobs([job.number], [job.attempt], reason)
            self._out.append(c.Send(node.key, told))

    def _note_reason(self, job: Job, reason: str) -> None:
        if reason:
            job.extras = job.extras or self._new_extras(job)
            job.extras.why = reason

    def _give_up_job(self, job: Job, reason: str) -> None:
        """End a cancelled job here: its node does not answer. Should it come back, it is told again
        to stop it, as all that is not awaited there."""
        node = self.nodes.get(job.node_key) if job.node_key is not None else None
        if node is None or node.outstanding.get(job.number) is not job:
            return
        del node.outstanding[job.number]
        record = self.computations[job.computation]
        record.outstanding -= 1
        if type(job.payload) is not bytes:
            node.bulk_bytes -= job.size
        if job.extras is not None:
            node.load(job.extras.options.conditions, -1)
        job.outcome = -1
        job.reply = to_bytes(f"node {node.name} ({node.key}): {reason}")
        job.payload = None
        move(job, JobStatus.Abandoned)
        self._out.append(c.AnnounceEnded([job]))

    def _close(self, record: ComputationRecord, terminate: bool) -> None:
        if record.closed or (record.closing and not terminate) or record.terminating:
            return
        record.closing = self._closing = True
        record.terminating = terminate
        if terminate:
            self._end_queued(record, JobStatus.Cancelled, "the cluster was closed")
            self._close_on_nodes(record)

    def _await_return(self, now: float) -> None:
        """When all is to end, see that nobody waits for a node that is away for much longer."""
        if any(node.state is NodeState.DISCONNECTED for node in self.nodes.values()) and all(
            record.terminating for record in self.computations.values()
        ):
            self._lose_at = min(self._lose_at, now + RETURN_SECONDS)

    def _end_queued(self, record: ComputationRecord, status: JobStatus, reason: str) -> None:
        ended = []
        while record.queue:
            job = record.queue.popleft()
            if not has_ended(job):
                job.reply = to_bytes(reason)
                move(job, status)
                job.payload = None
                ended.append(job)
        record.ended_in_queue = 0
        if ended:
            self._out.append(c.AnnounceEnded(ended))
        aside = record.aside.take_all()
        for node in self.nodes.values():
            aside += [job for job in node.pinned if job.computation == record.number]
            node.pinned = deque(job for job in node.pinned if job.computation != record.number)
        self._end_aside(record, aside, reason, status)

    def _go_on_closing(self, record: ComputationRecord) -> None:
        """Close it on the nodes when nothing is left to be run, and say so when it is closed there."""
        if record.pending:
            return
        if not record.terminating:
            self._close_on_nodes(record)
        if any(record.number in node.memberships for node in self.nodes.values()):
            return
        record.closed = True
        self._out.append(c.CloseComplete(record.number))

    def _close_on_nodes(self, record: ComputationRecord) -> None:
        self._acknowledge_all()
        for node in self.nodes.values():
            membership = node.memberships.get(record.number)
            if membership in (None, Membership.PREPARING):
                # Who is being prepared is closed when that is done: files are on their way.
                continue
            if membership is Membership.CLOSING and not record.terminating:
                continue
            if node.state is NodeState.CONNECTED:
                if membership in NEVER_READY:
                    del node.memberships[record.number]
                else:
                    node.memberships[record.number] = Membership.CLOSING
                self._out.append(
                    c.Send(node.key, messages.CloseComputation(record.number, record.terminating))
                )

    def give_up(self, reason: str) -> list[Job]:
        """End all jobs that have not ended, and return them: nothing will be heard of them."""
        left: list[Job] = []
        for node in self.nodes.values():
            left += [*node.outstanding.values(), *node.pinned]
            node.outstanding.clear()
            node.pinned.clear()
            node.taken.clear()
            node.bulk_bytes = node.extra = 0
        for record in self.computations.values():
            while record.queue:
                left.append(record.queue.popleft())
            left += record.aside.take_all()
            record.outstanding = record.waiting_aside = record.ended_in_queue = 0
        left = [job for job in left if not has_ended(job)]
        for job in left:
            job.reply = to_bytes(reason)
            job.payload = None
            move(job, JobStatus.Abandoned)
        return left

    # --- jobs with extras ----------------------------------------------------------------------

    def _queue_aside(self, job: Job, now: float) -> None:
        """A job with extras is new."""
        record = self.computations[job.computation]
        deadline = extras_of(job).options.deadline
        if deadline is not None:
            self._has_timed_jobs = True
            self._deadlines.add(job, now + deadline)
            extras_of(job).due = min(extras_of(job).due, now + deadline)
        self._set_aside(record, job)
        self._dispatch(now)
        self._check_failed(record)

    def _withheld(self, event: e.JobWithheld) -> None:
        """A job did not go out: the node has never heard of it."""
        job = event.job
        node = self.nodes.get(event.node)
        if node is None or node.outstanding.get(job.number) is not job:
            return
        if job.attempt != event.attempt:
            return
        if not event.text and job.attempt < MAX_SENDS:
            # The connection was lost. Another node may have more luck.
            self._requeue(node, [job.number])
            return
        del node.outstanding[job.number]
        record = self.computations[job.computation]
        record.outstanding -= 1
        node.load(extras_of(job).options.conditions, -1)
        if type(job.payload) is not bytes:
            node.bulk_bytes -= job.size
        if job.cancelling or record.terminating:
            self._cancel_unstarted(job)
        else:
            text = event.text or "the connection was lost again and again while it was sent"
            job.outcome, job.reply = Outcome.REFUSED, to_bytes(text)
            move(job, JobStatus.Terminated)
            job.payload = None
        self._out.append(c.AnnounceEnded([job]))

    # --- views ---------------------------------------------------------------------------------
    def absence(self, number: int) -> dict[str, str] | None:
        """Why each node does not run a computation; None when one of them can."""
        states = {node.key: _why_idle(node, number) for node in self.nodes.values()}
        return None if "" in states.values() else states

    def parked(self, number: int) -> str:
        """What jobs of a computation ask for that no node has, in a sentence; of several, one."""
        job = self.computations[number].aside.first_parked
        return "" if job is None else self._tell_parked(job)[1]

    def validate(self) -> None:
        """Check what must always be true; tests call it after every event."""
        for record in self.computations.values():
            count = sum(
                1
                for node in self.nodes.values()
                for job in node.outstanding.values()
                if job.computation == record.number
            )
            assert count == record.outstanding, (count, record.outstanding)
            aside = record.aside.count_waiting() + sum(
                1
                for node in self.nodes.values()
                for job in node.pinned
                if job.computation == record.number and not has_ended(job)
            )
            assert aside == record.waiting_aside, (aside, record.waiting_aside)
            passed_over = sum(map(has_ended, record.queue))
            assert passed_over == record.ended_in_queue, (passed_over, record.ended_in_queue)
            if record.closing and not record.pending:
                # Whichever way its last job has ended: nobody waits for the end in vain.
                left = [n for n in self.nodes.values() if record.number in n.memberships]
                assert bool(left) != record.closed, left
                for node in left:
                    membership = node.memberships[record.number]
                    told = membership in (Membership.CLOSING, Membership.PREPARING)
                    assert told or node.state is not NodeState.CONNECTED, (node.key, membership)
        for node in self.nodes.values():
            for number, job in node.outstanding.items():
                assert job.number == number
                assert job.node_key == node.key
                assert not has_ended(job), job
            asked = [j.extras.options.conditions for j in node.outstanding.values() if j.extras]
            assert node.extra == sum(slots_taken(conditions) - 1 for conditions in asked)
            for name in {*node.taken, *node.resources}:
                taken = sum(demands(conditions).get(name, 0) for conditions in asked)
                assert taken == node.taken.get(name, 0) <= node.resources.get(name, 0), name
            if node.state is NodeState.LOST:
                assert not node.outstanding


def _why_idle(node: NodeRecord, number: int) -> str:
    """Why a node does not run a computation; empty when it can."""
    if node.state is not NodeState.CONNECTED:
        return "its connection broke" if node.state is NodeState.DISCONNECTED else "it was lost"
    match node.memberships.get(number):
        case Membership.READY:
            return "" if node.allocated else "it was deallocated"
        case Membership.PREPARING:
            return "it is being prepared"
        case Membership.OPENING:
            return "it loads the computation, or runs its setup"
        case Membership.FAILED:
            return node.error or "it can't run the computation"
        case Membership.REFUSED:
            return "its NodeAllocate does not want it"
        case Membership.CLOSING | None:
            return "the computation is not open there"
        case membership:
            assert_never(membership)
