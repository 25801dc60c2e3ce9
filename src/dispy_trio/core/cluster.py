"""Who runs what, where and when: the one scheduling core, in a client and in a scheduler alike.

Theory of operation
-------------------
Each computation has a queue (a deque that the user's thread appends to). Nothing is done per
queued job until a node has room for it, so a million queued jobs cost what a million records cost.

A node has *room* for as many jobs as it has slots, plus, for each slot, as many as fit into
`PREFETCH_SECONDS` of work by the measured duration of this computation's jobs: none for long jobs,
thousands for tiny ones. Free slots are served before any node gets jobs to wait on, and a batch
takes no more than the node's fair share of what is queued, so the end of a run is spread evenly.
When the queue has run dry and one node idles while jobs wait on another, the waiting ones are
recalled.

A result counts if and only if its job is outstanding at the node that reports it, in the attempt
that node was given. All else is acknowledged (so that the node forgets it) and dropped.

What is lost with a node: jobs of a reentrant computation go back to the head of the queue with a
higher attempt; others are `Abandoned`, because they may have run. What never reached the node, as
its first message after a reconnect tells, was certainly not run and goes back in any case.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import assert_never

from attrs import define, field

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.jobs import ENDED, has_ended, move, status_of, try_again
from dispy_trio.core.nodes import Membership, NodeRecord, NodeState
from dispy_trio.models import Job, JobStatus, NodeInfo, Outcome

__all__ = ["ClusterEvent", "ClusterMachine", "ComputationRecord"]

PREFETCH_SECONDS = 0.05
MAX_PREFETCH = 2048
"""Waiting jobs per slot, at most."""
BATCH_JOBS = 1024
BATCH_BYTES = 512 * 1024
BULK_WINDOW = 64 * 1024 * 1024
"""Argument bytes under way to one node over its bulk connection; one job always may go."""
RECALL_SECONDS = 0.02
ACK_BATCH = 256
ACK_SECONDS = 0.02
"""How long an acknowledgement may wait for jobs to ride with."""

ClusterEvent = (
    e.Tick
    | e.ComputationAdded
    | e.JobsSubmitted
    | e.JobCancelRequested
    | e.CloseRequested
    | e.NodeConnected
    | e.NodeDisconnected
    | e.NodeLost
    | e.MessageReceived
)


@define(eq=False)
class ComputationRecord:
    """One computation and its queue."""

    opening: messages.OpenComputation
    queue: deque[Job]
    """Shared with whoever submits: it appends on the right, from any thread."""
    reentrant: bool = False
    duration: float | None = None
    """Seconds a job takes on a node, a moving average; None before the first result."""
    outstanding: int = 0
    closing: bool = False
    terminating: bool = False
    closed: bool = False
    failures: dict[str, str] = field(factory=dict)
    """Node to reason, of the nodes that can't run it."""

    @property
    def number(self) -> int:
        return self.opening.computation

    @property
    def prefetch(self) -> int:
        """Jobs to keep waiting per slot."""
        if self.duration is None:
            return 0
        return min(MAX_PREFETCH, int(PREFETCH_SECONDS / max(self.duration, 1e-7)))


@define(eq=False)
class ClusterMachine:
    """The roster, the queues, and the rules between them."""

    computations: dict[int, ComputationRecord] = field(factory=dict)
    nodes: dict[str, NodeRecord] = field(factory=dict)
    stale_results: int = 0
    """Results dropped because their job or attempt was not awaited."""
    _recall_at: float = math.inf
    _ack_at: float = math.inf
    _slots: int = 0
    """Slots of all connected nodes."""
    _out: list[c.ClusterCommand] = field(factory=list)

    # --- the door ------------------------------------------------------------------------------
    def handle(self, event: ClusterEvent, *, now: float) -> list[c.ClusterCommand]:
        """Take in what happened; return what to do about it."""
        match event:
            case e.MessageReceived(source=key, message=message):
                self._on_message(key, message, now)
            case e.JobsSubmitted():
                self._dispatch(now)
            case e.JobCancelRequested(job=job):
                self._cancel(job)
            case e.NodeConnected():
                self._connected(event, now)
            case e.NodeDisconnected(node=key):
                if (node := self.nodes.get(key)) is not None:
                    node.state = NodeState.DISCONNECTED
                    node.recalling = False
                    self._count_slots()
            case e.NodeLost(node=key, reason=reason):
                if (node := self.nodes.get(key)) is not None:
                    self._lose(node, reason)
                self._dispatch(now)
            case e.ComputationAdded(computation=number):
                for node in self.nodes.values():
                    self._open_on(node, self.computations[number])
            case e.CloseRequested(computation=number, terminate=terminate):
                self._close(self.computations[number], terminate)
            case e.Tick():
                if now >= self._ack_at:
                    self._acknowledge_all()
                if now >= self._recall_at:
                    self._rebalance(now)
            case _:
                assert_never(event)
        out, self._out = self._out, []
        return out

    def next_deadline(self) -> float:
        """When to feed a `Tick`; infinity for never."""
        return min(self._recall_at, self._ack_at)

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
                self._requeue(node, numbers)
                self._dispatch(now)
            case messages.ComputationReady(computation=number):
                record = self.computations.get(number)
                if record is None or record.terminating:
                    return
                node.memberships[number] = Membership.READY
                record.failures.pop(key, None)
                self._out.append(c.AnnounceNode(key, number, True, ""))
                self._dispatch(now)
            case messages.ComputationFailed(computation=number, text=text):
                self._computation_failed(node, number, text)
                self._dispatch(now)
            case messages.ComputationClosed(computation=number):
                if (record := self.computations.get(number)) is not None:
                    node.memberships.pop(number, None)
                    self._out.append(c.AnnounceNode(key, number, False, "closed"))
                    self._check_closed(record)
            case _:
                # Status and heartbeats concern the shell, not the schedule.
                return

    def _finished(self, node: NodeRecord, message: messages.JobsFinished, now: float) -> None:
        ended: list[Job] = []
        revived: list[Job] = []
        outstanding = node.outstanding
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
            job.status = JobStatus.Finished if outcome == 0 else status_of(outcome)
            job.outcome = outcome
            job.reply = payload
            job.payload = None
            job.start_time = start or None
            job.end_time = end
            if late is not None:
                revived.append(job)
                continue
            total += end - start
            ended.append(job)
        if message.outputs:
            for job in (*ended, *revived):
                job.output = message.outputs.get(job.number)
        node.unacknowledged += message.numbers
        if revived:
            self._out.append(c.AnnounceEnded(revived, again=True))
        if not ended or record is None:
            self._acknowledge(node)
            return
        node.jobs_done += len(ended)
        node.cpu_time += total
        node.last_progress = now
        mean = max(total / len(ended), 1e-7)
        # A batch of short jobs says more than a lone one, but no batch says everything.
        weight = min(0.5, 0.1 * len(ended))
        old = record.duration
        record.duration = mean if old is None else old + weight * (mean - old)
        self._out.append(c.AnnounceEnded(ended))
        self._refill(node, now)
        if len(node.unacknowledged) >= ACK_BATCH:
            self._acknowledge(node)
        elif node.unacknowledged:
            # With the next jobs, or else in a moment.
            self._ack_at = min(self._ack_at, now + ACK_SECONDS)
        if record.closing:
            self._check_drained(record)

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
            if job is not None and job.attempt == attempt and job.status is JobStatus.Created:
                job.status = JobStatus.Running
                job.start_time = start
                started.append(job)
        if started:
            self._out.append(c.AnnounceStarted(started))

    # --- nodes ---------------------------------------------------------------------------------
    def _connected(self, event: e.NodeConnected, now: float) -> None:
        known = self.nodes.get(event.node)
        if known is not None and known.incarnation != event.incarnation:
            self._lose(known, f"node {event.node} was restarted")
            known = None
        if known is None:
            known = self.nodes[event.node] = NodeRecord(
                event.node, event.incarnation, event.state.name, event.state.cpus
            )
        known.state = NodeState.CONNECTED
        known.cpus = event.state.cpus
        known.last_progress = now
        # What was acknowledged with a lost frame is sent again, and acknowledged again.
        known.unacknowledged.clear()
        self._count_slots()
        there = set(event.state.numbers)
        self._requeue(known, [n for n in known.outstanding if n not in there])
        unwanted = [
            number
            for number in event.state.numbers
            if number not in known.outstanding and number not in known.abandoned
        ]
        if unwanted:
            # Given to another node since, or ended by a cancel that this node could not hear.
            # The attempt is that node's to know: -1 stands for any.
            self._out.append(c.Send(known.key, messages.CancelJobs(unwanted, [-1] * len(unwanted))))
        for number in event.state.computations:
            if number not in self.computations or self.computations[number].closed:
                self._out.append(c.Send(known.key, messages.CloseComputation(number, True)))
        for record in self.computations.values():
            if record.number not in event.state.computations:
                known.memberships.pop(record.number, None)
                self._check_closed(record)
            elif known.memberships.get(record.number) is Membership.CLOSING:
                # The first request may have been lost with the connection.
                self._out.append(
                    c.Send(known.key, messages.CloseComputation(record.number, record.terminating))
                )
            self._open_on(known, record)
        self._dispatch(now)

    def _count_slots(self) -> None:
        self._slots = sum(n.cpus for n in self.nodes.values() if n.state is NodeState.CONNECTED)

    def _open_on(self, node: NodeRecord, record: ComputationRecord) -> None:
        if node.state is not NodeState.CONNECTED or record.number in node.memberships:
            return
        if record.closing:
            return
        node.memberships[record.number] = Membership.OPENING
        self._out.append(c.Send(node.key, record.opening))

    def _lose(self, node: NodeRecord, reason: str) -> None:
        if node.state is NodeState.LOST:
            return
        node.state = NodeState.LOST
        self._count_slots()
        node.bulk_bytes = 0
        abandoned: list[Job] = []
        for job in reversed(node.outstanding.values()):
            record = self.computations[job.computation]
            record.outstanding -= 1
            if record.reentrant and not record.terminating and not job.cancelling:
                try_again(job)
                record.queue.appendleft(job)
            else:
                move(job, JobStatus.Abandoned)
                job.outcome = -1
                job.reply = f"node {node.name} ({node.key}) was lost: {reason}".encode()
                job.payload = None
                node.abandoned[job.number] = job
                abandoned.append(job)
        node.outstanding.clear()
        if abandoned:
            abandoned.reverse()
            self._out.append(c.AnnounceEnded(abandoned))
        for number in list(node.memberships):
            del node.memberships[number]
            self._out.append(c.AnnounceNode(node.key, number, False, reason))
            record = self.computations[number]
            self._check_closed(record)
        for record in self.computations.values():
            if record.closing:
                self._check_drained(record)

    def _computation_failed(self, node: NodeRecord, number: int, text: str) -> None:
        record = self.computations.get(number)
        if record is None:
            return
        node.memberships[number] = Membership.FAILED
        record.failures[node.key] = text
        self._requeue(
            node, [j.number for j in node.outstanding.values() if j.computation == number]
        )
        self._out.append(c.AnnounceNode(node.key, number, False, text))
        if all(
            n.memberships.get(number) is Membership.FAILED
            for n in self.nodes.values()
            if n.state is NodeState.CONNECTED
        ):
            reason = f"no node can run {record.opening.name!r}: {node.name} says: {text}"
            self._end_queued(record, JobStatus.Terminated, reason)
            self._out.append(c.AnnounceFailed(number, reason))
        self._check_closed(record)

    # --- the end of jobs and computations ------------------------------------------------------
    def _cancel(self, job: Job) -> None:
        if has_ended(job):
            return
        job.cancelling = True
        node = self.nodes.get(job.node) if job.node is not None else None
        if node is None or job.number not in node.outstanding:
            # Still queued. The record stays in the queue as an ended one and is passed over
            # when its turn comes: taking it out would cost a scan.
            move(job, JobStatus.Cancelled)
            job.payload = None
            self._out.append(c.AnnounceEnded([job]))
            record = self.computations[job.computation]
            if record.closing:
                self._check_drained(record)
        else:
            self._out.append(c.Send(node.key, messages.CancelJobs([job.number], [job.attempt])))

    def _close(self, record: ComputationRecord, terminate: bool) -> None:
        if record.closed or (record.closing and not terminate) or record.terminating:
            return
        record.closing = True
        record.terminating = terminate
        if terminate:
            self._end_queued(record, JobStatus.Cancelled, "the cluster was closed")
            for node in self.nodes.values():
                if node.state is NodeState.DISCONNECTED:
                    self._lose(node, "the cluster was closed while it could not be reached")
            self._close_on_nodes(record)
        else:
            self._check_drained(record)

    def _end_queued(self, record: ComputationRecord, status: JobStatus, reason: str) -> None:
        ended = []
        while record.queue:
            job = record.queue.popleft()
            if not has_ended(job):
                move(job, status)
                job.reply = reason.encode()
                job.payload = None
                ended.append(job)
        if ended:
            self._out.append(c.AnnounceEnded(ended))

    def _check_drained(self, record: ComputationRecord) -> None:
        if record.terminating:
            self._check_closed(record)
            return
        if record.outstanding or not self._queue_is_empty(record):
            return
        self._close_on_nodes(record)

    @staticmethod
    def _queue_is_empty(record: ComputationRecord) -> bool:
        while record.queue and record.queue[0].status in ENDED:
            record.queue.popleft()
        return not record.queue

    def _close_on_nodes(self, record: ComputationRecord) -> None:
        self._acknowledge_all()
        for node in self.nodes.values():
            membership = node.memberships.get(record.number)
            if membership in (None, Membership.CLOSING):
                continue
            if node.state is NodeState.CONNECTED:
                if membership is Membership.FAILED:
                    del node.memberships[record.number]
                else:
                    node.memberships[record.number] = Membership.CLOSING
                self._out.append(
                    c.Send(node.key, messages.CloseComputation(record.number, record.terminating))
                )
        self._check_closed(record)

    def _check_closed(self, record: ComputationRecord) -> None:
        if record.closed or not record.closing or record.outstanding or record.queue:
            return
        if any(record.number in node.memberships for node in self.nodes.values()):
            return
        record.closed = True
        self._out.append(c.CloseComplete(record.number))

    # --- placement -----------------------------------------------------------------------------
    def _requeue(self, node: NodeRecord, numbers: Sequence[int]) -> None:
        """Put back at the head, in order, what was sent to the node but not started there."""
        cancelled: list[Job] = []
        for number in sorted(numbers, reverse=True):
            job = node.outstanding.pop(number, None)
            if job is None:
                continue
            record = self.computations[job.computation]
            record.outstanding -= 1
            if type(job.payload) is not bytes:
                node.bulk_bytes -= job.size
            if job.cancelling or record.terminating:
                move(job, JobStatus.Cancelled)
                job.payload = None
                cancelled.append(job)
            else:
                try_again(job)
                record.queue.appendleft(job)
        if cancelled:
            self._out.append(c.AnnounceEnded(cancelled))

    def _dispatch(self, now: float) -> None:
        """Give jobs to every node with room, free slots first."""
        live = [r for r in self.computations.values() if r.queue]
        if live and len(self.nodes) == 1:
            # Nothing to weigh: the common case, and the one in which a lone job hurries.
            (node,) = self.nodes.values()
            for record in live:
                if (
                    node.state is NodeState.CONNECTED
                    and node.memberships.get(record.number) is Membership.READY
                ):
                    self._give(node, record, self._room(node, record))
            return
        if live:
            ready = [n for n in self.nodes.values() if n.state is NodeState.CONNECTED]
            for record in live:
                members = [n for n in ready if n.memberships.get(record.number) is Membership.READY]
                for node in sorted(members, key=lambda n: len(n.outstanding) / max(1, n.cpus)):
                    self._give(node, record, node.spare)
                for node in members:
                    self._give(node, record, self._room(node, record))
        self._plan_recall(now)

    def _refill(self, node: NodeRecord, now: float) -> None:
        """One node has ended jobs: the only one whose room has changed."""
        for record in self.computations.values():
            if not record.queue or node.memberships.get(record.number) is not Membership.READY:
                continue
            room = self._room(node, record)
            # Wait until a good batch fits, unless slots would run dry.
            if room * 4 >= node.cpus * (1 + record.prefetch) or node.spare:
                self._give(node, record, room)
        if node.spare:
            self._plan_recall(now)

    def _room(self, node: NodeRecord, record: ComputationRecord) -> int:
        room = node.cpus * (1 + record.prefetch) - len(node.outstanding)
        if room <= 0:
            return 0
        share = len(record.queue) * node.cpus // max(1, 2 * self._slots) + 1
        return min(room, max(node.spare, share))

    def _give(self, node: NodeRecord, record: ComputationRecord, count: int) -> None:
        queue = record.queue
        key = node.key
        outstanding = node.outstanding
        while count > 0 and queue:
            numbers: list[int] = []
            attempts: list[int] = []
            payloads: list[bytes] = []
            size = 0
            for _ in repeat(None, min(count, BATCH_JOBS)):
                try:
                    job = queue.popleft()
                except IndexError:
                    count = 0
                    break
                if job.status in ENDED:
                    continue
                payload = job.payload
                if type(payload) is not bytes:
                    if not self._give_bulk(node, record, job):
                        queue.appendleft(job)
                        count = 0
                        break
                    count -= 1
                    continue
                job.node = key
                number = job.number
                outstanding[number] = job
                numbers.append(number)
                attempts.append(job.attempt)
                payloads.append(payload)
                size += len(payload)
                if size >= BATCH_BYTES:
                    break
            if numbers:
                count -= len(numbers)
                record.outstanding += len(numbers)
                acknowledged, node.unacknowledged = node.unacknowledged, []
                self._out.append(
                    c.Send(
                        key,
                        messages.RunJobs(record.number, numbers, attempts, payloads, acknowledged),
                    )
                )

    def _give_bulk(self, node: NodeRecord, record: ComputationRecord, job: Job) -> bool:
        if node.bulk_bytes and node.bulk_bytes + job.size > BULK_WINDOW:
            return False
        job.node = node.key
        node.bulk_bytes += job.size
        node.outstanding[job.number] = job
        record.outstanding += 1
        self._out.append(c.SendBulkJob(node.key, record.number, job))
        return True

    # --- rebalancing ---------------------------------------------------------------------------
    def _plan_recall(self, now: float) -> None:
        if self._recall_at == math.inf and self._unbalanced():
            self._recall_at = now + RECALL_SECONDS

    def _unbalanced(self) -> bool:
        connected = [n for n in self.nodes.values() if n.state is NodeState.CONNECTED]
        return (
            len(connected) > 1
            and any(n.spare and Membership.READY in n.memberships.values() for n in connected)
            and any(n.surplus and not n.recalling for n in connected)
        )

    def _rebalance(self, now: float) -> None:
        self._recall_at = math.inf
        if any(r.queue for r in self.computations.values()) or not self._unbalanced():
            self._dispatch(now)
            return
        connected = [n for n in self.nodes.values() if n.state is NodeState.CONNECTED]
        spare = sum(n.spare for n in connected)
        for record in self.computations.values():
            for node in connected:
                waits = node.surplus * (record.duration or math.inf) / max(1, node.cpus)
                stuck = now - node.last_progress > RECALL_SECONDS
                if node.surplus and not node.recalling and (waits > RECALL_SECONDS or stuck):
                    node.recalling = True
                    count = min(node.surplus, spare)
                    self._out.append(c.Send(node.key, messages.RecallJobs(record.number, count)))
        if self._unbalanced():
            self._recall_at = now + RECALL_SECONDS

    # --- views ---------------------------------------------------------------------------------
    def node_infos(self) -> list[NodeInfo]:
        return [
            NodeInfo(
                name=n.name,
                address=n.key,
                cpus=n.cpus,
                busy=len(n.outstanding),
                jobs_done=n.jobs_done,
                cpu_time=n.cpu_time,
                connected=n.state is NodeState.CONNECTED,
            )
            for n in self.nodes.values()
        ]

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
        for node in self.nodes.values():
            for number, job in node.outstanding.items():
                assert job.number == number
                assert job.node == node.key
                assert not has_ended(job), job
            if node.state is NodeState.LOST:
                assert not node.outstanding
