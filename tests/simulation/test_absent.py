"""Clients that are cut off for good while their jobs run, and a node that is short of everything."""

from __future__ import annotations

import errno
import logging
import pickle

import pytest
import trio

from dispy_trio import messages
from dispy_trio.client.engine import Doors, Engine, open_engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.config import NodeSettings
from dispy_trio.testing import seeded_tokens

from . import kit
from .kit import PORT, SECRET, Simulation

JOB, INTERVAL, LOST_WITHIN = 30.0, 8.0, 3.0
"""Seconds that a job takes, that a client may be away, and until it is seen to be."""
HOST = "10.0.0.9"


class Running(Listener):
    """Knows when jobs run."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self.event = trio.Event()

    def started(self, jobs: object) -> None:
        self._wanted -= len(jobs)  # type: ignore[arg-type]
        if self._wanted <= 0:
            self.event.set()


async def lose_a_client(simulation: Simulation, nursery: trio.Nursery) -> None:
    """Another client takes all slots of all nodes, and is never heard of again."""
    nodes = choose_nodes([f"{name}:{PORT}" for name in simulation.node_names])
    work = Work(messages.OpenComputation(1, "endless", "00", b"bundle", 0))
    count = len(simulation.node_names) * simulation.slots
    running = Running(count)
    doors = Doors(simulation.network.host(HOST), SECRET, seeded_tokens(1, "lost"))
    scope = trio.CancelScope()

    async def be_client() -> None:
        settings = ClusterSettings(nodes, pulse_interval=1.0)
        with scope:
            async with open_engine(work, settings, running, doors=doors) as engine:
                for number in range(1, count + 1):
                    payload = pickle.dumps(((-number,), {}))
                    job: SubmittedJob[int] = SubmittedJob(number, payload, id=number)
                    engine.queue.append(job)
                engine.wake()
                await trio.sleep_forever()

    nursery.start_soon(be_client)
    await running.event.wait()
    simulation.network.isolate(HOST)
    scope.cancel()


def run(simulation: Simulation) -> float:
    """A client that comes next, with jobs for all nodes; how long they took it."""
    took = 0.0

    async def scenario(simulation: Simulation, engine: Engine, nursery: trio.Nursery) -> None:
        nonlocal took
        await lose_a_client(simulation, nursery)
        began = trio.current_time()
        simulation.submit(engine, 6)
        await engine.wait_drained()
        took = trio.current_time() - began

    simulation.run(scenario)
    assert {tuple(ends) for ends in simulation.ends.values()} == {("Finished",)}
    return took


def test_slots_of_a_lost_client_are_free_when_its_jobs_have_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = NodeSettings(pulse_interval=1.0, zombie_interval=INTERVAL)
    took = run(Simulation(0, durations=[JOB], settings=settings))
    assert 2 * JOB - 1 < took < 2 * JOB + 2, "theirs, then ours"
    told = [record.getMessage() for record in caplog.records if "jobs wait" in record.getMessage()]
    assert len(told) == 3, "one for each node"
    assert all(f"{HOST}:" in text and "--zombie-jobs end" in text for text in told)


def test_slots_of_a_lost_client_are_free_after_the_interval_where_the_node_says_so() -> None:
    settings = NodeSettings(pulse_interval=1.0, zombie_interval=INTERVAL, zombie_jobs="end")
    took = run(Simulation(1, durations=[JOB], settings=settings))
    assert INTERVAL + JOB < took < INTERVAL + JOB + LOST_WITHIN + 2, "the interval, then ours"


def test_a_status_that_can_not_be_read_costs_nobody_his_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EMFILE, "too many open files"), RuntimeError("no new thread")]
    honest = kit.read_status

    async def read_status(seconds: float | None) -> messages.NodeStatus:
        if failures:
            raise failures.pop()
        return await honest(seconds)

    monkeypatch.setattr(kit, "read_status", read_status)

    async def scenario(simulation: Simulation, engine: Engine, nursery: trio.Nursery) -> None:
        await trio.sleep(5)
        assert all(node.avail_info is not None for node in engine.dispy_nodes())
        assert len(engine.dispy_nodes()) == len(simulation.node_names)

    caplog.set_level(logging.WARNING)
    Simulation(1).run(scenario)
    assert not failures
    assert not [record for record in caplog.records if "lost" in record.getMessage()]
