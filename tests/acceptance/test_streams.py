"""Streams of a Trio cluster, and what of a program may not hold one up, with real processes."""

from __future__ import annotations

import sys

from tests.acceptance.conftest import LIMIT, World


def test_a_program_whose_threads_are_all_busy_opens_and_leaves_a_cluster(world: World) -> None:
    script = """
import trio
import dispy_trio as dispy

async def main():
    limiter = trio.to_thread.current_default_thread_limiter()
    for n in range(int(limiter.total_tokens)):
        limiter.acquire_on_behalf_of_nowait(n)
    async with dispy.open_cluster(abs) as cluster:
        print(await cluster.run(-1))
    print("left")

trio.run(main)
"""
    program = world.start(sys.executable, world.write("program.py", script))
    assert program.communicate(timeout=LIMIT) == ("1\nleft\n", "")


def test_break_ends_the_jobs_and_warns_never(world: World) -> None:
    script = """
import trio
import dispy_trio as dispy

def stay(n):
    import time
    if n:
        time.sleep(1000)
    return n

async def numbers():
    for n in range(100):
        yield n

async def main():
    async with dispy.open_cluster(stay, cpus=2) as cluster:
        for source in (range(100), numbers()):
            async for value in cluster.map(source):
                print(value)
                break
        async with cluster.map(range(100), source_in_thread=True) as values:
            print(await anext(values))
        jobs = [cluster.submit(0), cluster.submit(0)]
        async for job in cluster.as_completed(jobs):
            print(await job.wait())
            break
    print("left")

trio.run(main)
"""
    program = world.start(sys.executable, "-W", "error", world.write("program.py", script))
    assert program.communicate(timeout=LIMIT) == ("0\n0\n0\n0\nleft\n", "")


def test_a_stdout_that_nobody_reads_holds_up_no_job(world: World) -> None:
    script = """
import sys
import trio
import dispy_trio as dispy

def talk(n):
    for _ in range(5000):
        print("x" * 100)
    return n

async def main():
    async with dispy.open_cluster(talk, live_output=True) as cluster:
        print([value async for value in cluster.map(range(4))], file=sys.stderr)
    print("left", file=sys.stderr)

trio.run(main)
"""
    program = world.start(sys.executable, world.write("program.py", script))
    assert program.stderr is not None
    said = program.stderr.read()
    assert said.startswith("[0, 1, 2, 3]\n")
    assert "shown no more" in said
    assert said.endswith("left\n")
    assert program.wait(LIMIT) == 0
