"""A whole cluster of machines with no I/O: messages are handed over by a seeded scheduler.

Everything that can be pending (a message on its way, a worker about to report, a deadline) is an
action; a seeded generator picks the next one. Order within one connection is kept, as TCP keeps
it; all else may happen in any order. Time advances a little with each action.
"""

from __future__ import annotations

import random
from collections import deque

from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.cluster import ClusterMachine, ComputationRecord
from dispy_trio.core.node import NodeMachine, TemplateReport
from dispy_trio.models import Conditions, Job, JobExtras, JobOptions, JobStatus, Outcome

SESSION = "s" * 32
RESOURCES = {"gpus": 2, "licence": 1}
CONDITIONS = [
    Conditions(),
    Conditions(isolated=True),
    Conditions(max_jobs=3),
    Conditions(cpus=2),
    Conditions(gpus=1),
    Conditions(resources={"licence": 1}),
    Conditions(timeout=0.05),
]


@define(eq=False)
class FakeWorker:
    """Runs one job at a time; may be killed at any moment."""

    queue: deque[seams.WorkerJob] = field(factory=deque)
    started: int = 0
    interrupted: set[int] = field(factory=set)


@define(eq=False)
class FakeNode:
    key: str
    machine: NodeMachine
    incarnation: int = 0
    alive: bool = True
    connected: bool = False
    templates: dict[int, dict[int, FakeWorker]] = field(factory=dict)
    inbox: deque[messages.Message] = field(factory=deque)
    outbox: deque[messages.Message] = field(factory=deque)
    segments: set[int] = field(factory=set)


@define(eq=False)
class PureCluster:
    seed: int
    slots: list[int]
    reentrant: bool = False
    kills: float = 0.0
    """Chance per step that a worker dies."""
    collapses: float = 0.0
    """Chance per step that a template dies."""
    refusals: float = 0.0
    """Chance that a worker can't be started."""
    cancels: float = 0.0
    """Chance per step that a job is cancelled."""
    gives_up: float = 0.0
    """Chance per step that a cancelled job is given up."""
    node_losses: int = 0
    disconnects: int = 0
    failures: float = 0.0
    """Chance that a job raises."""
    managing: float = 0.0
    """Chance per step that the user changes what a node is used for."""
    jobs: list[Job] = field(factory=list)
    ends: dict[int, list[JobStatus]] = field(factory=dict)
    runs: dict[int, int] = field(factory=dict)
    now: float = 0.0
    complete: bool = False
    rng: random.Random = field(init=False)
    machine: ClusterMachine = field(init=False)
    record: ComputationRecord = field(init=False)
    nodes: list[FakeNode] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.machine = ClusterMachine()
        opening = messages.OpenComputation(1, "f", "00", b"bundle", 0)
        self.record = ComputationRecord(opening, deque(), reentrant=self.reentrant)
        self.machine.computations[1] = self.record
        self.nodes = [
            FakeNode(f"n{i}", NodeMachine(f"n{i}", slots=slots, resources=dict(RESOURCES)))
            for i, slots in enumerate(self.slots)
        ]

    # --- what the tests do -------------------------------------------------------------------
    def submit(self, count: int) -> None:
        for _ in range(count):
            job = Job(len(self.jobs) + 1, b"x")
            self.jobs.append(job)
            self.record.queue.append(job)
        self.tell(e.JobsSubmitted())

    def submit_special(self, count: int) -> None:
        """Jobs with extras of all kinds, among some without."""
        for _ in range(count):
            if self.rng.random() < 0.3:
                self.submit(1)
                continue
            job = Job(len(self.jobs) + 1, b"x")
            self.jobs.append(job)
            pinned = self.rng.choice(self.nodes).key if self.rng.random() < 0.3 else None
            job.extras = JobExtras(
                JobOptions(
                    conditions=CONDITIONS[0] if pinned else self.rng.choice(CONDITIONS),
                    priority=self.rng.choice([-1, 0, 0, 0, 1]),
                    retries=self.rng.choice([0, 0, 2]),
                    retry_delay=self.rng.choice([0.0, 0.1]),
                    deadline=self.rng.choice([None, None, 5.0, 0.01]),
                ),
                pinned=pinned,
            )
            self.tell(e.JobQueued(job))

    def manage(self) -> None:
        """The user changes something about one node."""
        key = self.rng.choice(self.nodes).key
        self.tell(
            self.rng.choice(
                [
                    e.NodeDeallocated(key),
                    e.NodeAllocated(key),
                    e.NodeCpusSet(key, 1, self.rng.choice([0, 1, 2, -1])),
                    e.NodeRetired(key, 1, self.rng.random() < 0.5, again=True),
                    e.NodeRetired(key, 1, self.rng.random() < 0.5, again=False),
                ]
            )
        )

    def restore(self) -> None:
        """All nodes are to be used, with all they have."""
        for node in self.nodes:
            self.tell(e.NodeAllocated(node.key))
            self.tell(e.NodeCpusSet(node.key, 1, 100))

    def cancel(self, job: Job) -> None:
        self.tell(e.JobCancelRequested(job, "nobody waits" if self.gives_up else ""))

    def give_up(self) -> None:
        """Whoever cancelled a job waits no longer for its end."""
        if cancelled := [job for job in self.jobs if job.cancelling]:
            self.tell(e.JobGivenUp(self.rng.choice(cancelled), "too late"))

    def run(self, *, until: str = "ended", limit: int = 200_000) -> None:
        """Take actions until every job has ended and nothing is under way."""
        for _ in range(limit):
            actions = self.actions()
            if not actions:
                if self.next_deadline() == float("inf"):
                    return
                self.now = max(self.now, self.next_deadline())
                continue
            self.rng.choice(actions)()
            self.now += self.rng.choice([0.0, 1e-5, 1e-3])
            if self.kills and self.rng.random() < self.kills:
                self.kill_a_worker()
            if self.collapses and self.rng.random() < self.collapses:
                self.kill_a_template()
            if self.cancels and self.rng.random() < self.cancels:
                self.cancel(self.rng.choice(self.jobs))
            if self.gives_up and self.rng.random() < self.gives_up:
                self.give_up()
            if self.managing and self.rng.random() < self.managing:
                self.manage()
            if self.node_losses and self.rng.random() < 0.002:
                self.node_losses -= 1
                self.lose_a_node()
            if self.disconnects and self.rng.random() < 0.01:
                self.disconnects -= 1
                self.break_a_connection()
        raise AssertionError(
            f"no end in sight: {[j for j in self.jobs if not self.ends[j.number]]}"
        )

    # --- the client's side -------------------------------------------------------------------
    def tell(self, event: object) -> None:
        commands = self.machine.handle(event, now=self.now)  # type: ignore[arg-type]
        self.machine.validate()
        for command in commands:
            match command:
                case c.Send(target=key, message=message):
                    node = self.node(key)
                    if node.connected:
                        node.inbox.append(message)
                case c.AnnounceEnded(jobs=jobs):
                    for job in jobs:
                        self.ends.setdefault(job.number, []).append(job.state)
                case c.CloseComplete():
                    self.complete = True
                case c.PrepareNode(node=key, computation=number, incarnation=incarnation):
                    self.tell(
                        e.NodePrepared(key, number, incarnation, 0, messages.ComputationOptions())
                    )
                case c.SendBulkJob():
                    raise AssertionError("no large jobs here")

    def node(self, key: str) -> FakeNode:
        return next(n for n in self.nodes if n.key == key)

    # --- a node's side -----------------------------------------------------------------------
    def tell_node(self, node: FakeNode, event: object) -> None:
        pending = deque([event])
        while pending:
            commands = node.machine.handle(pending.popleft(), now=self.now)  # type: ignore[arg-type]
            node.machine.validate()
            for command in commands:
                self.perform(node, command, pending)

    def perform(self, node: FakeNode, command: c.NodeCommand, pending: deque[object]) -> None:
        def report(number: int, event: seams.TemplateEvent) -> TemplateReport:
            return TemplateReport(SESSION, number, event)

        match command:
            case c.Send(message=message) | c.SendResults(message=message):
                if node.connected:
                    node.outbox.append(message)
            case c.SendStarted(jobs=jobs):
                if node.connected:
                    node.outbox.append(
                        messages.JobsStarted(
                            [j.number for j in jobs], [j.attempt for j in jobs], [1.0] * len(jobs)
                        )
                    )
            case c.OpenTemplate(computation=number):
                node.templates[number] = {}
                pending.append(report(number, seams.TemplateReady()))
            case c.CloseTemplate(computation=number):
                node.templates.pop(number, None)
                pending.append(e.TemplateClosed(SESSION, number))
            case c.StartWorker(computation=number, worker=worker):
                if self.refusals and self.rng.random() < self.refusals:
                    pending.append(report(number, seams.WorkerRefused(worker, "no room")))
                    return
                node.templates[number][worker] = FakeWorker()
                pending.append(report(number, seams.WorkerStarted(worker, 1)))
            case c.SendJobsToWorker(computation=number, worker=worker, jobs=jobs):
                node.templates[number][worker].queue.extend(
                    seams.WorkerJob(j.sequence, b"%d %d" % (j.number, j.attempt)) for j in jobs
                )
            case c.RecallWorker(computation=number, worker=worker):
                fake = node.templates[number][worker]
                while fake.queue and fake.queue[-1].sequence > fake.started:
                    fake.queue.pop()
                pending.append(report(number, seams.WorkerRecalled(worker, fake.started)))
            case c.InterruptJob(computation=number, worker=worker, sequence=sequence):
                node.templates[number][worker].interrupted.add(sequence)
            case c.KillWorker(computation=number, worker=worker):
                self.die(node, number, worker)
            case (
                c.PollWorker()
                | c.LingerAtWorker()
                | c.LingerAtSession()
                | c.TerminateJob()
                | c.ReleaseSegment()
                | c.SendOutput()
                | c.NodeFinished()
            ):
                pass
            case c.StopWorker(computation=number, worker=worker):
                fake = node.templates[number].pop(worker)
                died = seams.WorkerDied(worker, fake.started, "stopped", b"")
                pending.append(report(number, died))
            case c.OpenTemplate():
                raise AssertionError
            case c.GiveUp(error=error):
                raise error

    def die(self, node: FakeNode, number: int, worker: int) -> None:
        fake = node.templates[number].pop(worker)
        died = seams.WorkerDied(worker, fake.started, "killed by SIGKILL (9)", b"")
        self.tell_node(node, TemplateReport(SESSION, number, died))

    # --- what may happen next ----------------------------------------------------------------
    def next_deadline(self) -> float:
        return min(
            self.machine.next_deadline(),
            *(n.machine.next_deadline() for n in self.nodes if n.alive),
        )

    def actions(self) -> list[object]:
        out: list[object] = []
        for node in self.nodes:
            if not node.alive:
                continue
            if not node.connected:
                out.append(lambda n=node: self.connect(n))
            if node.inbox:
                out.append(lambda n=node: self.deliver_to_node(n))
            if node.outbox:
                out.append(lambda n=node: self.tell(e.MessageReceived(n.key, n.outbox.popleft())))
            if node.machine.next_deadline() <= self.now:
                out.append(lambda n=node: self.tell_node(n, e.Tick()))
            for number, workers in node.templates.items():
                for worker, fake in workers.items():
                    if fake.queue:
                        out.append(lambda n=node, k=number, w=worker, f=fake: self.step(n, k, w, f))
        if self.machine.next_deadline() <= self.now:
            out.append(lambda: self.tell(e.Tick()))
        return out

    def connect(self, node: FakeNode) -> None:
        node.connected = True
        self.tell_node(node, e.SessionConnected(SESSION, "client"))
        state = node.outbox.popleft()
        assert isinstance(state, messages.SessionState)
        self.tell(e.NodeConnected(node.key, str(node.incarnation), state))

    def deliver_to_node(self, node: FakeNode) -> None:
        self.tell_node(node, e.MessageReceived(SESSION, node.inbox.popleft()))

    def step(self, node: FakeNode, number: int, worker: int, fake: FakeWorker) -> None:
        """Start the next job, or end the one that runs; sometimes several at once."""
        job = fake.queue[0]
        if fake.started < job.sequence:
            fake.started = job.sequence
            name = job.payload.split()[0]
            self.runs[int(name)] = self.runs.get(int(name), 0) + 1
            return
        results = []
        for _ in range(self.rng.choice([1, 1, 5])):
            if not fake.queue or fake.queue[0].sequence > fake.started:
                break
            job = fake.queue.popleft()
            cancelled = job.sequence in fake.interrupted
            raised = self.failures > 0 and self.rng.random() < self.failures
            duration = self.rng.choice([1e-6, 1e-6, 1e-4, 0.2])
            results.append(
                seams.WorkerResult(
                    job.sequence,
                    Outcome.CANCELLED
                    if cancelled
                    else Outcome.RAISED
                    if raised
                    else Outcome.RETURNED,
                    self.now,
                    self.now + duration,
                    job.payload,
                )
            )
            if fake.queue:
                fake.started = fake.queue[0].sequence
                name = fake.queue[0].payload.split()[0]
                self.runs[int(name)] = self.runs.get(int(name), 0) + 1
        self.tell_node(node, TemplateReport(SESSION, number, seams.WorkerResults(worker, results)))

    # --- faults ------------------------------------------------------------------------------
    def kill_a_worker(self) -> None:
        living = [
            (node, number, worker)
            for node in self.nodes
            if node.alive
            for number, workers in node.templates.items()
            for worker in workers
        ]
        if living:
            self.die(*self.rng.choice(living))

    def kill_a_template(self) -> None:
        living = [(node, number) for node in self.nodes if node.alive for number in node.templates]
        if living:
            node, number = self.rng.choice(living)
            deaths = [
                seams.WorkerDied(worker, fake.started, "killed by SIGKILL (9)", b"")
                for worker, fake in node.templates[number].items()
            ]
            node.templates[number].clear()
            died = seams.TemplateDied("killed by SIGKILL", deaths)
            self.tell_node(node, TemplateReport(SESSION, number, died))

    def break_a_connection(self) -> None:
        linked = [n for n in self.nodes if n.alive and n.connected]
        if linked:
            node = self.rng.choice(linked)
            node.connected = False
            # What was under way is lost, in both directions, from some point on.
            for box in (node.inbox, node.outbox):
                while box and self.rng.random() < 0.7:
                    box.pop()
            while node.inbox:
                self.deliver_to_node(node)
            while node.outbox:
                self.tell(e.MessageReceived(node.key, node.outbox.popleft()))
            self.tell(e.NodeDisconnected(node.key, "reset"))
            self.tell_node(node, e.SessionDisconnected(SESSION))

    def lose_a_node(self) -> None:
        alive = [n for n in self.nodes if n.alive]
        if len(alive) < 2:
            return
        node = self.rng.choice(alive)
        node.inbox.clear()
        node.outbox.clear()
        node.templates.clear()
        node.connected = False
        if self.rng.random() < 0.5:
            # It restarts faster than anybody notices.
            node.incarnation += 1
            node.machine = NodeMachine(
                node.key, slots=node.machine.slots, resources=dict(RESOURCES)
            )
            self.tell(e.NodeDisconnected(node.key, "reset"))
        else:
            node.alive = False
            self.tell(e.NodeLost(node.key, "connection refused"))
