"""Jobs that outlast what happens to the network."""

from __future__ import annotations

import pytest
import trio

from dispy_trio.client.engine import Engine

from .kit import Simulation


@pytest.mark.parametrize("seed", range(2))
def test_a_node_that_comes_back_with_a_job_that_was_given_up_may_be_given_it_again(
    seed: int,
) -> None:
    simulation = Simulation(seed, reentrant=True, durations=(60.0,))

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        await engine.usable.wait()
        simulation.submit(engine, 24)
        await trio.sleep(2)
        for name in simulation.node_names[:2]:
            simulation.network.isolate(name)
        await trio.sleep(30)
        for name in simulation.node_names[:2]:
            simulation.network.rejoin(name)

    simulation.run(scenario)
    assert set(map(tuple, simulation.ends.values())) == {("Finished",)}
