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
