"""Processes that are killed at any instruction, and jobs that tell lies in their worker's name."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from dispy_trio import seams
from dispy_trio.compute import packaging
from dispy_trio.models import Outcome
from dispy_trio.seams import WorkerJob

from . import crash_jobs as jobs
from .test_processes import Bench, open_bench, returned


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path, jobs.run) as bench:
        await bench.next(seams.TemplateReady)
        yield bench


def payload(function: Callable[..., Any], *args: Any) -> bytes:
    packed = packaging.pack_arguments((function, *args), {})
    assert isinstance(packed, bytes)
    return packed


def send_isolated(bench: Bench, *payloads: bytes) -> range:
    first = bench.sent.get(1, 0) + 1
    bench.sent[1] = first + len(payloads) - 1
    bench.template.send_jobs(
        1,
        [
            WorkerJob(sequence, data, settings={"isolated": True})
            for sequence, data in enumerate(payloads, first)
        ],
    )
    return range(first, first + len(payloads))


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_an_isolated_job_that_dies_round_its_result_ends_alone(
    bench: Bench, size: int
) -> None:
    """At each line of what hands the result over: it is whole, or the job died."""
    await bench.start()
    outcomes: list[int] = []
    while outcomes[-2:] != [Outcome.RETURNED] * 2:
        steps = [len(outcomes) + 1, len(outcomes) + 2]
        sequences = send_isolated(
            bench,
            *[
                data
                for n in steps
                for data in (payload(jobs.die_at_step, n, size), payload(jobs.double, n))
            ],
        )
        await bench.result(sequences[-1])
        results = [bench.results[1][sequence] for sequence in sequences]
        for result, innocent, n in zip(results[::2], results[1::2], steps, strict=True):
            assert returned(innocent) == 2 * n
            outcomes.append(result.outcome)
            if result.outcome == Outcome.RETURNED:
                assert returned(result) == bytes(size)
            else:
                assert result.outcome == Outcome.DIED
                assert result.payload.startswith(b"killed by SIGKILL (9)")
    assert not any(isinstance(event, seams.WorkerDied) for event in bench.events)
    assert outcomes.count(Outcome.DIED) > 15, "the lines are not those of the hand-over"


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_worker_that_dies_round_a_result_has_told_it_or_not(
    bench: Bench, size: int
) -> None:
    told: list[bool] = []
    while told.count(True) < 4:
        worker = len(told) + 1
        await bench.start(worker)
        sequence = bench.send(jobs.die_at_step, worker, size, worker=worker)
        behind = bench.send_many([payload(jobs.double, 1)] * 5, worker)
        died = await bench.next(seams.WorkerDied, worker)
        results = bench.results.get(worker, {})
        told.append(sequence in results)
        if told[-1]:
            assert returned(results[sequence]) == bytes(size)
        # Whatever it started is told or to blame; the others can run elsewhere.
        assert set(results) in (set(range(1, died.started)), set(range(1, died.started + 1)))
        assert died.started in (sequence, *behind)
    assert told.count(False) > 10, "the lines are not those of the sending"


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It has ended, and its worker has seen it.


async def test_isolated_jobs_may_be_killed_at_any_moment(bench: Bench) -> None:
    worker = await bench.start()
    draw = random.Random(3)
    expected = {
        payload(jobs.double, 21): 42,
        payload(bytes, 70_000): bytes(70_000),
        payload(bytes, 400_000): bytes(400_000),
    }
    sent: dict[int, bytes] = {}
    for _ in range(40):
        chosen = draw.choices(list(expected), k=6)
        sequences = send_isolated(bench, *chosen)
        sent.update(zip(sequences, chosen, strict=True))
        while sequences[-1] not in bench.results.get(1, {}):
            for pid in children_of(worker):
                if draw.random() < 0.3:
                    kill_if_there(pid)
            bench.template.poll(1)
            await trio.sleep(draw.random() * 0.001)
    count = Counter(result.outcome for result in bench.results[1].values())
    assert set(count) == {Outcome.RETURNED, Outcome.DIED}
    assert sum(count.values()) == len(sent)
    for sequence, result in bench.results[1].items():
        if result.outcome == Outcome.RETURNED:
            assert returned(result) == expected[sent[sequence]]


# --- lies --------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", jobs.LIES)
async def test_a_job_that_speaks_for_its_worker_ends_that_one_alone(
    bench: Bench, what: str
) -> None:
    await _breaks_its_worker_only(bench, lambda first: payload(jobs.lie, what, first + 1))


@pytest.mark.parametrize("what", ["deep", "pipe", "endless file"])
async def test_a_call_that_is_none_ends_its_worker_alone(bench: Bench, what: str) -> None:
    await _breaks_its_worker_only(bench, lambda _: payload(jobs.ask, what))


async def test_a_frame_without_end_ends_its_worker_alone(bench: Bench) -> None:
    await _breaks_its_worker_only(bench, lambda _: payload(jobs.flood))


async def _breaks_its_worker_only(bench: Bench, make: Callable[[int], bytes]) -> None:
    await bench.start(1)
    await bench.start(2)
    fine = bench.send(jobs.double, 1)
    assert returned(await bench.result(fine)) == 2
    guilty = bench.send_raw(make(fine))
    behind = bench.send(jobs.double, 2)
    died = await bench.next(seams.WorkerDied)
    assert died.worker == 1
    assert "its job broke the worker" in died.how
    assert died.started == guilty
    assert behind not in bench.results[1]
    other = bench.send(jobs.double, 5, worker=2)
    assert returned(await bench.result(other, 2)) == 10


async def test_whatever_a_job_writes_over_the_ring_its_node_lives(bench: Bench) -> None:
    for worker in range(1, 41):
        await bench.start(worker)
        before = bench.send(jobs.double, 1, worker=worker)
        await bench.result(before, worker)
        guilty = bench.send(jobs.scribble, worker, worker=worker)
        bench.send_many([payload(jobs.double, 1)] * 3, worker)
        with trio.move_on_after(0.1):
            while not any(isinstance(event, seams.WorkerDied) for event in bench.events):
                bench.template.poll(worker)
                await trio.sleep(0.005)
        bench.template.recall(worker)
        bench.template.kill(worker)
        died = await bench.next(seams.WorkerDied, worker)
        assert died.worker == worker
        assert guilty == before + 1
    last = await bench.start(99)
    assert last
    fine = bench.send(jobs.double, 5, worker=99)
    assert returned(await bench.result(fine, 99)) == 10


async def test_a_job_that_empties_all_its_files_empties_none_of_its_node(bench: Bench) -> None:
    await bench.start(1)
    first = bench.send(jobs.shorten_everything)
    assert returned(await bench.result(first)) is None
    second = bench.send(jobs.double, 5)
    assert returned(await bench.result(second)) == 10


@pytest.mark.parametrize(("asked", "size", "heard"), [(130, 10, 100), (4, 1 << 30, 1)])
async def test_calls_that_wait_for_answers_are_bounded(
    bench: Bench, asked: int, size: int, heard: int
) -> None:
    await bench.start(1)
    guilty = bench.send(jobs.ask_often, asked, size, asked - heard)
    errors = returned(await bench.result(guilty))
    assert all("too many calls" in error for error in errors)
    calls = [event for event in bench.events if isinstance(event, seams.WorkerCall)]
    assert len(calls) == heard
    bench.events = [event for event in bench.events if not isinstance(event, seams.WorkerCall)]
    for call in calls:
        bench.template.answer(1, call.call, {})
    calls.clear()
    bench.send(jobs.ask_often, 1, 10, 0)
    assert (await bench.next(seams.WorkerCall)).data == bytes(10)


async def test_a_result_that_was_taken_can_not_be_shortened(bench: Bench) -> None:
    await bench.start(1)
    guilty = bench.send(jobs.shorten_later, 1)
    result = await bench.result(guilty)
    assert result.segment is not None
    await bench.next(seams.WorkerDied)
    assert os.fstat(result.segment).st_size == 1 << 20
    os.close(result.segment)
