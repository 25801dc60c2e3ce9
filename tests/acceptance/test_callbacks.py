"""Programs whose callbacks submit, drop results, block, or exit."""

from __future__ import annotations

import sys

import pytest

from .conftest import LIMIT, World

PRELUDE = """
import logging, os, sys, threading, time
import dispy_trio as dispy

def double(n):
    return 2 * n
"""


@pytest.mark.parametrize("how", ["wait", "close", "with"])
def test_callbacks_submit_while_the_program_waits(nodes: World, how: str) -> None:
    out = nodes.run(
        PRELUDE
        + f"""
def job_status(job):
    results.append(job.result)
    if job.result < 2 ** 8:
        cluster.submit(job.result)

for _ in range(4):
    results = []
    cluster = dispy.JobCluster(double, job_status=job_status)
    if {how!r} == "with":
        with cluster:
            cluster.submit(1)
    else:
        cluster.submit(1)
        assert cluster.{"close" if how == "with" else how}() is {None if how == "with" else True}
    assert results == [2 ** n for n in range(1, 9)], results
    cluster.close()
    try:
        cluster.submit(1)
    except dispy.ClusterClosed:
        print("refused")
"""
    )
    assert out == "refused\n" * 4


def test_no_more_jobs_wait_than_a_bound_when_callbacks_drop_their_results(nodes: World) -> None:
    out = nodes.run(
        PRELUDE
        + """
LOWER, UPPER = 5, 20

def job_status(job):
    if job.status in (dispy.DispyJob.Finished, dispy.DispyJob.Terminated):
        with changed:
            done = pending.pop(job.id, None)
            total.append(job.result)
            job.result = None
            job.stdout = job.stderr = None
            if done is not None:
                assert done.result is None
            if len(pending) <= LOWER:
                changed.notify()

changed = threading.Condition()
pending, total = {}, []
cluster = dispy.JobCluster(double, job_status=job_status)
most = 0
for n in range(300):
    with changed:
        job = cluster.submit_job_id(f"job {n}", n)
        pending[job.id] = job
        most = max(most, len(pending))
        if len(pending) >= UPPER:
            while len(pending) > LOWER:
                changed.wait()
assert cluster.wait()
print(len(pending), most, sum(total))
cluster.close()
"""
    )
    assert out == f"0 20 {sum(range(300)) * 2}\n"


BLOCKED = (
    PRELUDE
    + """
def job_status(job):
    print("called", flush=True)
    threading.Event().wait()

def sleep(n):
    import time
    time.sleep(n)

cluster = dispy.JobCluster(sleep, job_status=job_status)
cluster.submit(0)()
"""
)


def test_a_callback_that_blocks_keeps_neither_wait_nor_close_nor_the_end_of_the_program(
    nodes: World,
) -> None:
    out = nodes.run(
        BLOCKED
        + """
cluster.submit(1000)
print(cluster.wait(0.1), cluster.close(timeout=0.1))
print(cluster.close(timeout=0.1, terminate=True))
try:
    cluster.submit(0)
except dispy.ClusterClosed as exc:
    print(exc)
"""
    )
    closed = "cluster sleep is closed and takes no more jobs"
    assert out == f"called\nFalse False\nTrue\n{closed}\n"


def test_ctrl_c_ends_a_program_whose_callback_blocks(nodes: World) -> None:
    program = nodes.start(
        sys.executable, nodes.write("blocked.py", BLOCKED + "raise KeyboardInterrupt\n")
    )
    out, err = program.communicate(timeout=LIMIT)
    assert out == "called\n"
    assert "KeyboardInterrupt" in err
    assert "cluster sleep is closed, and 2 of its callbacks have not returned" not in err
    assert "cluster sleep is closed, and 1 of its callbacks have not returned" in err


def test_a_callback_that_exits_is_told_and_the_next_is_called(nodes: World) -> None:
    program = nodes.start(
        sys.executable,
        nodes.write(
            "exiting.py",
            PRELUDE
            + """
def job_status(job):
    print("called", flush=True)
    if job.result == 0:
        raise KeyboardInterrupt
    sys.exit(3)

with dispy.JobCluster(double, job_status=job_status) as cluster:
    for n in range(3):
        cluster.submit(n)
    assert cluster.wait(20)
print("closed")
""",
        ),
    )
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, out) == (0, "called\n" * 3 + "closed\n")
    assert err.count("a status callback failed") == 3
    assert err.count("SystemExit: 3") == 2
    assert err.count("KeyboardInterrupt") >= 1
