"""A cluster under another event loop, by Trio's guest mode, and on a clock of the program's own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
import trio
import trio.testing

from dispy_trio import JobCancelled, JobStarted, open_cluster
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.keeping import END_GRACE, see_off

LIMIT = 30.0


@pytest.fixture(autouse=True)
def without_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPY_TRIO_NODES", raising=False)


def opened(computation: Any) -> Any:
    return open_cluster(computation, cpus=1, secret="a password", pulse_interval=1000)


async def until_it_runs(events: Any) -> None:
    while not isinstance(await anext(events), JobStarted):
        pass


def as_guest_of_asyncio(use: Any) -> Any:
    async def host() -> Any:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        trio.lowlevel.start_guest_run(
            use,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=over.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        return (await asyncio.wait_for(over, LIMIT)).unwrap()

    return asyncio.run(host())


def test_a_cluster_runs_as_a_guest_of_another_loop() -> None:
    async def use() -> list[int]:
        async with opened(abs) as cluster:
            assert await cluster.run(-7) == 7
            return [value async for value in cluster.map(range(-5, 0))]

    assert as_guest_of_asyncio(use) == [5, 4, 3, 2, 1]


def test_a_cancel_in_a_guest_stops_the_job() -> None:
    async def use() -> Any:
        async with opened(time.sleep) as cluster, cluster.events() as events:
            job = cluster.submit(1000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job.wait)
                await until_it_runs(events)
                nursery.cancel_scope.cancel()
            return job

    assert isinstance(as_guest_of_asyncio(use).reason(), JobCancelled)


def test_deadlines_round_real_jobs_are_those_of_a_mock_clock() -> None:
    clock = trio.testing.MockClock()

    async def use() -> None:
        async with opened(time.sleep) as cluster, cluster.events() as events:
            job = cluster.submit(1000)
            with trio.move_on_after(60) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(job.wait)
                    await until_it_runs(events)
                    clock.jump(60)
            assert scope.cancelled_caught
            assert isinstance(job.reason(), JobCancelled)
            assert trio.current_time() == 60
            assert await cluster.run(0) is None

    trio.run(use, clock=clock)


def test_an_embedded_node_that_does_not_end_is_killed_in_time() -> None:
    node = EmbeddedNode(cpus=1, secret="a password")
    os.kill(node.pid, signal.SIGSTOP)

    async def main() -> float:
        await see_off(node)
        return trio.current_time()

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == END_GRACE
    assert node.exit_code() == -signal.SIGKILL
