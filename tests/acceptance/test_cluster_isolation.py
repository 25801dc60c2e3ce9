"""A process for each job, for all jobs of a cluster."""

from __future__ import annotations

import sys

import pytest

from .conftest import LIMIT, World

PROGRAM = """
import os, sys
import dispy_trio as dispy

seen = []

def compute(n, large=b""):
    seen.append(n)
    return os.getpid(), len(seen)

def check(jobs, isolated):
    found = [job() if hasattr(job, "wait") else job for job in jobs]
    assert None not in found, [job.exception for job in jobs]
    processes = len({process for process, _ in found})
    print(processes == len(found) if isolated else processes == 1, max(count for _, count in found))
"""


def test_each_job_of_an_isolated_cluster_has_its_own_process(world: World) -> None:
    script = (
        PROGRAM
        + """
with dispy.JobCluster(compute, cpus=1, isolation="job") as cluster:
    check([cluster.submit(n) for n in range(6)], True)
    check([cluster.options(priority=n).submit(n) for n in range(3)], True)
    check([cluster.submit_node(cluster.status().nodes[0], n) for n in range(2)], True)
    check([cluster.submit(n, large=bytes(1 << 20)) for n in range(2)], True)
    check([cluster.submit(n, dispy_job_depends=[__file__]) for n in range(2)], True)
    check(list(cluster.map(range(4), chunksize=1)), True)
    check([cluster.options(isolation="worker").submit(n) for n in range(3)], False)
"""
    )
    assert world.run(script).splitlines() == ["True 1"] * 6 + ["True 3"]


def test_trio_programs_can_have_that_too(world: World) -> None:
    script = (
        PROGRAM
        + """
import trio

async def main():
    async with dispy.open_cluster(compute, cpus=1, isolation="job") as cluster:
        check([await cluster.run(n) for n in range(3)], True)
        check([await cluster.run(n, bytes(1 << 20)) for n in range(2)], True)
        check([await cluster.options(isolation="worker").run(n) for n in range(2)], False)

trio.run(main)
"""
    )
    assert world.run(script).splitlines() == ["True 1", "True 1", "True 2"]


def test_the_environment_gives_each_job_of_an_unchanged_program_a_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        PROGRAM
        + """
for how in (None, "worker"):
    with dispy.JobCluster(compute, cpus=1, isolation=how) as cluster:
        check([cluster.submit(n) for n in range(3)], how is None)
"""
    )
    monkeypatch.setenv("DISPY_TRIO_ISOLATION", "job")
    assert world.run(script).splitlines() == ["True 1", "True 3"]


@pytest.mark.parametrize("where", ["environment", "argument"])
def test_another_isolation_is_refused_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "environment":
        monkeypatch.setenv("DISPY_TRIO_ISOLATION", "thread")
    argument = ", isolation='thread'" if where == "argument" else ""
    script = f"import dispy_trio\ndispy_trio.JobCluster(abs, cpus=1{argument})\n"
    program = world.start(sys.executable, world.write("program.py", script))
    _, err = program.communicate(timeout=LIMIT)
    name = "isolation" if where == "argument" else "DISPY_TRIO_ISOLATION"
    last = err.splitlines()[-1]
    assert last == f"ValueError: {name} is 'thread'; it has to be 'worker' or 'job'"
    world.wait_until_gone()
