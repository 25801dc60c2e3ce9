"""What is a checkpoint in a Trio program, and that leaving a cluster is one that heeds a cancel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dispy_trio.client.cluster import Cluster
from dispy_trio.client.engine import CLOSE_GRACE, GOODBYE_GRACE
from dispy_trio.client.handles import JobHandle
from dispy_trio.testing import deterministic_run

from .kit import Simulation

AnyCluster = Cluster[[int], int]


def run(simulation: Simulation, user: Callable[[], Awaitable[None]]) -> None:
    """Run a user's program beside the nodes."""

    async def main() -> None:
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                for name in simulation.node_names:
                    await nursery.start(simulation.run_node, name)
                await user()
                nursery.cancel_scope.cancel()

    deterministic_run(main, seed=simulation.seed)


def test_waits_for_jobs_are_checkpoints_also_when_these_have_ended() -> None:
    simulation = Simulation(seed=1)

    async def user() -> None:
        async with simulation.open_cluster() as cluster:
            with trio.testing.assert_checkpoints():
                assert await cluster.run(1) == 2
            job = cluster.submit(2)
            assert await job.wait() == 4
            for wait in (job.wait, job.wait_ended, cluster.wait):
                with trio.testing.assert_checkpoints():
                    await wait()

    run(simulation, user)


def test_what_is_not_awaited_is_no_checkpoint() -> None:
    simulation = Simulation(seed=1)

    async def user() -> None:
        async with simulation.open_cluster() as cluster:
            with trio.testing.assert_no_checkpoints():
                job = cluster.submit(1)
                cluster.options(priority=1).submit(2).cancel()
                cluster.status()
                cluster.map([3])
                cluster.as_completed([job])
                cluster.events()
            assert await job.wait() == 2

    run(simulation, user)


def test_leaving_normally_waits_for_the_jobs_that_are_left() -> None:
    simulation = Simulation(seed=1, durations=(30.0,))
    jobs: list[JobHandle[int]] = []

    async def user() -> None:
        async with simulation.open_cluster() as cluster:
            jobs.extend(cluster.submit(n) for n in range(20))
        assert [job.status for job in jobs] == [JobHandle.Finished] * 20

    run(simulation, user)


@pytest.mark.parametrize("answers", [True, False])
def test_a_cancel_while_leaving_waits_for_jobs_is_heeded_in_time(answers: bool) -> None:
    simulation = Simulation(seed=1, durations=(1000.0,))
    jobs: list[JobHandle[int]] = []

    async def cut_off() -> None:
        await trio.sleep(2)
        for name in simulation.node_names:
            simulation.network.isolate(name)

    async def user() -> None:
        async with trio.open_nursery() as nursery:
            if not answers:
                nursery.start_soon(cut_off)
            with trio.move_on_after(3) as scope:
                async with simulation.open_cluster() as cluster:
                    jobs.extend(cluster.submit(n) for n in range(20))
            assert scope.cancelled_caught
            assert trio.current_time() <= scope.deadline + CLOSE_GRACE + GOODBYE_GRACE
            assert all(job.ended for job in jobs)
            if answers:
                await trio.sleep(0.1)  # Nodes say that it is closed, and close.
                assert not any(map(simulation.left_on, simulation.node_names))

    run(simulation, user)
