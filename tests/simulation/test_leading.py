"""Results that the thread of whoever waits for a job reads itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from dispy_trio import messages
from dispy_trio.client.engine import Engine

from .kit import Simulation


def test_jobs_submitted_after_the_last_result_was_read_so_are_sent() -> None:
    simulation = Simulation(seed=1)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        await engine.usable.wait()
        simulation.submit(engine, 2)
        for job in simulation.jobs:
            assert job.node is not None
            link = engine.links[job.node]
            ended = messages.JobsFinished(
                [job.number], [job.attempt], [0], [1.0], [2.0], [b""], {}, {}, {}
            )
            leading: Any = SimpleNamespace(
                lead=lambda take, *_, ended=ended: take(ended),
                try_send=link.try_send,
                end_lead=link.end_lead,
                flush=link.flush,
            )
            # As who has submitted leaves it, when its job found no room at the node at first.
            engine.wants_jobs = False
            engine.links[job.node] = leading
            engine.lead(job, lambda function, *args: function(*args))
            engine.links[job.node] = link
            assert job.ended
            assert engine.wants_jobs, "or nobody would ever say that there is another job"
            # The timer of what both results need is set by the first of them.
            await trio.testing.wait_all_tasks_blocked()

    simulation.run(scenario)
