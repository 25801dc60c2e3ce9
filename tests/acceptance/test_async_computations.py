"""Async functions as computations: under Trio in the worker, and cancelled there."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import dispy_trio

from .conftest import World


async def twice(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


class Waiting:
    async def __call__(self, number: int) -> int:
        return await twice(number)


async def fail(number: int) -> int:
    await trio.lowlevel.checkpoint()
    raise ValueError(number)


async def told(way: str) -> str:
    """What the function sees of a cancel. It says when it waits, so that none comes too early."""
    dispy_trio.job.provisional_result("waits")
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        sys.stdout.write("Cancelled inside\n")
        if way == "value":
            return "a value all the same"  # noqa: ASYNC104 - a job may do so
        if way == "error":
            raise ValueError("in its clean-up") from None  # noqa: ASYNC104 - a job may do so
        raise
    raise AssertionError


async def own_process(_number: int) -> int:  # noqa: ASYNC124 - awaited all the same
    return os.getpid()


@asynccontextmanager
async def opened(world: World, computation: Any) -> AsyncIterator[Any]:
    with trio.fail_after(30):
        async with dispy_trio.open_cluster(computation, cpus=1, secret=world.mark) as cluster:
            yield cluster


@pytest.mark.parametrize("computation", [functools.partial(twice), Waiting()])
async def test_what_an_async_function_returns_is_the_result(world: World, computation: Any) -> None:
    async with opened(world, computation) as cluster:
        assert await cluster.run(21) == 42
        assert [value async for value in cluster.map(range(5))] == [0, 2, 4, 6, 8]


async def test_what_it_raises_is_raised(world: World) -> None:
    async with opened(world, fail) as cluster:
        with pytest.raises(ValueError, match="7"):
            await cluster.run(7)


async def until_it_waits(job: Any) -> None:
    while job.result != "waits":  # noqa: ASYNC110 - nothing else tells of it
        await trio.sleep(0.01)


@pytest.mark.parametrize("isolation", ["worker", "job"])
async def test_a_cancelled_job_is_cancelled_inside_the_function(
    world: World, isolation: Any
) -> None:
    async with opened(world, told) as cluster:
        job = cluster.options(isolation=isolation).submit("raise")
        await until_it_waits(job)
        job.cancel()
        with pytest.raises(dispy_trio.JobCancelled):
            await job.wait()
        assert job.stdout == "Cancelled inside\n"
        # What an end by its own is, stays one.
        job = cluster.submit("value")
        await until_it_waits(job)
        job.cancel()
        assert await job.wait() == "a value all the same"
        job = cluster.submit("error")
        await until_it_waits(job)
        job.cancel()
        with pytest.raises(ValueError, match="in its clean-up"):
            await job.wait()


def test_and_so_by_a_blocking_cluster(world: World) -> None:
    with dispy_trio.JobCluster(told, cpus=1, secret=world.mark) as cluster:
        waits = cluster.submit("raise")
        while waits.result != "waits":
            assert not waits.wait(0.01)
        assert cluster.cancel(waits) == 0
        assert waits.wait(30)
        assert waits.outcome == 7, "it was interrupted while it ran"
        assert waits.stdout == "Cancelled inside\n"


async def test_its_worker_serves_the_next_call(world: World) -> None:
    async with opened(world, own_process) as cluster:
        assert await cluster.run(1) == await cluster.run(2)
