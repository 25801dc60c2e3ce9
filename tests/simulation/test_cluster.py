"""Three nodes and a hundred jobs on a virtual network, under faults, replayed from a seed."""

from __future__ import annotations

import pytest
import trio

from dispy_trio.client.engine import Engine
from dispy_trio.models import JobStatus

from .kit import Simulation

SEEDS = range(50)
JOBS = 100


async def quiet(  # noqa: ASYNC124 - a scenario like the others
    simulation: Simulation, engine: Engine, nursery: trio.Nursery
) -> None:
    simulation.submit(engine, JOBS)


async def faults(simulation: Simulation, engine: Engine, nursery: trio.Nursery) -> None:
    """Cuts, resets and crashes with restarts while jobs run; then all is well again."""
    simulation.submit(engine, JOBS // 2)
    rng = simulation.rng
    for _ in range(6):
        await trio.sleep(rng.uniform(0.01, 1.5))
        name = rng.choice(simulation.node_names)
        fault = rng.choice(["isolate", "reset", "crash"])
        if fault == "isolate":
            simulation.network.isolate(name)
            await trio.sleep(rng.choice([0.5, 2.0, 8.0]))
            simulation.network.rejoin(name)
        elif fault == "reset":
            simulation.network.reset_after(name, "10.0.0.1", rng.randrange(1, 4000))
        else:
            simulation.crash(name)
            await trio.sleep(rng.choice([0.2, 5.0]))
            simulation.network.host(name).revive()
            await nursery.start(simulation.run_node, name)
    simulation.submit(engine, JOBS - JOBS // 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_ends_exactly_once(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.run(quiet)
    assert [simulation.ends[j.number] for j in simulation.jobs] == [["Finished"]] * JOBS
    assert [j.result for j in simulation.jobs] == [2 * j.number for j in simulation.jobs]
    assert max(runs_of(simulation).values()) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_jobs_that_may_run_again_finish_whatever_fails(seed: int) -> None:
    simulation = Simulation(seed, reentrant=True)
    simulation.run(faults)
    assert [simulation.ends[j.number] for j in simulation.jobs] == [["Finished"]] * JOBS


@pytest.mark.parametrize("seed", SEEDS)
def test_jobs_that_may_not_run_again_run_at_most_once(seed: int) -> None:
    simulation = Simulation(seed, death_rate=0.02)
    simulation.run(faults)
    assert max(runs_of(simulation).values()) == 1
    for job in simulation.jobs:
        ends = simulation.ends[job.number]
        assert ends[:-1] in ([], ["Abandoned"])
        assert ends[-1] in ("Finished", "Terminated", "Abandoned")
        if job.status is JobStatus.Terminated:
            assert "SIGKILL" in (job.exception or "")
        if job.status is JobStatus.Abandoned:
            assert "10.0.0." in (job.exception or "")


def test_a_seed_replays_its_run_to_the_letter() -> None:
    histories = []
    for seed in (7, 7, 8):
        simulation = Simulation(seed, death_rate=0.02, reentrant=True)
        simulation.run(faults)
        histories.append(simulation.history)
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def runs_of(simulation: Simulation) -> dict[int, int]:
    runs: dict[int, int] = {}
    for _, what, value in simulation.history:
        if what == "run":
            runs[value] = runs.get(value, 0) + 1
    return runs
