"""The embedded node dies: another one is started, until that is of no use."""

from __future__ import annotations

import re

from .conftest import World

FIND_NODE = """
import os, signal, sys, time
from pathlib import Path
import dispy_trio
from dispy_trio import DispyJob, JobCluster

def nodes():
    "Process ids of our embedded nodes."
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and b"dispy_trio.services.embedded" in command:
            found.append(int(entry.name))
    return found

def kill_node():
    (node,) = nodes()
    os.kill(node, signal.SIGKILL)
    return node

def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
"""


def test_what_waits_runs_on_another_embedded_node(world: World) -> None:
    script = (
        FIND_NODE
        + """
def compute(n):
    import os, time
    time.sleep(30 if n < 2 else 0)
    return os.getppid()

cluster = JobCluster(compute, cpus=2)
jobs = [cluster.submit(n) for n in range(60)]
wait_for(lambda: all(job.status == DispyJob.Running for job in jobs[:2]))
dead = kill_node()
for job in jobs:
    job()
print([job.status.name for job in jobs[:2]], {job.status.name for job in jobs[2:]})
for job in jobs[:2]:
    print(job.exception)
print(dead in nodes(), len(nodes()), cluster.close(), nodes())
"""
    )
    out = world.run(script)
    lines = out.splitlines()
    assert lines[0] == "['Abandoned', 'Abandoned'] {'Finished'}"
    assert lines[1].endswith("was lost: the embedded node died: SIGKILL")
    assert lines[2].endswith("was lost: the embedded node died: SIGKILL")
    assert lines[3] == "False 1 True []"
    world.wait_until_gone()


def test_the_one_that_died_is_not_meant_any_more_by_its_address(world: World) -> None:
    script = (
        FIND_NODE
        + """
import logging

def compute(n):
    return n

logging.basicConfig(stream=sys.stdout, format="%(message)s")
with JobCluster(compute, cpus=2) as cluster:
    print(cluster.submit(1)())
    kill_node()
    wait_for(lambda: sum(node.connected for node in cluster.status().nodes) == 0)
    wait_for(lambda: sum(node.connected for node in cluster.status().nodes) == 1)
    print(cluster.submit_node("127.0.0.1", 2)())
    print(cluster.node_jobs("127.0.0.1"))
"""
    )
    first, *told, another, value, jobs = world.run(script).splitlines()
    assert (first, value, jobs) == ("1", "2", "[]")
    # The end of its connection may be seen before its own.
    why = r"node 127\.0\.0\.1:\d+ is not usable: (the embedded node died: SIGKILL|.*connection.*)"
    assert told
    assert all(re.fullmatch(why, line) for line in told), told
    assert another == "an embedded node is started in place of the one that died"


def test_reentrant_jobs_run_again_when_the_embedded_node_dies(world: World) -> None:
    script = (
        FIND_NODE
        + """
def compute(path):
    import os, time
    with open(path, "a") as file:
        file.write("ran\\n")
    if os.path.getsize(path) == 4:
        time.sleep(60)
    return "done"

path = os.path.join(os.path.dirname(__file__), "trace")
cluster = JobCluster(compute, cpus=1, reentrant=True)
job = cluster.submit(path)
wait_for(lambda: os.path.exists(path) and os.path.getsize(path))
kill_node()
print(job(), job.status.name, cluster.close())
"""
    )
    assert world.run(script) == "done Finished True\n"


def test_the_third_death_of_embedded_nodes_within_a_minute_fails_the_cluster(world: World) -> None:
    script = (
        FIND_NODE
        + """
cluster = JobCluster(time.sleep, cpus=1)
jobs = []
for count in range(3):
    jobs.append(cluster.submit(60))
    wait_for(lambda: jobs[-1].status == DispyJob.Running)
    jobs.append(cluster.submit(60) if count == 2 else None)
    kill_node()
    jobs[-2].wait()
for job in jobs:
    if job:
        job.wait()
        print(job.status.name, job.exception)
try:
    cluster.submit(1)
except dispy_trio.ClusterFailed as exc:
    print(exc)
print(cluster.wait(), cluster.close(), nodes())
"""
    )
    lines = world.run(script).splitlines()
    for line in lines[:3]:
        assert line.startswith("Abandoned node ")
        assert line.endswith("was lost: the embedded node died: SIGKILL")
    why = "the embedded node died: SIGKILL, for the 3rd time within a minute"
    assert lines[3] == f"Abandoned the cluster ended: the cluster failed: {why}"
    assert lines[4] == f"cluster sleep failed: the cluster failed: {why}"
    assert lines[5] == "True True []"
    world.wait_until_gone()


def test_a_trio_program_is_given_another_embedded_node(world: World) -> None:
    script = (
        FIND_NODE
        + """
import trio

async def main():
    async with dispy_trio.open_cluster(time.sleep, cpus=1) as cluster:
        running, waiting = cluster.submit(60), cluster.submit(0)
        while running.status != DispyJob.Running:
            await trio.sleep(0.005)
        kill_node()
        try:
            await running.wait()
        except dispy_trio.JobAbandoned as exc:
            print(str(exc).rpartition(": the ")[2])
        print(await waiting.wait())
    # Left while jobs wait: they are waited for on the next node, too.
    async with dispy_trio.open_cluster(time.sleep, cpus=1) as cluster:
        running, waiting = cluster.submit(60), cluster.submit(0)
        while running.status != DispyJob.Running:
            await trio.sleep(0.005)
        kill_node()
    print(running.status.name, waiting.status.name)

trio.run(main)
"""
    )
    assert world.run(script).splitlines() == [
        "embedded node died: SIGKILL",
        "None",
        "Abandoned Finished",
    ]


def test_a_trio_program_is_told_when_its_embedded_nodes_die_again_and_again(world: World) -> None:
    script = (
        FIND_NODE
        + """
import trio

async def kill_thrice(cluster):
    for _ in range(3):
        job = cluster.submit(60)
        while job.status != DispyJob.Running:
            await trio.sleep(0.005)
        kill_node()
        await job.wait_ended()
    await trio.sleep_forever()

async def main():
    jobs = []
    try:
        async with dispy_trio.open_cluster(time.sleep, cpus=1, reentrant=True) as cluster:
            job = cluster.submit(60)
            while job.status != DispyJob.Running:
                await trio.sleep(0.005)
            jobs.append(job)
            for _ in range(3):
                wait_for(nodes)
                dead = kill_node()
                while dead in nodes() or not nodes():
                    await trio.sleep(0.005)
    except dispy_trio.ClusterFailed as exc:
        print(exc)
    with trio.fail_after(5):
        await jobs[0].wait_ended()
    print(jobs[0].status.name, jobs[0].exception)

trio.run(main)
"""
    )
    why = "the cluster failed: the embedded node died: SIGKILL, for the 3rd time within a minute"
    assert world.run(script).splitlines() == [why, f"Abandoned the cluster ended: {why}"]
