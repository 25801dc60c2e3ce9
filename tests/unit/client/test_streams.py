"""What `map` and `as_completed` of a Trio cluster read, give, and leave behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dispy_trio.errors import ClusterClosed, JobTerminated, PickleArgumentError

from .fake_engine import fake_cluster


async def take_all(values: list[Any], stream: AsyncIterable[Any]) -> None:
    """Take them into a list, which is there also when it raises."""
    async for value in stream:
        values.append(value)


def work(seconds: float) -> None:
    """Keep the loop busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def gaps(seen: list[int]) -> list[int]:
    """How far what somebody has seen at each turn went on between two of them.

    Two at most: of two tasks that may run, Trio runs first whichever it likes.
    """
    return [later - earlier for earlier, later in pairwise(seen)]


# --- checkpoints -----------------------------------------------------------------------------------
async def test_waiting_for_nothing_is_a_checkpoint() -> None:
    async with fake_cluster() as (cluster, _):
        with trio.testing.assert_checkpoints():
            await cluster.wait()
        with trio.testing.assert_checkpoints():
            assert [value async for value in cluster.map([])] == []
        with trio.testing.assert_checkpoints():
            assert [job async for job in cluster.as_completed([])] == []


async def test_each_value_of_map_is_a_checkpoint_for_cancellation() -> None:
    values = []
    async with fake_cluster() as (cluster, _):
        with trio.CancelScope() as scope:
            async for value in cluster.map(range(1000), chunksize=1000):
                values.append(value)
                scope.cancel()
    assert scope.cancelled_caught
    assert values == [0]


async def test_other_tasks_have_turns_between_the_values_of_one_job() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with fake_cluster() as (cluster, _), trio.open_nursery() as nursery:
        nursery.start_soon(count)
        stream = cluster.map(range(10), chunksize=10)
        assert await anext(stream) == 0
        seen = []
        for value in range(1, 10):
            work(0.0011)
            assert await anext(stream) == 2 * value
            seen.append(turns)
        assert all(later > earlier for earlier, later in zip(seen, seen[2:], strict=False))
        nursery.cancel_scope.cancel()


async def test_other_tasks_have_turns_while_a_slow_source_is_read() -> None:
    turns: list[int] = []
    reads = 0

    def source() -> Iterator[int]:
        nonlocal reads
        for reads in range(1, 20):
            work(0.0011)
            yield reads

    async def watch() -> None:
        while True:
            turns.append(reads)
            await trio.lowlevel.checkpoint()

    async with fake_cluster() as (cluster, _), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async for _ in cluster.map(source(), chunksize=100):
            pass
        nursery.cancel_scope.cancel()
    assert max(gaps(turns)) <= 2


# --- not ahead of need -----------------------------------------------------------------------------
def counting(read: list[int]) -> Iterator[int]:
    for n in range(100_000):
        read.append(n)
        yield n


async def test_a_job_a_slot_is_read_before_the_first_result() -> None:
    read: list[int] = []
    async with fake_cluster(slots=0, by_hand=True) as (cluster, engine), trio.open_nursery() as n:
        stream = cluster.map(counting(read))
        n.start_soon(stream.__anext__)
        await wait_all_tasks_blocked()
        assert len(read) == 1  # No node is known yet.
        engine.machine.slots = 3
        cluster._on_node()
        await wait_all_tasks_blocked()
        assert len(read) == 3
        engine.run(engine.queue[0])
        await wait_all_tasks_blocked()
        assert len(read) == 3  # And nothing for who takes nothing.
        await stream.aclose()


async def test_results_come_before_what_a_slow_source_gives_later() -> None:
    read: list[int] = []

    def slow() -> Iterator[int]:
        for n in counting(read):
            work(0.002)
            yield n

    async with fake_cluster(slots=50) as (cluster, _):
        async with cluster.map(slow()) as values:
            assert await anext(values) == 0
        assert len(read) < 5


@pytest.mark.parametrize("how", ["loop", "async", "thread"])
@pytest.mark.parametrize("buffersize", [1, 3, None])
async def test_what_is_read_ahead_is_bounded_in_values(how: str, buffersize: int | None) -> None:
    bound = buffersize or 20_000 + 10_000
    read: list[int] = []

    async def slowly() -> AsyncIterator[int]:  # noqa: ASYNC124 - of that kind it is to be
        for n in counting(read):
            yield n

    async with fake_cluster(slots=1) as (cluster, _):
        source = slowly() if how == "async" else counting(read)
        in_thread = how == "thread"
        stream = cluster.map(source, buffersize=buffersize, source_in_thread=in_thread)
        for n in range(300):
            assert await anext(stream) == 2 * n
            # The one that was just taken is not held any more.
            assert len(read) - (n + 1) <= bound
        await wait_all_tasks_blocked()
        assert len(read) <= 300 + bound
        await stream.aclose()


# --- where the arguments come from -----------------------------------------------------------------
async def agen(count: int, turns: bool = True) -> AsyncGenerator[int, None]:
    for n in range(count):
        if turns:
            await trio.lowlevel.checkpoint()
        yield n


@pytest.mark.parametrize("turns", [True, False])
async def test_map_reads_async_iterables(turns: bool) -> None:
    async with fake_cluster(lambda a, b: (a, b)) as (cluster, _):
        values = [value async for value in cluster.map(agen(2000, turns), range(10_000))]
    assert values == [(n, n) for n in range(2000)]


async def test_map_reads_channels() -> None:
    async with fake_cluster() as (cluster, _), trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[int](3)

        async def produce() -> None:
            async with send:
                for n in range(500):
                    await send.send(n)

        nursery.start_soon(produce)
        assert [value async for value in cluster.map(receive)] == [2 * n for n in range(500)]


async def test_a_result_comes_while_the_source_waits_for_it() -> None:
    async with fake_cluster() as (cluster, _):
        send, receive = trio.open_memory_channel[int](1)
        stream = cluster.map(receive)
        for n in range(30):
            send.send_nowait(n)
            assert await anext(stream) == 2 * n
        send.close()
        assert [value async for value in stream] == []


async def test_a_thread_reads_a_source_that_blocks_and_no_other_does() -> None:
    threads = set()
    go_on = threading.Semaphore(0)

    def source() -> Iterator[int]:
        for n in range(50):
            threads.add(threading.get_ident())
            assert go_on.acquire(timeout=30)
            yield n

    async with fake_cluster() as (cluster, _):
        stream = cluster.map(source(), source_in_thread=True)
        for n in range(50):
            go_on.release()
            assert await anext(stream) == 2 * n
        assert [value async for value in stream] == []
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_a_source_that_blocks_for_ever_is_left_in_its_thread() -> None:
    blocked, release = threading.Event(), threading.Event()
    left = []

    def source() -> Iterator[int]:
        yield 1
        blocked.set()
        release.wait(30)
        left.append(release.is_set())
        yield 2

    async with fake_cluster() as (cluster, _):
        async with cluster.map(source(), source_in_thread=True) as values:
            assert await anext(values) == 2
            with trio.move_on_after(0):
                await anext(values)
            await trio.to_thread.run_sync(blocked.wait)
        assert not left
        release.set()


@pytest.mark.parametrize("chunksize", [None, 100])
@pytest.mark.parametrize("how", ["loop", "async", "thread"])
async def test_what_a_source_raises_comes_after_the_results_before_it(
    how: str, chunksize: int | None
) -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    async def broken_too() -> AsyncIterator[int]:  # noqa: ASYNC124 - of that kind it is to be
        for n in broken():
            yield n

    values: list[Any] = []
    async with fake_cluster() as (cluster, _):
        source = broken_too() if how == "async" else broken()
        stream = cluster.map(source, source_in_thread=how == "thread", chunksize=chunksize)
        with pytest.raises(LookupError, match="no more"):
            await take_all(values, stream)
    assert values == [2, 4]


# --- order and errors ------------------------------------------------------------------------------
async def test_results_come_as_they_end_if_order_does_not_matter() -> None:
    values: list[int] = []
    async with (
        fake_cluster(slots=3, by_hand=True) as (cluster, engine),
        cluster.map(range(3), ordered=False, chunksize=1) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(take_all, values, stream)
        for index in (2, 0, 0):
            await wait_all_tasks_blocked()
            engine.run(engine.queue[index])
    assert values == [4, 0, 2]


@pytest.mark.parametrize("how", ["loop", "async", "thread"])
@pytest.mark.parametrize("chunksize", [None, 1, 3])
async def test_no_result_is_lost_or_doubled_out_of_order(how: str, chunksize: int | None) -> None:
    def slow() -> Iterator[int]:
        for n in range(100):
            work(0.0002 if n % 7 else 0.0011)
            yield n

    async def slow_too() -> AsyncIterator[int]:  # noqa: ASYNC124 - of that kind it is to be
        for n in slow():
            yield n

    async with fake_cluster(slots=3) as (cluster, _):
        stream = cluster.map(
            slow_too() if how == "async" else slow(),
            ordered=False,
            chunksize=chunksize,
            source_in_thread=how == "thread",
        )
        assert sorted([value async for value in stream]) == [2 * n for n in range(100)]


async def test_an_argument_that_cannot_be_pickled_is_told_after_the_results_before_it() -> None:
    values: list[Any] = []
    async with fake_cluster() as (cluster, engine):
        with pytest.raises(PickleArgumentError, match="generator"):
            await take_all(values, cluster.map([1, 2, counting([])], chunksize=1))
        assert values == [2, 4]
        assert not engine.queue


def reciprocal(n: int) -> float:
    return 1 / n


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [1, 3, 100])
async def test_what_calls_raise(ordered: bool, chunksize: int) -> None:
    numbers = [1, 0, 2, 0, 4]
    async with fake_cluster(reciprocal, slots=1) as (cluster, engine):
        values: list[Any] = []
        options: dict[str, Any] = {"ordered": ordered, "chunksize": chunksize}
        with pytest.raises(ZeroDivisionError):
            await take_all(values, cluster.map(numbers, **options))
        assert values == [1]
        values = [value async for value in cluster.map(numbers, errors="values", **options)]
        assert [type(value) for value in values] == [
            float,
            ZeroDivisionError,
            float,
            ZeroDivisionError,
            float,
        ]
        values = []
        two = [ZeroDivisionError] * 2
        with pytest.RaisesGroup(*two, match="2 calls of map failed"):
            await take_all(values, cluster.map(numbers, errors="group", **options))
        assert values == [1, 0.5, 0.25]
        assert not engine.queue


async def test_calls_of_a_job_that_is_lost_have_all_failed() -> None:
    async with fake_cluster(slots=1, by_hand=True) as (cluster, engine):
        values: list[Any] = []

        async def take() -> None:
            stream = cluster.map(range(3), chunksize=3, errors="values")
            values.extend([value async for value in stream])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            engine.lose(engine.queue[0])
    assert [type(value) for value in values] == [JobTerminated] * 3


async def test_options_that_do_not_exist_are_refused_at_once() -> None:
    async with fake_cluster() as (cluster, _):
        wrong: Any = "ignore"
        with pytest.raises(ValueError, match="errors is 'ignore'; it has to be 'raise', 'group'"):
            cluster.map([1], errors=wrong)
        with pytest.raises(ValueError, match="chunksize is 0"):
            cluster.map([1], chunksize=0)
        with pytest.raises(ValueError, match="buffersize is 0"):
            cluster.map([1], buffersize=0)
        with pytest.raises(TypeError, match="source_in_thread is for iterables that are read"):
            cluster.map(agen(1), source_in_thread=True)
        gc.collect()


# --- leaving early ---------------------------------------------------------------------------------
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["loop", "async", "thread"])
async def test_break_ends_the_jobs_without_a_word(how: str) -> None:
    closed = False

    async def source() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for n in range(10_000):
                yield n
        finally:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC102 - whoever closes it has time
            closed = True

    async with fake_cluster(slots=2) as (cluster, engine):
        read: Any = source() if how == "async" else range(10_000)
        async for value in cluster.map(read, chunksize=1, source_in_thread=how == "thread"):
            assert value == 0
            engine.by_hand = True
            break
        gc.collect()
        await wait_all_tasks_blocked()
        assert not engine.queue
        assert closed == (how == "async")


async def test_a_thread_that_reads_ends_when_nothing_is_wanted_any_more() -> None:
    def source(ended: threading.Event) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    async with fake_cluster() as (cluster, _):
        for _ in range(30):
            ended = threading.Event()
            async with cluster.map(source(ended), source_in_thread=True) as values:
                await anext(values)
            gc.collect()
            assert await trio.to_thread.run_sync(ended.wait, 30)


async def test_aclose_waits_until_jobs_and_source_have_ended() -> None:
    ended = []

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            ended.append("source")

    async with fake_cluster(slots=2) as (cluster, engine):
        async with cluster.map(source(), chunksize=1) as values:
            await anext(values)
        assert ended == ["source"]
        assert not engine.queue
        with pytest.raises(trio.ClosedResourceError):
            await anext(values)


async def test_a_cancelled_wait_for_a_value_ends_the_jobs() -> None:
    async with fake_cluster(slots=2, by_hand=True) as (cluster, engine):
        stream = cluster.map(range(10))
        with trio.move_on_after(0.01) as scope:
            await anext(stream)
        assert scope.cancelled_caught
        assert len(engine.cancelled) == 2
        assert not engine.queue


async def test_a_stream_that_nobody_began_leaves_nothing() -> None:
    async with fake_cluster() as (cluster, engine):
        generator = agen(1)
        cluster.map(generator)
        cluster.as_completed([])
        gc.collect()
        assert not engine.queue
        await generator.aclose()


# --- as_completed ----------------------------------------------------------------------------------
async def test_as_completed_takes_jobs_as_they_come() -> None:
    async with fake_cluster(by_hand=True) as (cluster, engine):
        send, receive = trio.open_memory_channel[Any](10)
        stream = cluster.as_completed(receive)
        first, second = cluster.submit(1), cluster.submit(2)
        send.send_nowait(first)
        send.send_nowait(second)
        send.send_nowait(first)
        engine.run(second)
        assert await anext(stream) is second
        engine.run(first)
        assert await anext(stream) is first
        third = cluster.submit(3)
        engine.run(third)
        send.send_nowait(third)
        assert await anext(stream) is third
        send.close()
        assert [job async for job in stream] == []


@pytest.mark.filterwarnings("error")
async def test_leaving_as_completed_leaves_the_jobs_alone() -> None:
    async with fake_cluster(by_hand=True) as (cluster, engine):
        jobs = [cluster.submit(n) for n in range(3)]
        engine.run(jobs[1])
        async for job in cluster.as_completed(jobs):
            assert job is jobs[1]
            break
        async with cluster.as_completed(jobs) as stream:
            assert await anext(stream) is jobs[1]
        gc.collect()
        await wait_all_tasks_blocked()
        assert list(engine.queue) == [jobs[0], jobs[2]]
        assert not any(job.waiters for job in jobs)


async def test_what_is_no_job_is_refused_and_waited_for_by_nobody() -> None:
    async with fake_cluster(by_hand=True) as (cluster, _):
        job = cluster.submit(1)
        wrong: Any = [job, 1]
        with pytest.raises(TypeError, match="as_completed takes a JobHandle, not 1"):
            await anext(cluster.as_completed(wrong))
        gc.collect()
        await wait_all_tasks_blocked()
        assert not job.waiters


async def test_others_have_turns_while_as_completed_reads_its_jobs() -> None:
    turns: list[int] = []

    async def watch() -> None:
        while True:
            turns.append(len(given))
            await trio.lowlevel.checkpoint()

    given: list[int] = []
    async with fake_cluster(by_hand=True) as (cluster, engine), trio.open_nursery() as nursery:

        def jobs() -> Iterator[Any]:
            for n in range(10):
                given.append(n)
                work(0.0011)
                yield cluster.submit(n)

        nursery.start_soon(watch)
        stream = cluster.as_completed(jobs())
        nursery.start_soon(stream.__anext__)
        while len(given) < 10:  # noqa: ASYNC110 - turns are counted
            await trio.lowlevel.checkpoint()
        engine.run(engine.queue[0])
        nursery.cancel_scope.cancel()
    assert max(gaps(turns)) <= 2


@pytest.mark.parametrize("how", ["loop", "async", "thread"])
async def test_a_closed_cluster_maps_nothing_more(how: str) -> None:
    async with fake_cluster(slots=2) as (cluster, engine):

        def start() -> Any:
            source = agen(100) if how == "async" else range(100)
            return cluster.map(source, source_in_thread=how == "thread", chunksize=1)

        begun, not_begun = start(), start()
        assert await anext(begun) == 0
        engine.by_hand = True
        cluster._open = False
        cluster._end_maps()
        for stream in (begun, not_begun, start()):
            with pytest.raises(ClusterClosed):
                await anext(stream)
            await stream.aclose()
        assert not engine.queue


async def test_whoever_waits_for_results_when_the_cluster_closes_gets_those_under_way() -> None:
    values: list[Any] = []
    async with fake_cluster(slots=2, by_hand=True) as (cluster, engine):
        with pytest.RaisesGroup(ClusterClosed):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_all, values, cluster.map(range(100)))
                await wait_all_tasks_blocked()
                cluster._open = False
                cluster._end_maps()
                while engine.queue:
                    engine.run(engine.queue[0])
    assert values == [0, 2]
