"""How calls are put into jobs, with jobs that end at once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.compute.packaging import Parts
from dispy_trio.models import JobStatus


def test_the_size_grows_step_by_step_to_what_fits() -> None:
    sizer = ChunkSizer()
    sizes = []
    for _ in range(6):
        sizer.observe(sizer.size, sizer.size * 2**-17)
        sizes.append(sizer.size)
    assert sizes == [8, 64, 512, 655, 655, 655]
    sizer.observe(655, 50.0)
    assert sizer.size == 1


def test_the_user_s_own_size_stays() -> None:
    sizer = ChunkSizer(7)
    sizer.observe(7, 100.0)
    assert sizer.size == 7


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_have_to_be_positive(size: int) -> None:
    with pytest.raises(ValueError, match=f"chunksize is {size}"):
        ChunkSizer(size)
    with pytest.raises(ValueError, match=f"buffersize is {size}"):
        CallStream(finished, size, ChunkSizer())


def finished(payload: bytes | Parts) -> SubmittedJob[object]:
    assert isinstance(payload, bytes)
    calls, _ = pickle.loads(payload)
    job: SubmittedJob[object] = SubmittedJob(
        1, None, state=JobStatus.Finished, started_at=1, ended_at=1.001
    )
    job.reply = pickle.dumps(([n * n for (n,) in calls], None))
    return job


@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
def test_results_come_in_order_and_inputs_are_read_no_further_than_needed(
    buffersize: int | None,
) -> None:
    read = 0

    def inputs() -> Iterator[int]:
        nonlocal read
        for read in range(1, 501):  # noqa: UP028 - it counts on the way
            yield read

    stream = CallStream(finished, buffersize, ChunkSizer())
    calls = zip(inputs())
    results: list[int] = []
    while (job := stream.next_job(calls, 2)) is not None:
        assert buffersize is None or read - len(results) <= buffersize
        values, failure = stream.take(job)
        assert failure is None
        results += values
    assert results == [n * n for n in range(1, 501)]
