"""A cluster whose maker is cancelled while it opens: it is closed again at once."""

from __future__ import annotations

import pytest
import trio

from dispy_trio import messages
from dispy_trio.client.engine import CLOSE_GRACE, GOODBYE_GRACE, Doors, Engine, open_engine
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.testing import deterministic_run, seeded_tokens

from .kit import PORT, SECRET, Simulation

SECONDS = CLOSE_GRACE + GOODBYE_GRACE
"""That closing may take, in virtual time; nobody has a job."""


@pytest.mark.parametrize("checkpoints", range(8))
@pytest.mark.parametrize("node", ["there", "not there"])
def test_a_cancel_at_any_checkpoint_of_the_opening_ends_it(checkpoints: int, node: str) -> None:
    simulation = Simulation(seed=checkpoints)
    settings = ClusterSettings(choose_nodes([f"10.0.0.2:{PORT}"]), pulse_interval=1.0)
    work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
    doors = Doors(simulation.network.host("10.0.0.1"), SECRET, seeded_tokens(1, "client"))
    engines: list[Engine] = []

    async def open_and_wait(scope: trio.CancelScope) -> None:
        with scope:
            async with open_engine(work, settings, Listener(), doors=doors) as engine:
                engines.append(engine)
                await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if node == "there":
                await nursery.start(simulation.run_node, "10.0.0.2")
            scope = trio.CancelScope()
            with trio.fail_after(SECONDS):
                async with trio.open_nursery() as opening:
                    opening.start_soon(open_and_wait, scope)
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert scope.cancelled_caught
            assert all(engine.has_ended for engine in engines)
            nursery.cancel_scope.cancel()

    deterministic_run(main, seed=checkpoints)
