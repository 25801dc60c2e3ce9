"""A whole cluster on a virtual network: real node service, real client engine, scripted workers."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve, field

from dispy_trio import messages, seams
from dispy_trio.client.cluster import Cluster
from dispy_trio.client.engine import Doors, Engine, open_engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.config import NodeSettings
from dispy_trio.errors import ConnectionLost
from dispy_trio.models import Job, Outcome
from dispy_trio.runtime.secret import Secret
from dispy_trio.runtime.store import DiskStore
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import Outside
from dispy_trio.testing import MemoryNetwork, deterministic_run, seeded_tokens

SECRET = Secret(b"0123456789abcdef0123456789abcdef", Path("/nowhere"))
PORT = 9701


@define(eq=False)
class ScriptedWorker:
    number: int
    queue: deque[seams.WorkerJob] = field(factory=deque)
    started: int = 0
    cancelled: set[int] = field(factory=set)
    wake: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)


@define(eq=False)
class ScriptedTemplate:
    """Runs ``x -> 2 * x`` in virtual time; a worker may die under a job."""

    spawner: ScriptedSpawner
    report: Callable[[seams.TemplateEvent], None]
    nursery: trio.Nursery
    workers: dict[int, ScriptedWorker] = field(factory=dict)
    closed: bool = False

    def start_worker(self, worker: int) -> None:
        self.workers[worker] = ScriptedWorker(worker)
        self.nursery.start_soon(self._run, self.workers[worker])

    async def _run(self, worker: ScriptedWorker) -> None:
        rng = self.spawner.rng
        with worker.scope:
            await trio.sleep(0.002)
            self.report(seams.WorkerStarted(worker.number, worker.number))
            while True:
                while not worker.queue:
                    worker.wake = trio.Event()
                    await worker.wake.wait()
                job = worker.queue[0]
                worker.started = job.sequence
                try:
                    args, keywords = pickle.loads(job.payload or b"")
                    calls = args if keywords is None else [args]  # Of `map`: many in one job.
                    values = [value for (value,) in calls]
                except Exception as exc:
                    worker.queue.popleft()
                    text = f"{type(exc).__name__}: {exc}".encode()
                    refused = seams.WorkerResult(job.sequence, Outcome.REFUSED, 1.0, 1.0, text)
                    self.report(seams.WorkerResults(worker.number, [refused]))
                    continue
                for value in values:
                    self.spawner.history.append((trio.current_time(), "run", value))
                start = trio.current_time()
                await trio.sleep(rng.choice(self.spawner.durations))
                if rng.random() < self.spawner.death_rate:
                    break
                worker.queue.popleft()
                doubled = (
                    ([2 * value for value in values], None) if keywords is None else 2 * values[0]
                )
                outcome, payload = Outcome.RETURNED, pickle.dumps(doubled)
                if job.sequence in worker.cancelled:
                    outcome, payload = Outcome.CANCELLED, b"cancelled while it ran"
                result = seams.WorkerResult(
                    job.sequence,
                    outcome,
                    1 + start,
                    1 + trio.current_time(),
                    payload,
                )
                self.report(seams.WorkerResults(worker.number, [result]))
        if not self.closed:
            del self.workers[worker.number]
            self.report(
                seams.WorkerDied(worker.number, worker.started, "killed by SIGKILL (9)", b"")
            )

    def send_jobs(self, worker: int, jobs: Sequence[seams.WorkerJob]) -> None:
        # Copies: the node marks its own records when it takes jobs back.
        self.workers[worker].queue.extend(
            seams.WorkerJob(job.sequence, job.payload) for job in jobs
        )
        self.workers[worker].wake.set()

    def poll(self, worker: int) -> tuple[int, float]:
        return self.workers[worker].started, 1.0

    def linger(self, worker: int, seconds: float) -> None:
        pass

    def recall(self, worker: int) -> None:
        target = self.workers[worker]
        while target.queue and target.queue[-1].sequence > target.started:
            target.queue.pop()
        self.report(seams.WorkerRecalled(worker, target.started))

    def interrupt(self, worker: int, sequence: int) -> None:
        self.spawner.history.append((trio.current_time(), "interrupt", sequence))
        self.workers[worker].cancelled.add(sequence)

    def terminate(self, worker: int, sequence: int) -> None:
        self.workers[worker].cancelled.add(sequence)

    def kill(self, worker: int) -> None:
        self.workers[worker].scope.cancel()

    stop_worker = kill

    def output(self, worker: int, sequence: int) -> tuple[bytes, bytes]:
        return b"", b""

    async def clean_up(self, timeout: float) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    def answer(self, worker: int, call: int, body: dict[str, Any]) -> None:
        raise AssertionError("these jobs ask nothing")

    def give_up(self, text: str) -> None:
        deaths = [
            seams.WorkerDied(worker.number, worker.started, f"killed: {text}", b"")
            for worker in self.workers.values()
        ]
        self.closed = True
        for worker in self.workers.values():
            worker.scope.cancel()
        self.report(seams.TemplateDied(text, deaths))

    async def aclose(self) -> None:
        self.closed = True
        for worker in self.workers.values():
            worker.scope.cancel()
        await trio.sleep(0.001)


@define(eq=False)
class ScriptedSpawner:
    rng: random.Random
    history: list[tuple[float, str, Any]]
    death_rate: float = 0.0
    durations: Sequence[float] = (0.0001, 0.01, 0.5)
    templates: list[ScriptedTemplate] = field(factory=list)

    async def open_template(
        self,
        bundle: memoryview | bytes,
        settings: seams.TemplateSettings,
        on_event: Callable[[seams.TemplateEvent], None],
        nursery: trio.Nursery,
    ) -> ScriptedTemplate:
        await trio.sleep(0.01)
        template = ScriptedTemplate(self, on_event, nursery)
        self.templates.append(template)
        nursery.start_soon(self._ready, template)
        return template

    async def _ready(self, template: ScriptedTemplate) -> None:
        await trio.sleep(0.01)
        if not template.closed:
            template.report(seams.TemplateReady())

    def prepare(self) -> None:
        pass

    def close(self) -> None:
        pass


class NoDirectories(DiskStore):
    """Segments only: scripted workers have no files."""

    async def make_directory(self, name: str) -> str:
        await trio.lowlevel.checkpoint()
        return f"/nowhere/{name}"

    def remove_soon(self, path: str) -> None:
        pass

    async def run(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def read_status(seconds: float | None) -> messages.NodeStatus:
    await trio.sleep(seconds or 0)
    return messages.NodeStatus(50.0, 10**9, 10**10, 100.0)


class History(Listener):
    """Writes down how jobs end."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def ended(self, jobs: Sequence[Job], again: bool) -> None:
        simulation = self._simulation
        for job in jobs:
            assert again == (job.number in simulation.ends)
            simulation.history.append((trio.current_time(), job.state.name, job.number))
            simulation.ends.setdefault(job.number, []).append(job.state.name)


@define(eq=False)
class Simulation:
    """Three nodes and a client, and what happened to them."""

    seed: int
    death_rate: float = 0.0
    reentrant: bool = False
    slots: int = 2
    durations: Sequence[float] = (0.0001, 0.01, 0.5)
    """Of jobs, in seconds."""
    settings: NodeSettings = field(factory=lambda: NodeSettings(pulse_interval=1.0))
    """Of the nodes, but for their names and addresses."""
    network: MemoryNetwork = field(init=False)
    rng: random.Random = field(init=False)
    history: list[tuple[float, str, Any]] = field(factory=list)
    ends: dict[int, list[str]] = field(factory=dict)
    jobs: list[SubmittedJob[int]] = field(factory=list)
    scopes: dict[str, trio.CancelScope] = field(factory=dict)
    spawners: dict[str, ScriptedSpawner] = field(factory=dict)
    """Of the nodes in the life that they are in."""

    def __attrs_post_init__(self) -> None:
        self.network = MemoryNetwork(seed=self.seed, jitter=0.0005)
        self.rng = random.Random(self.seed)

    @property
    def node_names(self) -> list[str]:
        return [f"10.0.0.{i}" for i in (2, 3, 4)]

    async def run_node(  # noqa: ASYNC128 - the service within reports it
        self, name: str, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One life of a node; cancel its scope and it is gone without a word."""
        life = f"{name} {trio.current_time()}"
        spawner = self.spawners[name] = ScriptedSpawner(
            random.Random(f"{self.seed} {life}"), self.history, self.death_rate, self.durations
        )
        outside = Outside(
            net=self.network.host(name),
            spawner=spawner,
            store=NoDirectories(Path("/nowhere")),
            secret=SECRET,
            processors=self.slots,
            most_workers=2 * self.slots,
            draw_token=seeded_tokens(self.seed, life),
            read_status=read_status,
        )
        settings = evolve(self.settings, host=name, port=PORT, name=name)
        with trio.CancelScope() as scope:
            self.scopes[name] = scope
            lost: BaseException | None = None
            try:
                await run_node(settings, outside, task_status=task_status)
            except* ConnectionLost as group:
                lost = group
            # Else it is what a dead machine's program would have seen of its own sockets.
            if lost is not None and not scope.cancel_called:
                raise lost

    def left_on(self, name: str) -> list[ScriptedTemplate]:
        """The processes of computations that are open on a node."""
        return [template for template in self.spawners[name].templates if not template.closed]

    @asynccontextmanager
    async def open_cluster(self) -> AsyncIterator[Cluster[[int], int]]:
        """What `open_cluster` gives to users, on these nodes."""
        settings = ClusterSettings(
            choose_nodes([f"{name}:{PORT}" for name in self.node_names]),
            reentrant=self.reentrant,
            pulse_interval=1.0,
        )
        work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
        doors = Doors(self.network.host("10.0.0.1"), SECRET, seeded_tokens(self.seed, "client"))
        async with open_engine(work, settings, Listener(), doors=doors) as engine:
            cluster: Cluster[[int], int] = Cluster(engine)
            try:
                yield cluster
            finally:
                cluster._open = False

    def crash(self, name: str) -> None:
        """The machine loses power."""
        self.history.append((trio.current_time(), "crash", name))
        self.network.host(name).crash()
        self.scopes[name].cancel()

    def submit(self, engine: Engine, count: int) -> None:
        for number in range(len(self.jobs) + 1, len(self.jobs) + 1 + count):
            job: SubmittedJob[int] = SubmittedJob(number, pickle.dumps(((number,), {})), id=number)
            self.jobs.append(job)
            engine.queue.append(job)
        engine.wake()

    def run(self, scenario: Callable[[Simulation, Engine, trio.Nursery], Any]) -> None:
        """Run a scenario, then wait until all its jobs have ended, in virtual time."""
        settings = ClusterSettings(
            choose_nodes([f"{name}:{PORT}" for name in self.node_names]),
            reentrant=self.reentrant,
            pulse_interval=1.0,
        )
        work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
        history = History(self)
        doors = Doors(self.network.host("10.0.0.1"), SECRET, seeded_tokens(self.seed, "client"))

        async def main() -> None:
            with trio.fail_after(3600):
                async with trio.open_nursery() as nursery:
                    for name in self.node_names:
                        await nursery.start(self.run_node, name)
                    async with open_engine(work, settings, history, doors=doors) as engine:
                        await scenario(self, engine, nursery)
                        await engine.wait_drained()
                    nursery.cancel_scope.cancel()

        deterministic_run(main, seed=self.seed)
