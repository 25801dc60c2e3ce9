"""Waiting until no job is pending, in Trio programs."""

from __future__ import annotations

import trio

from dispy_trio.client.engine import Engine

from .kit import Simulation


def test_many_tasks_may_wait_and_each_goes_on_when_nothing_is_pending() -> None:
    simulation = Simulation(seed=1)
    seen: list[int] = []

    async def wait(engine: Engine) -> None:
        await engine.wait_drained()
        seen.append(engine.count_pending())

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        simulation.submit(engine, 50)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait, engine)

    simulation.run(scenario)
    assert seen == [0, 0, 0]


def test_all_who_wait_go_on_although_the_first_of_them_submits_again() -> None:
    simulation = Simulation(seed=1, durations=(0.5,))
    seen: list[float] = []

    async def wait(engine: Engine) -> None:
        await engine.wait_drained()
        if not seen:
            simulation.submit(engine, 50)
        seen.append(trio.current_time())

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        simulation.submit(engine, 5)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait, engine)

    simulation.run(scenario)
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]


def test_who_waits_when_all_that_was_queued_is_cancelled_goes_on_at_once() -> None:
    """No node has room for those: they stay in the queue as ended ones."""
    simulation = Simulation(seed=1, slots=1, durations=(0.5,))
    pending: list[int] = []

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        for name in simulation.node_names:
            simulation.crash(name)
        simulation.submit(engine, 5)
        pending.append(engine.status().jobs_pending)
        for job in simulation.jobs[:4]:
            engine.cancel(job)
        pending.append(engine.status().jobs_pending)
        engine.cancel(simulation.jobs[4])
        await engine.wait_drained()
        pending.append(engine.status().jobs_pending)
        engine.stop()  # No node is left that could tell it anything.

    simulation.run(scenario)
    assert pending == [5, 1, 0]
