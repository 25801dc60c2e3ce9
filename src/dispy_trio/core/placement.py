"""Which job goes where.

Theory of operation
-------------------
A node has *room* for as many jobs as it has slots, plus, for each slot, as many as fit into
`PREFETCH_SECONDS` of work by the measured duration of this computation's jobs: none for long jobs,
thousands for tiny ones. Free slots are served before any node gets jobs to wait on, and a batch
takes no more than the node's fair share of what is queued, so the end of a run is spread evenly.
When the queue has run dry and one node idles while jobs wait on another, the waiting ones are
recalled.

Jobs with extras (a priority, a pinned node, resources…) wait aside: pinned ones at their node, once
it has answered, the others in a heap. A node serves its pinned jobs first, then whichever is due of
the heap and the queue: the higher priority, and among equals the older. When the one that is due
needs more than a capable node has free, that one node is kept for it, so that small jobs can't
starve large ones. One that needs more than any node has is put away until the nodes change, and the user is told.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby, repeat

from attrs import define, field

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core.aside import Aside, extras_of, seconds_left
from dispy_trio.core.jobs import ENDED, has_ended, move, try_again
from dispy_trio.core.nodes import Membership, NodeRecord, NodeState, demands, slots_taken
from dispy_trio.models import (
    CONDITIONS_OF_MOST,
    OPTIONS_OF_MOST,
    Conditions,
    Job,
    JobOptions,
    JobStatus,
    Outcome,
    SlotHolder,
)
from dispy_trio.texts import to_bytes

__all__ = ["ComputationRecord", "Placement", "late_text"]

PREFETCH_SECONDS = 0.05
MAX_PREFETCH = 2048
"""Waiting jobs per slot, at most."""
BATCH_JOBS = 1024
BATCH_BYTES = 512 * 1024
BULK_WINDOW = 64 * 1024 * 1024
"""Argument bytes under way to one node over its bulk connection; one job always may go."""
RECALL_SECONDS = 0.02
NEVER_READY = frozenset({Membership.REFUSED, Membership.FAILED})
"""Nodes that do not run a computation, unless the user does something about it."""
MOST_TOLD = 100
"""Kinds of jobs of a computation that the user is told of: no node can run them."""
NODES_SHOWN = 4


@define(eq=False)
class ComputationRecord:
    """One computation and its queue."""

    opening: messages.OpenComputation
    queue: deque[Job]
    """Shared with whoever submits: it appends on the right, from any thread."""
    reentrant: bool = False
    options: JobOptions = OPTIONS_OF_MOST
    """Of its jobs that have no extras."""
    aside: Aside = field(factory=Aside)
    ended_in_queue: int = 0
    """Jobs that have ended while they waited in `queue`; they stay there until their turn comes."""
    waiting_aside: int = 0
    """Jobs that wait, but not in `queue`: pinned, with a priority, before another try…"""
    reserved: str | None = None
    """The node that is being emptied for a job that needs much of it."""
    duration: float | None = None
    """Seconds a job takes on a node, a moving average; None before the first result."""
    outstanding: int = 0
    closing: bool = False
    terminating: bool = False
    closed: bool = False
    failures: dict[str, str] = field(factory=dict)
    """Node to reason, of the nodes that can't run it."""
    failed: bool = False
    """It was told that no node is left that can run it."""
    told: set[str] = field(factory=set)
    """What its user was told that jobs ask for and no node has."""

    @property
    def number(self) -> int:
        return self.opening.computation

    @property
    def pending(self) -> int:
        """Jobs that have not ended."""
        waiting = len(self.queue) - self.ended_in_queue + self.waiting_aside
        return waiting + self.outstanding

    def first(self) -> Job | None:
        """The job whose turn in `queue` it is, if one is there. Those that have ended go."""
        while self.queue and self.queue[0].state in ENDED:
            self.queue.popleft()
            self.ended_in_queue -= 1
        return self.queue[0] if self.queue else None

    @property
    def conditions(self) -> Conditions | None:
        """Of its jobs that have no extras; None for those of most."""
        conditions = self.options.conditions
        return None if conditions is CONDITIONS_OF_MOST else conditions

    @property
    def prefetch(self) -> int:
        """Jobs to keep waiting per slot."""
        if self.duration is None:
            return 0
        return min(MAX_PREFETCH, int(PREFETCH_SECONDS / max(self.duration, 1e-7)))


@define(eq=False)
class Placement:
    """The queues and the nodes, and who of the one is given to which of the other."""

    computations: dict[int, ComputationRecord] = field(factory=dict)
    nodes: dict[str, NodeRecord] = field(factory=dict)
    awaited: set[str] = field(factory=set)
    """Nodes that are being dialled for the first time: any of them may be the one that works."""
    absent: set[str] = field(factory=set)
    """Nodes that can't be reached now, and may come."""
    refusals: dict[str, str] = field(factory=dict)
    """Node to reason, of those that refuse us for good."""
    hungry: bool = True
    """When the queues were last looked at, there was room for more than was found."""
    _recall_at: float = math.inf
    _now: float = 0.0
    """When jobs were given last."""
    _slots: int = 0
    """Slots of all nodes that are given jobs."""
    _out: list[c.ClusterCommand] = field(factory=list)

    # --- who waits -----------------------------------------------------------------------------
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
            if job.extras is not None:
                node.load(job.extras.options.conditions, -1)
            if job.cancelling or record.terminating:
                self._cancel_unstarted(job)
                cancelled.append(job)
            else:
                try_again(job)
                self._put_back(record, job)
        if cancelled:
            self._out.append(c.AnnounceEnded(cancelled))

    @staticmethod
    def _cancel_unstarted(job: Job) -> None:
        if job.extras is not None and job.extras.late:
            job.outcome, job.reply = Outcome.TIMED_OUT, late_text(job)
            move(job, JobStatus.Terminated)
        else:
            move(job, JobStatus.Cancelled)
        job.payload = None

    def _put_back(self, record: ComputationRecord, job: Job) -> None:
        """A job that was sent waits again, before those that were not."""
        if job.extras is None:
            record.queue.appendleft(job)
        else:
            self._set_aside(record, job)

    def _set_aside(self, record: ComputationRecord, job: Job, *, counted: bool = False) -> None:
        if not counted:
            record.waiting_aside += 1
        key = extras_of(job).pinned
        if key is None:
            record.aside.push(job)
            return
        node = self.nodes.get(key)
        if node is None and key in self.refusals:
            reason = f"node {key}, which it was to run on: {self.refusals[key]}"
            self._end_aside(record, [job], reason, JobStatus.Terminated)
        elif node is None:
            record.aside.park(job)  # It has not answered yet.
        elif node.state is NodeState.LOST:
            self._end_aside(record, [job], f"node {key}, which it was to run on, is not there")
        elif node.memberships.get(record.number) in NEVER_READY:
            self._end_refused(node, record, [job])
        elif job.attempt:
            node.pinned.appendleft(job)
        else:
            node.pinned.append(job)

    def _end_refused(
        self, node: NodeRecord, record: ComputationRecord, jobs: Iterable[Job]
    ) -> None:
        """End jobs that were to run on that node, which can't run the computation or is not to."""
        why = node.error or "the cluster does not use it"
        reason = f"node {node.name} ({node.key}), which it was to run on: {why}"
        self._end_aside(record, jobs, reason, JobStatus.Terminated)

    def _end_aside(
        self,
        record: ComputationRecord,
        jobs: Iterable[Job],
        reason: str,
        status: JobStatus = JobStatus.Cancelled,
    ) -> None:
        """End jobs that waited aside, and were taken out from there."""
        ended = [job for job in jobs if not has_ended(job)]
        for job in ended:
            job.reply = to_bytes(reason)
            move(job, status)
            job.payload = None
        record.waiting_aside -= len(ended)
        if ended:
            self._out.append(c.AnnounceEnded(ended))

    def _count_slots(self) -> None:
        for node in self.nodes.values():
            node.count_slots()
        self._slots = sum(
            n.cpus for n in self.nodes.values() if n.state is NodeState.CONNECTED and n.allocated
        )
        self._unpark()

    # --- who asks for too much -----------------------------------------------------------------
    def _fits_somewhere(self, record: ComputationRecord, job: Job) -> bool:
        """Is there a node that could run it, once it has nothing else to do?"""
        extras = extras_of(job)
        return any(
            node.can_fit(extras.options.conditions)
            for node in self.nodes.values()
            if node.state is not NodeState.LOST
            and node.allocated
            and extras.pinned in (None, node.key)
            and node.memberships.get(record.number) not in NEVER_READY
        )

    def _park(self, record: ComputationRecord, job: Job) -> None:
        """Put away a job that no node can run, and say so, once for all that ask for as much."""
        record.aside.park(job)
        key, text = self._tell_parked(job)
        if self.awaited or key in record.told or len(record.told) >= MOST_TOLD:
            return  # A node that is still dialled may have it.
        record.told.add(key)
        self._out.append(c.AnnounceWaiting(text))

    def _tell_parked(self, job: Job) -> tuple[str, str]:
        """What a job that no node can run asks for, in short and in a sentence."""
        extras = extras_of(job)
        if extras.pinned is not None and extras.pinned not in self.nodes:
            where = f"node {extras.pinned}"
            return where, f"jobs that were submitted to {where} wait: it has not answered yet"
        asked = ", ".join(
            f"{amount} {name}"
            for name, amount in {
                "cpus": slots_taken(extras.options.conditions),
                **demands(extras.options.conditions),
            }.items()
        )
        where = f"node {extras.pinned}" if extras.pinned else "no node"
        there = ", ".join(
            f"{node.key}: {node.cpus} cpus"
            + "".join(f", {amount} {name}" for name, amount in node.resources.items())
            for node in list(self.nodes.values())[:NODES_SHOWN]
            if node.state is not NodeState.LOST
        )
        has = "has not so much" if extras.pinned else "has so much"
        return f"{where} {asked}", (
            f"jobs that ask for {asked} wait: {where} {has} ({there or 'none is connected'});"
            " they start when one has; cancel them if none ever will"
        )

    def _unpark(self) -> None:
        """The nodes have changed: who was put away takes its turn again."""
        for record in self.computations.values():
            for job in record.aside.unpark():
                self._set_aside(record, job, counted=True)

    def _tell_of_holders(self, node: NodeRecord, holders: Sequence[SlotHolder]) -> None:
        """When absent clients hold all slots of a node and our jobs wait, say so once."""
        away = [holder for holder in holders if holder.away is not None]
        if not node.offered or sum(holder.slots for holder in away) < node.offered:
            node.told_of = frozenset()
            return
        owners = frozenset(holder.client for holder in away)
        waits = node.outstanding or any(
            record.queue or record.waiting_aside for record in self.computations.values()
        )
        if owners <= node.told_of or not waits:
            return
        node.told_of = owners
        shown = ", ".join(map(str, away[:NODES_SHOWN]))
        self._out.append(
            c.AnnounceWaiting(
                f"node {node.key}: jobs wait, because all its slots are held by jobs of clients that"
                f" are away: {shown}. They run to their end; to end them, type"
                f" 'release {away[0].client}' at the node's console, or start the node with"
                " --zombie-jobs end"
            )
        )

    # --- who is given what ---------------------------------------------------------------------
    def _dispatch(self, now: float) -> None:
        """Give jobs to every node with room, free slots first."""
        self._now = now
        live = [r for r in self.computations.values() if r.queue or r.waiting_aside]
        self.hungry = not live
        if live and len(self.nodes) == 1:
            # Nothing to weigh: the common case, and the one in which a lone job hurries.
            (node,) = self.nodes.values()
            for record in live:
                if self._may_give(node, record):
                    self._give(node, record, self._room(node, record))
            return
        if live:
            for record in live:
                members = [n for n in self.nodes.values() if self._may_give(n, record)]
                for node in sorted(members, key=lambda n: len(n.outstanding) / max(1, n.cpus)):
                    self._give(node, record, node.spare)
                for node in members:
                    self._give(node, record, self._room(node, record))
        self._plan_recall(now)

    def _refill(self, node: NodeRecord, now: float) -> None:
        """One node has ended jobs: the only one whose room has changed."""
        self._now = now
        for record in self.computations.values():
            if not (record.queue or record.waiting_aside):
                self.hungry = True
                continue
            if not self._may_give(node, record):
                continue
            room = self._room(node, record)
            # Wait until a good batch fits, unless slots would run dry.
            if room * 4 >= node.cpus * (1 + record.prefetch) or node.spare:
                self._give(node, record, room)
        if node.spare:
            self._plan_recall(now)

    @staticmethod
    def _may_give(node: NodeRecord, record: ComputationRecord) -> bool:
        return (
            node.state is NodeState.CONNECTED
            and node.allocated
            and not node.leftovers
            and node.memberships.get(record.number) is Membership.READY
        )

    def _room(self, node: NodeRecord, record: ComputationRecord) -> int:
        room = node.cpus * (1 + record.prefetch) - len(node.outstanding) - node.extra
        if room <= 0:
            return 0
        waiting = len(record.queue) + record.waiting_aside
        share = waiting * node.cpus // max(1, 2 * self._slots) + 1
        return min(room, max(node.spare, share))

    def _give_aside(self, node: NodeRecord, record: ComputationRecord, count: int) -> int:
        """Give the node its pinned jobs, and those of the heap whose turn it is.

        Returns how many of the queue it may be given after that.
        """
        batch: list[Job] = []
        size = 0
        while count > 0:
            if len(batch) >= BATCH_JOBS or size >= BATCH_BYTES:
                self._give_batch(node, record, batch)
                batch, size = [], 0
            from_heap = not node.pinned
            job = record.aside.first() if from_heap else node.pinned[0]
            if job is None:
                break
            if has_ended(job):
                node.pinned.popleft()
                continue
            options = extras_of(job).options
            first = record.first() if from_heap else None
            if first is not None and (-options.priority, job.number) > (0, first.number):
                break
            conditions = options.conditions
            if _is_picky(conditions) and not node.fits(conditions):
                if node.can_fit(conditions):
                    if record.reserved in (None, node.key):
                        record.reserved = node.key
                        count = 0
                    break
                if self._fits_somewhere(record, job):
                    break
                if from_heap:
                    record.aside.pop()
                else:
                    node.pinned.popleft()
                self._park(record, job)
                continue
            if record.reserved == node.key:
                record.reserved = None
            if type(job.payload) is not bytes and not self._has_bulk_room(node, job):
                count = 0
                break
            if from_heap:
                record.aside.pop()
            else:
                node.pinned.popleft()
            record.waiting_aside -= 1
            node.load(conditions)
            count -= slots_taken(conditions)
            if extras_of(job).files or type(job.payload) is not bytes:
                self._give_alone(node, record, job)
            else:
                # At once, so that the next one is not given the same slot.
                job.node_key = node.key
                node.outstanding[job.number] = job
                record.outstanding += 1
                batch.append(job)
                size += len(job.payload)
        self._give_batch(node, record, batch)
        return count

    def _give_batch(self, node: NodeRecord, record: ComputationRecord, jobs: list[Job]) -> None:
        """Send jobs with extras; those that share their conditions share a message."""
        for (conditions, is_timed), group in groupby(jobs, _kind):
            together = list(group)
            payloads = [job.payload for job in together]
            left = [seconds_left(job, self._now) or 0.0 for job in together] if is_timed else None
            node.sent += sum(map(len, payloads))
            self._out.append(
                c.Send(
                    node.key,
                    messages.RunJobs(
                        record.number,
                        [job.number for job in together],
                        [job.attempt for job in together],
                        payloads,
                        [],
                        None if conditions is CONDITIONS_OF_MOST else conditions,
                        left,
                    ),
                )
            )

    def _give(self, node: NodeRecord, record: ComputationRecord, count: int) -> None:
        if record.waiting_aside:
            count = self._give_aside(node, record, count)
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
                    self.hungry = True
                    count = 0
                    break
                if job.state in ENDED:
                    record.ended_in_queue -= 1
                    continue
                payload = job.payload
                if type(payload) is not bytes:
                    if not self._give_bulk(node, record, job):
                        queue.appendleft(job)
                        count = 0
                        break
                    count -= 1
                    continue
                job.node_key = key
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
                node.sent += size
                acknowledged, node.unacknowledged = node.unacknowledged, []
                self._out.append(
                    c.Send(
                        key,
                        messages.RunJobs(
                            record.number,
                            numbers,
                            attempts,
                            payloads,
                            acknowledged,
                            record.conditions,
                        ),
                    )
                )
        if count > 0:
            self.hungry = True

    @staticmethod
    def _has_bulk_room(node: NodeRecord, job: Job) -> bool:
        return not node.bulk_bytes or node.bulk_bytes + job.size <= BULK_WINDOW

    def _give_bulk(self, node: NodeRecord, record: ComputationRecord, job: Job) -> bool:
        if not self._has_bulk_room(node, job):
            return False
        self._give_alone(node, record, job)
        return True

    def _give_alone(self, node: NodeRecord, record: ComputationRecord, job: Job) -> None:
        """Send a job that is large, or whose files go before it."""
        job.node_key = node.key
        if type(job.payload) is not bytes:
            node.bulk_bytes += job.size
            node.sent += job.size
        else:
            node.sent += len(job.payload)
        node.outstanding[job.number] = job
        record.outstanding += 1
        if job.extras is not None and job.extras.files:
            self._out.append(c.SendJobWithFiles(node.key, record.number, job, job.attempt))
        else:
            self._out.append(c.SendBulkJob(node.key, record.number, job))

    # --- rebalancing ---------------------------------------------------------------------------
    def _plan_recall(self, now: float) -> None:
        if self._recall_at == math.inf and self._unbalanced():
            self._recall_at = now + RECALL_SECONDS

    def _unbalanced(self) -> bool:
        connected = [
            n for n in self.nodes.values() if n.state is NodeState.CONNECTED and n.allocated
        ]
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


def _is_picky(conditions: Conditions) -> bool:
    """Does it need more than one slot that is free sooner or later?"""
    return conditions.cpus > 1 or bool(conditions.gpus or conditions.resources)


def _kind(job: Job) -> tuple[Conditions, bool]:
    """What jobs of one message have in common: the conditions, and whether they have a deadline."""
    extras = extras_of(job)
    return extras.options.conditions, extras.due < math.inf


def late_text(job: Job) -> bytes:
    deadline = extras_of(job).options.deadline
    return f"its deadline, {deadline:g} s after it was submitted, has passed".encode()
