"""What Trio programs do with the nodes of their cluster, and hear of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import dispy_trio
from dispy_trio import JobEnded, JobProvisional, JobStarted, NodeLost, NodeUsable

from .conftest import World


def where(name: str = "") -> tuple[str, list[str]]:
    del name
    return dispy_trio.job.node_name(), os.listdir()


def tell_and_wait(begun: str) -> int:
    dispy_trio.job.provisional_result(17)
    with open(begun) as file:  # A named pipe: until somebody writes.
        return len(file.read())


@asynccontextmanager
async def opened(world: World, computation: Any, nodes: Any, **options: Any) -> AsyncIterator[Any]:
    with trio.fail_after(60):
        async with dispy_trio.open_cluster(
            computation, nodes, secret_file=world.secret_file, **options
        ) as cluster:
            yield cluster


async def until_all_are_there(cluster: Any, events: Any, count: int) -> None:
    while len(cluster.status().nodes) < count:
        await anext(events)


async def test_jobs_go_to_the_node_that_is_named(world: World, two_nodes: list[str]) -> None:
    async with opened(world, where, two_nodes) as cluster:
        for node in two_nodes:
            job = await cluster.submit_node(node)
            await job.wait()
            assert job.node == node
            job = await cluster.options(timeout=30).submit_node(node)
            await job.wait()
            assert job.node == node
        with pytest.raises(ValueError, match="no node of this cluster"):
            await cluster.submit_node("127.0.0.1:1")
        await cluster.deallocate_node(two_nodes[0])
        with pytest.raises(ValueError, match="runs no jobs of cluster where"):
            await cluster.submit_node(two_nodes[0])


async def test_options_of_options_and_their_map(world: World, two_nodes: list[str]) -> None:
    async with opened(world, abs, two_nodes) as cluster:
        view = cluster.options(timeout=30).options(retries=1)
        assert [value async for value in view.map([-1, -2, 3])] == [1, 2, 3]
        assert await view.run(-5) == 5


async def test_a_file_is_sent_to_a_node(world: World, two_nodes: list[str], tmp_path: Path) -> None:
    (tmp_path / "sent.txt").write_text("text")
    async with opened(world, where, two_nodes[:1]) as cluster:
        await cluster.run()
        await cluster.send_file(tmp_path / "sent.txt", two_nodes[0])
        _, files = await cluster.run()
        assert "sent.txt" in files
        with pytest.raises(ValueError, match="path"):
            await cluster.send_file(tmp_path / "missing", two_nodes[0])


async def test_a_node_is_closed_and_used_again(world: World, two_nodes: list[str]) -> None:
    async with opened(world, where, two_nodes[:1]) as cluster, cluster.events() as events:
        await cluster.run()
        (node,) = cluster.status().nodes
        assert await cluster.node_jobs(node) == []
        await cluster.close_node(node)
        while not isinstance(await anext(events), NodeLost):
            pass
        await cluster.allocate_node(two_nodes[0])
        while not isinstance(await anext(events), NodeUsable):
            pass
        await cluster.run()
        await cluster.resetup_node(node)
        while not isinstance(await anext(events), NodeLost):
            pass
        await cluster.run()


async def test_nodes_are_discovered_and_allocated(world: World, two_nodes: list[str]) -> None:
    async with opened(world, where, two_nodes[:1]) as cluster, cluster.events() as events:
        await cluster.run()
        await cluster.discover_nodes(two_nodes[1:])
        await cluster.allocate_node(two_nodes[1])
        await until_all_are_there(cluster, events, 2)
        job = await cluster.submit_node(two_nodes[1])
        await job.wait()
        for wrong in ([], "127.0.0.1:port", 3):
            with pytest.raises((TypeError, ValueError)):
                await cluster.allocate_node(wrong)


async def test_the_life_of_a_job_is_told(
    world: World, two_nodes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told: list[Any] = []
    async with opened(world, tell_and_wait, two_nodes[:1]) as cluster, cluster.events() as events:
        job = cluster.submit(str(pipe))
        while True:
            event = await anext(events)
            told.append(event)
            if isinstance(event, JobProvisional):
                assert event.result == 17
            if {JobStarted, JobProvisional} <= {type(event) for event in told}:
                break
        assert await cluster.node_jobs(two_nodes[0]) == [job]
        await trio.to_thread.run_sync(pipe.write_text, "abc")
        while not isinstance(event := await anext(events), JobEnded):
            pass
        assert event.job is job
        assert job.result == 3
        assert cluster.name == "tell_and_wait"
        cluster.print_status()
        cluster.stats()
    printed = capsys.readouterr().out
    assert printed.count(two_nodes[0].rpartition(":")[0]) >= 2
