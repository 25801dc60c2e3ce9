"""A node never runs more than it has slots and resources for, whoever asks for what."""

from __future__ import annotations

import math
import random
from collections import deque

import pytest
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import NodeMachine, TemplateReport
from dispy_trio.core.nodes import Membership
from dispy_trio.models import Conditions, Job, JobExtras, JobOptions, JobStatus, Outcome

from .pure_cluster import FakeWorker, PureCluster

RESOURCES = {"gpus": 3, "licence": 2}
WILD = [-(2**63), -5, -1, 0, 1, 1, 1, 2, 3, 4, 8, 9, 2**63 - 1]
"""What a client may say; a node has 8 of most."""
SECONDS = [0.0, 0.0, 0.0, -1.0, math.nan, math.inf, -math.inf, 0.01, 1e300]

Key = tuple[str, int]


def draw_conditions(rng: random.Random) -> Conditions | None:
    if rng.random() < 0.2:
        return None
    return Conditions(
        timeout=rng.choice(SECONDS),
        cpus=rng.choice(WILD),
        gpus=rng.choice(WILD) if rng.random() < 0.3 else 0,
        resources={
            name: rng.choice(WILD) for name in ("licence", "gpus", "moon") if rng.random() < 0.15
        },
        isolated=rng.random() < 0.3,
        max_jobs=rng.choice([0, 0, 1, -1, 3]),
        memory=rng.choice([0, 0, -1, 10**9]),
    )


def needs(conditions: Conditions | None) -> dict[str, int]:
    """What such a job takes, said once more, apart from the code that is tested."""
    if conditions is None:
        return {"slots": 1}
    asked = {"slots": max(1, conditions.cpus)}
    for name, amount in conditions.resources.items():
        asked[name] = max(0, amount)
    if conditions.gpus > 0:
        asked["gpus"] = conditions.gpus
    return asked


@define(eq=False)
class ManyClients:
    """One node of eight slots, its workers, and clients that know no measure."""

    seed: int
    slots: int = 8
    now: float = 0.0
    rng: random.Random = field(init=False)
    machine: NodeMachine = field(init=False)
    workers: dict[tuple[str, int, int], FakeWorker] = field(factory=dict)
    loading: list[Key] = field(factory=list)
    starting: list[tuple[str, int, int]] = field(factory=list)
    conditions: dict[tuple[str, int], Conditions | None] = field(factory=dict)
    open_jobs: set[tuple[str, int]] = field(factory=set)
    returned: set[tuple[str, int]] = field(factory=set)
    most_slots: int = 8
    next_number: int = 1
    next_session: int = 1

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.machine = NodeMachine("n", slots=self.slots, resources=dict(RESOURCES))
        for _ in range(3):
            self.come()

    def come(self) -> None:
        session = f"s{self.next_session}"
        self.next_session += 1
        self.tell(e.SessionConnected(session, "127.0.0.1:1"))
        for number in (1, 2):
            options = messages.ComputationOptions(cpus=self.rng.choice([0, 0, 3]))
            opening = messages.OpenComputation(number, "f", "00", b"", 0, options)
            self.tell(e.MessageReceived(session, opening))

    # --- the machine ---------------------------------------------------------------------------
    def tell(self, event: object) -> None:
        pending = deque([event])
        while pending:
            commands = self.machine.handle(pending.popleft(), now=self.now)  # type: ignore[arg-type]
            self.machine.validate()
            for command in commands:
                self.perform(command, pending)
            self.check()
        assert not math.isnan(self.machine.next_deadline())

    def perform(self, command: c.NodeCommand, pending: deque[object]) -> None:
        match command:
            case c.Send(target=session, message=messages.JobsReturned(numbers=numbers)):
                self.returned |= {(session, n) for n in numbers}
                self.open_jobs -= {(session, n) for n in numbers}
            case c.SendResults(session=session, message=message):
                self.open_jobs -= {(session, n) for n in message.numbers}
            case c.OpenTemplate(session=session, computation=number):
                self.loading.append((session, number))
            case c.StartWorker(session=session, computation=number, worker=worker):
                self.starting.append((session, number, worker))
            case c.SendJobsToWorker(session=session, computation=number, worker=worker):
                queue = self.workers[session, number, worker].queue
                for job in command.jobs:
                    name = b"%s %d" % (session.encode(), job.number)
                    queue.append(seams.WorkerJob(job.sequence, name))
            case c.RecallWorker(session=session, computation=number, worker=worker):
                fake = self.workers[session, number, worker]
                while fake.queue and fake.queue[-1].sequence > fake.started:
                    fake.queue.pop()
                event = seams.WorkerRecalled(worker, fake.started)
                pending.append(TemplateReport(session, number, event))
            case c.KillWorker() | c.StopWorker():
                key = (command.session, command.computation, command.worker)
                pending.append(self.bury(key))
            case c.CloseTemplate(session=session, computation=number):
                for key in [k for k in self.workers if k[:2] == (session, number)]:
                    del self.workers[key]
                self.starting = [k for k in self.starting if k[:2] != (session, number)]
                pending.append(e.TemplateClosed(session, number))
            case _:
                pass

    def bury(self, key: tuple[str, int, int]) -> TemplateReport:
        fake = self.workers.pop(key)
        died = seams.WorkerDied(key[2], fake.started, "killed", b"")
        return TemplateReport(*key[:2], died)

    def check(self) -> None:
        """What really runs, by the workers, fits into what the node really has."""
        taken: dict[str, int] = {}
        for fake in self.workers.values():
            if fake.queue and fake.queue[0].sequence <= fake.started:
                payload = fake.queue[0].payload
                assert payload is not None
                session, number = payload.split()
                for name, amount in needs(self.conditions[session.decode(), int(number)]).items():
                    taken[name] = taken.get(name, 0) + amount
        for name, amount in taken.items():
            has = self.most_slots if name == "slots" else RESOURCES.get(name, 0)
            assert amount <= has, (name, taken)

    # --- what may happen -----------------------------------------------------------------------
    def act(self) -> None:
        rng = self.rng
        self.now += rng.choice([0.0, 1e-4, 0.05])
        busy = [k for k, w in self.workers.items() if w.queue]
        sessions = list(self.machine.sessions)
        dice = rng.random()
        if dice < 0.02 and sessions:
            self.leave(rng.choice(sessions))
        elif dice < 0.05:
            self.tell(e.SlotsSet(rng.choice([0, 1, 4, 8])))
        elif dice < 0.08 and sessions:
            limit = messages.SetCpus(rng.choice([1, 2]), rng.choice([0, 1, 4]))
            self.tell(e.MessageReceived(rng.choice(sessions), limit))
        elif dice < 0.10 and self.workers:
            self.tell(self.bury(rng.choice(list(self.workers))))
        elif dice < 0.13 and self.open_jobs:
            session, number = rng.choice(sorted(self.open_jobs))
            self.tell(e.MessageReceived(session, messages.CancelJobs([number], [-1])))
        elif dice < 0.15 and sessions:
            recall = messages.RecallJobs(rng.choice([1, 2]), 3)
            self.tell(e.MessageReceived(rng.choice(sessions), recall))
        elif dice < 0.40 and sessions:
            self.submit(rng.choice(sessions))
        elif self.machine.next_deadline() <= self.now and dice < 0.5:
            self.tell(e.Tick())
        else:
            self.work(busy)

    def leave(self, session: str) -> None:
        self.open_jobs = {job for job in self.open_jobs if job[0] != session}
        self.tell(e.SessionClosed(session))
        self.open_jobs = {job for job in self.open_jobs if job[0] != session}
        self.come()

    def submit(self, session: str) -> None:
        conditions = draw_conditions(self.rng)
        numbers = list(range(self.next_number, self.next_number + self.rng.choice([1, 1, 3, 20])))
        self.next_number = numbers[-1] + 1
        for number in numbers:
            self.conditions[session, number] = conditions
            self.open_jobs.add((session, number))
        count = len(numbers)
        run = messages.RunJobs(
            self.rng.choice([1, 2]), numbers, [0] * count, [b"x"] * count, [], conditions
        )
        self.tell(e.MessageReceived(session, run))

    def work(self, busy: list[tuple[str, int, int]]) -> None:
        rng = self.rng
        if self.loading and rng.random() < 0.5:
            key = self.loading.pop()
            self.tell(TemplateReport(*key, seams.TemplateReady()))
        elif self.starting and rng.random() < 0.7:
            session, number, worker = self.starting.pop(rng.randrange(len(self.starting)))
            self.workers[session, number, worker] = FakeWorker()
            self.tell(TemplateReport(session, number, seams.WorkerStarted(worker, 1)))
        elif busy:
            self.step(rng.choice(busy))

    def step(self, key: tuple[str, int, int]) -> None:
        fake = self.workers[key]
        if fake.started < fake.queue[0].sequence:
            fake.started = fake.queue[0].sequence
            self.check()
            return
        results = []
        for _ in range(self.rng.choice([1, 4])):
            if fake.queue:
                job = fake.queue.popleft()
                fake.started = job.sequence
                results.append(seams.WorkerResult(job.sequence, Outcome.RETURNED, 0.0, 1e-5, b"r"))
        self.tell(TemplateReport(*key[:2], seams.WorkerResults(key[2], results)))


@pytest.mark.parametrize("seed", range(25))
def test_what_runs_never_takes_more_than_the_node_has(seed: int) -> None:
    node = ManyClients(seed)
    for _ in range(600):
        node.act()
    # And all that can be run does get its turn: nobody waits behind what never will.
    node.tell(e.SlotsSet(8))
    for session in list(node.machine.sessions):
        for number in (1, 2):
            node.tell(e.MessageReceived(session, messages.SetCpus(number, 0)))
    for _ in range(20_000):
        if not node.open_jobs:
            break
        node.now += 1.0
        if node.machine.next_deadline() <= node.now:
            node.tell(e.Tick())
        node.work([k for k, w in node.workers.items() if w.queue])
    assert not node.open_jobs
    assert node.machine._taken == sum(
        worker.held
        for session in node.machine.sessions.values()
        for computation in session.computations.values()
        for worker in computation.workers.values()
    )


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(cpus=-1),
        Conditions(cpus=0),
        Conditions(resources={"moon": 0, "licence": -1}),
        Conditions(gpus=-1),
    ],
    ids=str,
)
def test_who_asks_for_less_than_nothing_takes_a_slot(conditions: Conditions) -> None:
    machine = NodeMachine("n", slots=1, resources=dict(RESOURCES))
    machine.handle(e.SessionConnected("s", "c"), now=0.0)
    opening = messages.OpenComputation(1, "f", "00", b"", 0)
    machine.handle(e.MessageReceived("s", opening), now=0.0)
    machine.handle(TemplateReport("s", 1, seams.TemplateReady()), now=0.0)
    run = messages.RunJobs(1, [1, 2, 3], [0] * 3, [b"x"] * 3, [], conditions)
    (start,) = machine.handle(e.MessageReceived("s", run), now=0.0)
    assert isinstance(start, c.StartWorker)
    started = TemplateReport("s", 1, seams.WorkerStarted(start.worker, 1))
    (send,) = machine.handle(started, now=0.0)
    assert isinstance(send, c.SendJobsToWorker)
    assert len(send.jobs) == 1
    machine.validate()
    assert machine._taken == 1


def test_a_job_that_asks_for_more_than_there_is_goes_back_and_nobody_waits_behind_it() -> None:
    machine = NodeMachine("n", slots=2)
    machine.handle(e.SessionConnected("s", "c"), now=0.0)
    opening = messages.OpenComputation(1, "f", "00", b"", 0)
    machine.handle(e.MessageReceived("s", opening), now=0.0)
    machine.handle(TemplateReport("s", 1, seams.TemplateReady()), now=0.0)
    large = messages.RunJobs(1, [1], [0], [b"x"], [], Conditions(cpus=3))
    (returned,) = machine.handle(e.MessageReceived("s", large), now=0.0)
    assert isinstance(returned, c.Send)
    assert isinstance(returned.message, messages.JobsReturned)
    fits = messages.RunJobs(1, [2], [0], [b"x"], [], Conditions(cpus=2))
    (start,) = machine.handle(e.MessageReceived("s", fits), now=0.0)
    assert isinstance(start, c.StartWorker)
    # It still waits when the client takes a slot away.
    (returned,) = machine.handle(e.MessageReceived("s", messages.SetCpus(1, 1)), now=0.0)
    assert isinstance(returned, c.Send)
    assert isinstance(returned.message, messages.JobsReturned)
    machine.validate()


# --- the client ------------------------------------------------------------------------------
def queue_job(cluster: PureCluster, conditions: Conditions, *, pinned: str | None = None) -> Job:
    job = Job(len(cluster.jobs) + 1, b"x", extras=JobExtras(JobOptions(conditions), pinned=pinned))
    cluster.jobs.append(job)
    cluster.tell(e.JobQueued(job))
    return job


def connect(cluster: PureCluster) -> None:
    """Until all nodes are ready to run jobs."""
    for node in cluster.nodes:
        cluster.connect(node)
        while node.inbox or node.outbox:
            if node.inbox:
                cluster.deliver_to_node(node)
            else:
                cluster.tell(e.MessageReceived(node.key, node.outbox.popleft()))


def slots_given(cluster: PureCluster) -> int:
    (node,) = cluster.machine.nodes.values()
    return sum(
        job.extras.options.conditions.cpus for job in node.outstanding.values() if job.extras
    )


def test_jobs_of_several_slots_given_in_one_go_fit_the_node() -> None:
    cluster = PureCluster(1, [8])
    for cpus in (1, 2, 2, 4):
        queue_job(cluster, Conditions(cpus=cpus))
    connect(cluster)
    assert slots_given(cluster) == 5
    cluster.run()
    assert {job.state for job in cluster.jobs} == {JobStatus.Finished}


@define(eq=False)
class CheckedCluster(PureCluster):
    """Looks after each event at what is sent to nodes beyond jobs of one slot."""

    def tell(self, event: object) -> None:
        super().tell(event)
        for node in self.machine.nodes.values():
            asked = [j.extras.options.conditions for j in node.outstanding.values() if j.extras]
            large = [conditions.cpus for conditions in asked if conditions.cpus > 1]
            assert sum(large) <= node.cpus


@pytest.mark.parametrize("seed", range(25))
def test_a_client_gives_no_node_more_than_it_has(seed: int) -> None:
    cluster = CheckedCluster(seed, [8, 3, 1], failures=0.05, kills=0.001)
    rng = random.Random(seed)
    for _ in range(100):
        conditions = Conditions(
            cpus=rng.choice([1, 1, 1, 2, 3, 4, 5, 8, 9]),
            gpus=rng.choice([0, 0, 0, 1, 2, 3]),
            resources={"licence": 1} if rng.random() < 0.2 else {},
        )
        queue_job(cluster, conditions, pinned="n1" if rng.random() < 0.1 else None)
    cluster.run()
    waiting = [job for job in cluster.jobs if job.number not in cluster.ends]
    for job in waiting:
        assert job.extras is not None
        conditions = job.extras.options.conditions
        here = 3 if job.extras.pinned else 8
        assert conditions.cpus > here or conditions.gpus > 2, "others get their turn"
    for job in waiting:
        cluster.cancel(job)
    assert all(len(cluster.ends[job.number]) == 1 for job in cluster.jobs)
    assert (cluster.record.outstanding, cluster.record.waiting_aside) == (0, 0)


def told(cluster: PureCluster, event: e.JobQueued) -> list[str]:
    commands = cluster.machine.handle(event, now=0.0)
    return [command.text for command in commands if isinstance(command, c.AnnounceWaiting)]


def test_what_no_node_has_is_waited_for_with_one_word_and_held_up_nobody() -> None:
    cluster = PureCluster(1, [2])
    connect(cluster)
    texts = []
    for number in (1, 2):
        job = Job(number, b"x", extras=JobExtras(JobOptions(Conditions(cpus=3, gpus=1))))
        cluster.jobs.append(job)
        texts += told(cluster, e.JobQueued(job))
    (text,) = texts
    assert "3 cpus, 1 gpus wait: no node has so much (n0: 2 cpus, 2 gpus" in text
    small = queue_job(cluster, Conditions(cpus=2))
    cluster.run()
    assert small.state is JobStatus.Finished
    # They start when a node has so much.
    cluster.tell_node(cluster.nodes[0], e.SlotsSet(4))
    cluster.run()
    assert {job.state for job in cluster.jobs} == {JobStatus.Finished}


def test_a_node_that_is_still_dialled_may_have_what_a_job_asks_for() -> None:
    cluster = PureCluster(1, [2])
    cluster.machine.awaited.add("n1")
    connect(cluster)
    job = Job(1, b"x", extras=JobExtras(JobOptions(Conditions(cpus=3))))
    cluster.jobs.append(job)
    assert told(cluster, e.JobQueued(job)) == []
    commands = cluster.machine.handle(e.NodeLost("n1", "refused"), now=0.0)
    assert [type(command) for command in commands] == [c.AnnounceWaiting]


def test_a_pinned_job_that_its_node_has_no_room_for_holds_up_nobody() -> None:
    cluster = PureCluster(1, [2, 8])
    connect(cluster)
    assert cluster.machine.nodes["n0"].memberships[1] is Membership.READY
    stuck = queue_job(cluster, Conditions(cpus=3), pinned="n0")
    others = [queue_job(cluster, Conditions(cpus=2), pinned="n0") for _ in range(3)]
    cluster.run()
    assert {job.state for job in others} == {JobStatus.Finished}
    assert stuck.state is JobStatus.Created
    cluster.tell(e.CloseRequested(1, terminate=True))
    cluster.run()
    assert stuck.state is JobStatus.Cancelled
    assert cluster.complete


def test_a_job_may_be_tried_a_thousand_times() -> None:
    cluster = PureCluster(1, [1], failures=1.0)
    options = JobOptions(Conditions(), retries=1030, retry_delay=0.0)
    job = Job(1, b"x", extras=JobExtras(options))
    cluster.jobs.append(job)
    cluster.tell(e.JobQueued(job))
    cluster.run()
    assert cluster.runs[1] == 1031
