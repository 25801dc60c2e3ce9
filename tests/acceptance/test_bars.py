"""Bars of jobs: what is counted for them, by blocking and by Trio clusters.

How they are drawn is tested by `tests.unit.client.test_progress`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import dispy_trio as dispy
from dispy_trio.client import progress
from dispy_trio.client.progress import Standing, describe_counts

from .conftest import World


def compute(n: int) -> int:
    return 10 // n


@pytest.fixture
def shown(nodes: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each bar showed at last."""
    bars: list[str] = []

    @contextmanager
    def draw(name: str, stand: Callable[[], Standing]) -> Iterator[None]:
        yield
        bars.append(f"{name} {describe_counts(stand())} {stand().place}")

    monkeypatch.setattr(progress, "_is_terminal", lambda _stream: True)
    monkeypatch.setattr(progress, "_draw", draw)
    return bars


PLACE = "4 slots on this machine"


def test_bars_of_a_blocking_cluster(nodes: World, shown: list[str]) -> None:
    with dispy.JobCluster(compute, connect_timeout=30, secret_file=nodes.secret_file) as cluster:
        with cluster.progress():
            assert [job() for job in [cluster.submit(n) for n in (1, 0, 5)]] == [10, None, 2]
            assert cluster.wait()
        jobs = [cluster.submit(n) for n in (1, 0)]
        assert {job.status.name for job in cluster.as_completed(jobs, progress=True)} == {
            "Finished",
            "Terminated",
        }
        assert list(cluster.map(range(1, 9), progress=True)) == [10, 5, 3, 2, 2, 1, 1, 1]
        assert list(cluster.options(timeout=60).map([5], progress=True)) == [2]
        assert cluster.wait(progress=True)
    assert shown == [
        f"compute {counts} {PLACE}"
        for counts in ("3/3, 1 failed", "2/2, 1 failed", "8/8", "1/1", "0")
    ]


def test_a_bar_of_jobs_that_have_ended_needs_no_open_cluster(
    nodes: World, shown: list[str]
) -> None:
    with dispy.JobCluster(compute, secret_file=nodes.secret_file) as cluster:
        jobs = [cluster.submit(n) for n in (1, 2)]
    assert cluster.wait(progress=True) is True
    assert [job.id for job in cluster.as_completed(jobs, progress=True)] == [job.id for job in jobs]
    assert [line.split()[1] for line in shown] == ["0", "2/2"]


async def test_bars_of_a_trio_cluster(nodes: World, shown: list[str]) -> None:
    async with dispy.open_cluster(
        compute, connect_timeout=30, secret_file=nodes.secret_file
    ) as cluster:
        with cluster.progress():
            jobs = [cluster.submit(n) for n in (1, 0, 5)]
            await cluster.wait()
        assert len([job async for job in cluster.as_completed(jobs, progress=True)]) == 3
        values = [value async for value in cluster.map(range(1, 5), progress=True)]
        assert values == [10, 5, 3, 2]
        await cluster.wait(progress=True)
        assert jobs[1].exception is not None
    assert shown == [
        f"compute {counts} {PLACE}" for counts in ("3/3, 1 failed", "3/3, 1 failed", "4/4", "0")
    ]
