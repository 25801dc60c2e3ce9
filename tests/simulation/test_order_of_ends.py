"""Threads look at jobs while others end them: who sees that one has ended sees all of its end."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import trio

from dispy_trio import messages
from dispy_trio.client.engine import Engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.core import events as e
from dispy_trio.models import Outcome

from .kit import Simulation


class Watched(SubmittedJob[int]):
    """Knows what was set after its end."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("reply", "output", "outcome", "end_time") and getattr(self, "ended", False):
            self.__dict__.setdefault("late", []).append(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("how", ["returned", "cancelled", "lost", "closed"])
def test_the_status_is_set_last(how: str) -> None:
    simulation = Simulation(seed=1)
    job = Watched(1, pickle.dumps(((1,), {})), id=1)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        await engine.usable.wait()
        engine.queue.append(job)
        simulation.jobs.append(job)
        if how == "closed":
            engine.end_left("the cluster ended")
            engine.queue.clear()
        else:
            engine.wake()
        assert how == "closed" or job.node is not None
        if how in ("returned", "cancelled"):
            assert job.node is not None
            outcome = Outcome.RETURNED if how == "returned" else Outcome.CANCELLED
            message = messages.JobsFinished(
                [1], [job.attempt], [outcome], [1.0], [2.0], [b"reply"], {1: (b"out", b"")}, {}, {}
            )
            engine._feed(e.MessageReceived(job.node, message))
            assert job.output == (b"out", b"")
        elif how == "lost":
            assert job.node is not None
            simulation.crash(job.node.partition(":")[0])
            await trio.sleep(60)
        assert job.ended
        assert job.reply

    simulation.run(scenario)
    assert vars(job).get("late", []) == []
