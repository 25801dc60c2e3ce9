"""What a program is told of its jobs, at their end and at its own."""

from __future__ import annotations

import signal
import sys

import trio

import dispy_trio as dispy

from .conftest import LIMIT, World

PROGRAM = """
import sys
import dispy_trio as dispy

def compute(n):
    return 1 / (n % 33 - 7)

def look(job):
    job.wait()
    return [job.status, job.exception]

with dispy.JobCluster(compute) as cluster:
    jobs = [cluster.submit(n) for n in range(100)]
    if sys.argv[1:] == ["look"]:
        for job in jobs:
            look(job)
cluster.close()

with dispy.JobCluster(compute, job_status=lambda job: None) as cluster:
    cluster.submit(7)

cluster = dispy.JobCluster(compute)
cluster.submit(7)
if sys.argv[1:] == ["look"]:
    cluster.close(terminate=True)
"""


def test_failed_jobs_that_nobody_looked_at_are_told_of_once_at_close(world: World) -> None:
    path = world.write("program.py", PROGRAM)
    program = world.start(sys.executable, "-W", "error", path)
    _, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0
    lines = [line for line in err.splitlines() if "failed" in line]
    first = "ZeroDivisionError: division by zero; see job.exception"
    assert len(lines) == 2
    assert lines[0].endswith(f"cluster compute: 3 of 100 jobs failed; first: job 8, {first}")
    # Also of a cluster that the end of the program closes.
    assert lines[1].endswith(f"cluster compute: 1 of 1 jobs failed; first: job 102, {first}")


def test_nothing_is_told_of_failed_jobs_that_were_looked_at(world: World) -> None:
    path = world.write("program.py", PROGRAM)
    program = world.start(sys.executable, path, "look")
    _, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0
    assert "failed" not in err


def test_nothing_is_told_of_jobs_of_map_at_which_nobody_can_look(world: World) -> None:
    script = """
import trio
import dispy_trio as dispy

def compute(n):
    import os
    os._exit(3)

with dispy.JobCluster(compute) as cluster:
    try:
        list(cluster.map([0] * 8, chunksize=1))
    except dispy.JobTerminated:
        print("seen")
    cluster.wait()

async def main():
    async with dispy.open_cluster(compute) as cluster:
        try:
            async for _ in cluster.map([0] * 8, chunksize=1):
                pass
        except dispy.JobTerminated:
            print("seen")
        await cluster.wait()

trio.run(main)
"""
    program = world.start(sys.executable, world.write("program.py", script))
    assert program.communicate(timeout=LIMIT) == ("seen\nseen\n", "")


def test_a_trio_program_is_told_too(world: World) -> None:
    script = """
import trio
import dispy_trio as dispy

def compute(n):
    return 1 / n

async def main():
    async with dispy.open_cluster(compute) as cluster:
        try:
            await cluster.run(0)
        except ZeroDivisionError:
            print("seen")
        cluster.submit(0)

trio.run(main)
"""
    program = world.start(sys.executable, world.write("program.py", script))
    out, err = program.communicate(timeout=LIMIT)
    assert out == "seen\n"
    (line,) = [line for line in err.splitlines() if "failed" in line]
    assert "cluster compute: 1 of 2 jobs failed; first: job 2, ZeroDivisionError" in line


def test_nothing_is_told_of_jobs_that_were_cancelled_while_they_ran(world: World) -> None:
    """By a scope that ends, by a task that fails, by `map` for the rest of what it has submitted."""
    script = """
import time, trio
import dispy_trio as dispy

def compute(n):
    if n:
        time.sleep(n)
    return 1 / n

async def main():
    async with dispy.open_cluster(compute, cpus=2) as cluster:
        handle = cluster.submit(60)
        with trio.CancelScope() as scope:
            while handle.status != dispy.JobStatus.Running:
                await trio.sleep(0.01)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handle.wait)
                scope.cancel()

trio.run(main)
with dispy.JobCluster(compute, cpus=2) as cluster:
    job = cluster.submit(60)
    while job.status != dispy.DispyJob.Running:
        time.sleep(0.01)
    cluster.cancel(job)
with dispy.JobCluster(compute, cpus=2) as cluster:
    try:
        list(cluster.map([0, 60], chunksize=1))
    except ZeroDivisionError:
        pass
"""
    program = world.start(sys.executable, world.write("program.py", script))
    _, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, err) == (0, "")


def test_a_program_that_ends_says_what_it_waits_for_and_how_to_end_it(world: World) -> None:
    script = """
import time
import dispy_trio as dispy

cluster = dispy.JobCluster(time.sleep)
jobs = [cluster.submit(1000) for _ in range(3)]
"""
    for options in ((), ("-i",)):  # A session at the prompt ends in the same way.
        program = world.start(sys.executable, *options, world.write("program.py", script))
        assert program.stderr is not None
        line = ""
        while "the program ends" not in line:
            line = program.stderr.readline()
            assert line, "it has ended"
        assert line.endswith(
            "cluster sleep: the program ends when 3 jobs have ended; Ctrl-C ends it now\n"
        )
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=LIMIT)
        assert "failed" not in err, "that was wanted"


def read_missing(number: int) -> str:
    with open(f"gone-{number}.txt") as file:
        return file.read()


def crash(number: int) -> None:
    import ctypes

    ctypes.string_at(number)


def generate(count: int) -> object:
    return (number for number in range(count))


async def test_what_a_job_can_t_know_of_where_it_runs_is_told_with_its_error(world: World) -> None:
    options = {"secret_file": None, "secret": "x"}
    async with dispy.open_cluster(read_missing, **options) as cluster:
        with trio.fail_after(LIMIT):
            job = cluster.submit(1)
            try:
                await job.wait()
            except FileNotFoundError as exc:
                (note,) = exc.__notes__
                assert note.startswith("This ran on node ")
                assert "files get there by depends=, or dispy_job_depends= for one job" in note
                assert note in str(job.exception)
            else:
                raise AssertionError("there is no such file")


async def test_a_crash_and_a_generator_are_told_plainly(world: World) -> None:
    options = {"secret_file": None, "secret": "x"}
    for isolation in ("worker", "job"):
        async with dispy.open_cluster(crash, **options, isolation=isolation) as cluster:
            with trio.fail_after(LIMIT):
                job = cluster.submit(0)
                await job.wait_ended()
                text = str(job.exception)
                assert text.startswith("killed by SIGSEGV (11), on node ")
                assert "attempt" not in text
                assert text.splitlines()[-1].endswith(" in crash")
    async with dispy.open_cluster(generate, **options) as cluster:
        with trio.fail_after(LIMIT):
            job = cluster.submit(3)
            await job.wait_ended()
            assert str(job.exception).endswith("; return list(…) of it")


def test_open_cluster_says_what_to_use_under_asyncio(world: World) -> None:
    script = """
import asyncio
import dispy_trio as dispy

async def main():
    try:
        async with dispy.open_cluster(abs):
            pass
    except RuntimeError as exc:
        print(exc)
    with dispy.JobCluster(abs) as cluster:
        print(await asyncio.to_thread(cluster.submit(-3)))

asyncio.run(main())
"""
    told, result = world.run(script).splitlines()
    assert told == (
        "open_cluster needs Trio: call it in trio.run(…); under asyncio use JobCluster, and await"
        " asyncio.to_thread(job) for the result of a job"
    )
    assert result == "3"
