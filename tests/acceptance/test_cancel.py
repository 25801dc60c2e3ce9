"""Cancel at any moment, children included; and output of child programs, job by job."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy_trio as dispy

from .conftest import World

LIMIT = 30.0
ENDED = (8, 9, 10, 11)

Make = Callable[..., Any]


@pytest.fixture
def make(world: World, two_nodes: list[str]) -> Iterator[Make]:
    made: list[Any] = []

    def make(computation: Any, **options: Any) -> Any:
        options.setdefault("nodes", two_nodes)
        cluster: Any = dispy.JobCluster(computation, secret_file=world.secret_file, **options)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close(terminate=True)


def wait_for(condition: Callable[[], bool], limit: float = LIMIT) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + limit
        time.sleep(0.01)
    return time.monotonic() - start


def catch(seconds: float) -> str:
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        return "interrupted"
    return "slept"


def test_a_job_that_catches_the_interrupt_is_finished_with_its_value(make: Make) -> None:
    cluster = make(catch)
    job = cluster.submit(60)
    wait_for(lambda: job.status == dispy.DispyJob.Running)
    assert cluster.cancel(job) == 0
    assert job() == "interrupted"
    assert job.status == dispy.DispyJob.Finished


@pytest.mark.parametrize("isolation", ["worker", "job"])
def test_a_deaf_job_and_its_child_are_gone_within_8_seconds_and_the_next_job_is_not_hit(
    make: Make, tmp_path: Path, isolation: Any
) -> None:
    def be_deaf(path: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # type: ignore[name-defined]  # noqa: F821
            signal.signal(number, signal.SIG_IGN)  # type: ignore[name-defined]  # noqa: F821
        child = subprocess.Popen(  # type: ignore[name-defined]  # noqa: F821
            ["sh", "-c", "trap '' INT TERM; while :; do sleep 0.1; done"]
        )
        with open(path + ".part", "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        os.rename(path + ".part", path)
        while True:
            time.sleep(0.1)

    pids = tmp_path / "pids"
    cluster = make(be_deaf)
    job = cluster.options(isolation=isolation).submit(str(pids))
    wait_for(pids.exists)
    after = make(catch)
    assert cluster.cancel(job) == 0
    seconds = wait_for(lambda: job.status in ENDED, 10)
    assert seconds < 8
    assert job.status == dispy.DispyJob.Terminated
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.read_text().split()), 1)
    assert [after.submit(0)() for _ in range(8)] == ["slept"] * 8


@pytest.mark.parametrize("isolation", ["worker", "job"])
def test_1000_cancels_at_random_moments(make: Make, isolation: Any) -> None:
    ends: dict[int, int] = {}

    def job_status(job: Any) -> None:
        ends[job.id] = ends.get(job.id, 0) + 1

    def work(n: int) -> int:
        time.sleep((n % 7) / 1000)
        return n

    seed = random.randrange(2**32)
    rng = random.Random(seed)
    cluster = make(work, job_status=job_status)
    tuned = cluster.options(isolation=isolation)
    submit = cluster.submit if isolation == "worker" else tuned.submit
    jobs: list[Any] = []
    for n in range(1000):
        jobs.append(submit(n))
        victim = rng.choice(jobs[-20:])
        if rng.random() < 0.7:
            time.sleep(rng.random() / 500)
        if not victim.ended:
            cluster.cancel(victim)
    assert cluster.wait(LIMIT), f"seed {seed}"
    assert {job.status for job in jobs} <= set(ENDED)
    assert all(ends[job.id] == 1 for job in jobs), f"seed {seed}"
    for n, job in enumerate(jobs):
        if job.status == dispy.DispyJob.Finished:
            assert job.result == n
    # No slot is lost: as many jobs as there are slots run at the same time.
    start = time.monotonic()
    together = make(lambda: (time.sleep(2), time.time())[1], name="together")
    last = [together.submit() for _ in range(4)]
    assert all(job() is not None for job in last)
    assert time.monotonic() - start < LIMIT
    assert max(job.start_time for job in last) < min(job.end_time for job in last)
    again = [submit(n) for n in range(100)]
    assert [job() for job in again] == list(range(100))


def test_1000_jobs_that_print_from_child_programs(make: Make) -> None:
    def talk(n: int) -> int:
        import subprocess
        import sys

        sys.stdout.write(f"before {n}\n")
        status = subprocess.call(["sh", "-c", f"echo child {n}; echo error {n} >&2"])
        sys.stdout.write(f"after {n}\n")
        return status

    cluster = make(talk)
    jobs = [cluster.submit(n) for n in range(1000)]
    assert {job() for job in jobs} == {0}
    for n, job in enumerate(jobs):
        assert job.stdout == f"before {n}\nchild {n}\nafter {n}\n"
        assert job.stderr == f"error {n}\n"


def test_an_isolated_job_that_dies_is_told_of_and_spares_the_others(make: Make) -> None:
    def die(how: str) -> str:
        if how == "exit":
            os._exit(3)
        if how == "kill":
            os.kill(os.getpid(), 9)
        return how

    cluster = make(die)
    isolated = cluster.options(isolation="job")
    jobs = [isolated.submit(how) for how in ("exit", "fine", "kill", "fine")]
    assert [job() for job in jobs] == [None, "fine", None, "fine"]
    assert "exit code 3 without a result, on node" in jobs[0].exception
    assert "killed by SIGKILL (9), on node" in jobs[2].exception
    assert {int(job.status) for job in jobs} == {9, 11}


def test_isolated_jobs_leave_nothing_in_each_other(make: Make) -> None:
    def count() -> int:
        module = sys.modules[dispy.__name__]
        module.counter = getattr(module, "counter", 0) + 1  # type: ignore[attr-defined]
        return module.counter  # type: ignore[attr-defined,no-any-return]

    isolated = make(count).options(isolation="job")
    assert {isolated.submit()() for _ in range(10)} == {1}
