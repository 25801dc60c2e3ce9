"""What a worker tells is believed as far as it can be."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

from dispy_trio.compute.hearsay import count_due, parse_call, read_attached
from dispy_trio.seams import WorkerResult


def result(sequence: int, **changes: Any) -> WorkerResult:
    made = WorkerResult(sequence, 0, 1.0, 2.0, b"")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_believes_results_of_jobs_that_were_given() -> None:
    assert count_due([result(4), result(5), result(9)], 3, 9) == 3
    assert count_due([result(4, end=0.5)], 3, 9) == 1, "a clock may be set back"


@pytest.mark.parametrize(
    "lie",
    [
        result(4),
        result(3),
        result(10),
        result(5, outcome=7),
        result(5, start=float("nan")),
        result(5, start=float("inf")),
        result(5, end=float("-inf")),
        result(5, end=float("nan")),
        result(5, start=-1.0),
    ],
)
def test_believes_those_before_the_first_lie(lie: WorkerResult) -> None:
    assert count_due([result(4), lie, result(9)], 3, 9) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 60_000, b"1" * 5000])
def test_a_call_that_is_none_is_none(data: bytes) -> None:
    assert parse_call(data) is None


@pytest.mark.parametrize("size", [0, 7, 1 << 20, (1 << 20) + 1])
async def test_reads_a_memory_file_and_closes_it(size: int) -> None:
    file = os.memfd_create("test")
    os.write(file, b"x" * size)
    assert await read_attached([file]) == b"x" * size
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


async def test_closes_what_is_no_memory_file() -> None:
    assert await read_attached([]) == b""
    endless = os.memfd_create("test")
    os.truncate(endless, 1 << 45)
    two = os.memfd_create("test")
    refused = [[endless], [two, os.dup(two)], [os.open("/", os.O_RDONLY)], list(os.pipe())]
    for descriptors in refused:
        assert await read_attached(descriptors) is None
    for descriptor in itertools.chain(*refused):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
