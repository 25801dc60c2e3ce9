"""However a block is left: each job has its final status, and nobody waits for what never comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from dispy_trio.client.cluster import Cluster
from dispy_trio.client.handles import JobHandle
from dispy_trio.errors import ClusterClosed, ClusterFailed, JobAbandoned, JobCancelled
from dispy_trio.testing import deterministic_run

from .kit import Simulation


def fail(cluster: Cluster[[int], int]) -> None:
    """Have a task of its engine raise."""

    async def raise_it() -> None:
        await trio.sleep(0.1)
        raise ZeroDivisionError("in the engine")

    cluster._engine._start(raise_it)


class Body(Exception):
    """What the block raises."""


def run(simulation: Simulation, user: Callable[[], Any]) -> None:
    """Run a user's program beside the nodes."""

    async def main() -> None:
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                for name in simulation.node_names:
                    await nursery.start(simulation.run_node, name)
                await user()
                nursery.cancel_scope.cancel()

    deterministic_run(main, seed=simulation.seed)


def check_reasons(jobs: list[JobHandle[int]]) -> None:
    for job in jobs:
        assert job.ended, job
        if job.status is not JobHandle.Finished:
            assert str(job.reason()).partition(": ")[2]


async def wait_for(job: JobHandle[int], woken: list[JobHandle[int]]) -> None:
    await job.wait_ended()
    woken.append(job)


@pytest.mark.parametrize("how", ["raised", "cancelled", "failed", "silent nodes"])
def test_each_handle_has_ended_after_the_block_and_who_waits_outside_is_woken(how: str) -> None:
    simulation = Simulation(seed=1, durations=(30.0,))
    jobs: list[JobHandle[int]] = []
    woken: list[JobHandle[int]] = []

    async def block(nursery: trio.Nursery, scope: trio.CancelScope) -> None:
        async with simulation.open_cluster() as cluster:
            jobs.extend(cluster.submit(n) for n in range(20))
            for job in jobs:
                nursery.start_soon(wait_for, job, woken)
            await cluster._engine.usable.wait()
            await trio.sleep(1)
            if how == "silent nodes":
                for name in simulation.node_names:
                    simulation.network.isolate(name)
            if how == "failed":
                fail(cluster)
                await trio.sleep_forever()
            if how == "cancelled":
                scope.cancel()
                await trio.sleep_forever()
            raise Body

    async def user() -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                if how == "cancelled":
                    await block(nursery, scope)
                else:
                    with pytest.raises(ClusterFailed if how == "failed" else Body):
                        await block(nursery, scope)
            check_reasons(jobs)
        assert len(woken) == len(jobs) == 20

    run(simulation, user)


def test_what_the_block_raises_is_not_dropped_when_the_engine_fails() -> None:
    simulation = Simulation(seed=1)

    async def block() -> None:
        async with simulation.open_cluster() as cluster:
            fail(cluster)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise Body("its own") from None  # noqa: ASYNC103, ASYNC104 - what is tested

    async def user() -> None:
        failed = pytest.RaisesExc(ClusterFailed, match="in the engine")
        with pytest.RaisesGroup(failed, Body):
            await block()

    run(simulation, user)


@pytest.mark.parametrize("wrap", [False, True])
def test_that_the_block_was_cancelled_for_the_failure_is_no_error_of_its_own(wrap: bool) -> None:
    simulation = Simulation(seed=1, durations=(30.0,))

    async def block() -> None:
        async with simulation.open_cluster() as cluster:
            job = cluster.submit(1)
            fail(cluster)
            if not wrap:
                await job.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(job.wait)

    async def user() -> None:
        with pytest.raises(ClusterFailed, match="in the engine"):
            await block()

    run(simulation, user)


def test_a_closed_cluster_takes_no_jobs_in_any_way() -> None:
    simulation = Simulation(seed=1)

    async def user() -> None:
        async with simulation.open_cluster() as cluster:
            assert await cluster.run(4) == 8
            begun = cluster.map([1, 2, 3])
        for submit in (cluster.submit, cluster.options(priority=1).submit):
            with pytest.raises(ClusterClosed):
                submit(1)
        with pytest.raises(ClusterClosed):
            await cluster.run(1)
        for values in (begun, cluster.map([1, 2, 3])):
            with pytest.raises(ClusterClosed):
                await anext(aiter(values))
        await cluster.wait()
        assert cluster.status().jobs_pending == 0

    run(simulation, user)


def test_the_rest_of_a_map_that_outlives_its_cluster_raises_why() -> None:
    simulation = Simulation(seed=1, durations=(1.0,))
    taken: list[AsyncIterator[int]] = []

    async def block() -> None:
        async with simulation.open_cluster() as cluster:
            taken.append(aiter(cluster.map(range(10), chunksize=1)))
            assert await anext(taken[0]) == 0
            raise Body

    async def take_all() -> None:
        async for _ in taken[0]:
            pass

    async def user() -> None:
        with pytest.raises(Body):
            await block()
        with pytest.raises((ClusterClosed, JobCancelled, JobAbandoned)):
            await take_all()

    run(simulation, user)


def test_a_block_may_submit_while_it_is_left_by_a_failure() -> None:
    simulation = Simulation(seed=1)
    late: list[JobHandle[int]] = []

    async def block() -> None:
        async with simulation.open_cluster() as cluster:
            fail(cluster)
            try:
                await trio.sleep_forever()
            finally:
                late.append(cluster.submit(2))
                late.append(cluster.options(priority=1).submit(3))

    async def user() -> None:
        with pytest.raises(ClusterFailed):
            await block()
        check_reasons(late)
        assert len(late) == 2

    run(simulation, user)
