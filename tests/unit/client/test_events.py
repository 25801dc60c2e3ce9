"""The stream of a cluster's events: in order, bounded, and what is left out is told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from dispy_trio import (
    EventsMissed,
    JobEnded,
    JobHandle,
    JobStarted,
    JobStatus,
    NodeLost,
    NodeUsable,
)
from dispy_trio.client.events import ClusterEvents
from dispy_trio.client.telling import Teller


def job(number: int) -> Any:
    return JobHandle(number, b"", id=number)


def find_node(key: str) -> Any:
    return key


async def test_events_come_in_order_until_the_cluster_ends() -> None:
    teller = Teller()
    one, seen = job(1), []
    async with ClusterEvents(teller, find_node, 10) as events:
        teller.node_usable("n1")
        teller.started([one])
        teller.ended([one], again=False)
        teller.node_unusable("n1", failed=False)
        teller.over(None)
        async for event in events:
            seen.append(event)
    assert seen == [NodeUsable("n1"), JobStarted(one), JobEnded(one), NodeLost("n1")]  # type: ignore[arg-type]


async def test_a_reader_waits_for_the_next() -> None:
    teller = Teller()
    one = job(1)
    async with ClusterEvents(teller, find_node, 1) as events, trio.open_nursery() as nursery:

        async def read() -> None:
            assert await anext(events) == JobEnded(one)
            with pytest.raises(StopAsyncIteration):
                await anext(events)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        teller.ended([one], again=False)
        await trio.testing.wait_all_tasks_blocked()
        teller.over(None)


async def test_what_is_too_much_is_told_where_it_is_missing() -> None:
    teller = Teller()
    jobs = [job(number) for number in range(8)]
    async with ClusterEvents(teller, find_node, 2) as events:
        teller.ended(jobs[:5], again=False)
        assert await anext(events) == JobEnded(jobs[0])
        teller.ended(jobs[5:6], again=False)
        # Its place is taken by what tells of the three.
        assert await anext(events) == JobEnded(jobs[1])
        assert await anext(events) == EventsMissed(3)
        assert await anext(events) == JobEnded(jobs[5])
        teller.ended(jobs[:4], again=False)
        teller.over(None)
        assert [event async for event in events] == [
            JobEnded(jobs[0]),
            JobEnded(jobs[1]),
            EventsMissed(2),
        ]


async def test_a_job_that_was_soon_over_has_started_too() -> None:
    teller = Teller()
    ran, waited = job(1), job(2)
    ran.started_at, ran.outcome, ran.state = 1.0, 0, JobStatus.Finished
    waited.state = JobStatus.Cancelled
    async with ClusterEvents(teller, find_node, 10) as events:
        teller.ended([ran, waited], again=False)
        teller.over(None)
        assert [event async for event in events] == [
            JobStarted(ran),
            JobEnded(ran),
            JobEnded(waited),
        ]


async def test_a_stream_that_nobody_reads_any_more_is_told_nothing() -> None:
    teller = Teller()
    async with ClusterEvents(teller, find_node, 2):
        assert len(teller.listeners) == 1
    assert teller.listeners == ()


async def test_events_of_a_cluster_that_has_ended_are_none() -> None:
    teller = Teller()
    teller.over(None)
    async with ClusterEvents(teller, find_node, 2) as events:
        assert [event async for event in events] == []
