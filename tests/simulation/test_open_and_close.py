"""A computation that is closed in the same breath as it was opened: nothing of it stays."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import trio

from dispy_trio import messages
from dispy_trio.config import NodeSettings
from dispy_trio.protocol.codec import encode
from dispy_trio.services.node import run_node
from dispy_trio.testing import MemoryNetwork, deterministic_run
from tests.integration.test_odd_messages import Stranger, make_outside

from .kit import PORT, ScriptedSpawner, ScriptedTemplate

OPEN = encode(messages.OpenComputation(1, "double", "00", b"bundle", 0))
CLOSE = encode(messages.CloseComputation(1, terminate=True))


class Counting(ScriptedSpawner):
    """Knows what it has started."""

    started: list[ScriptedTemplate]

    async def open_template(
        self, bundle: Any, settings: Any, on_event: Any, nursery: trio.Nursery
    ) -> ScriptedTemplate:
        template = await super().open_template(bundle, settings, on_event, nursery)
        self.started.append(template)
        return template


@pytest.mark.parametrize("said", [OPEN + CLOSE, OPEN + CLOSE + OPEN + CLOSE, CLOSE + OPEN + CLOSE])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_stays_of_what_is_closed_as_it_opens(said: bytes, seed: int) -> None:
    """The order in which Trio runs the tasks of one turn is drawn from the seed."""
    spawner = Counting(random.Random(1), [])
    spawner.started = []

    async def main() -> None:
        network = MemoryNetwork(seed=seed)
        outside = attrs.evolve(make_outside(network, "10.0.0.2", []), spawner=spawner)
        settings = NodeSettings(host="10.0.0.2", port=PORT, name="node", pulse_interval=1.0)
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                control = await nursery.start(run_node, settings, outside)
                stranger = Stranger(network, "5" * 32)
                for _ in range(3):
                    await stranger.say(said)
                    await trio.sleep(1)
                assert not control.report().computations
                assert [template for template in spawner.started if not template.closed] == []
                await stranger.leave()
                nursery.cancel_scope.cancel()

    deterministic_run(main, seed=seed)
