"""How long jobs may take: deadlines that travel, and the end of what nobody waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import dispy_trio as dispy

from .conftest import World

LIMIT = 30.0


def open_cluster(world: World, computation: Callable[..., Any], **options: Any) -> Any:
    return dispy.open_cluster(computation, secret_file=world.secret_file, **options)


def tell_deadline() -> float | None:
    from dispy_trio import job

    return job.deadline()


def write_pid_and_sleep(path: str, seconds: float = 60.0) -> None:
    with open(path + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".part", path)
    time.sleep(seconds)


def write_pid_and_be_deaf(path: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_pid_and_sleep(path)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def read_pid(world: World, path: Path) -> int:
    world.wait_until(path.exists)
    return int(path.read_text())


# --- deadlines ---------------------------------------------------------------------------------
async def test_a_job_knows_what_it_has_left(nodes: World) -> None:
    async with (
        open_cluster(nodes, tell_deadline) as cluster,
        open_cluster(nodes, take_and_tell_deadline) as other,
    ):
        assert await cluster.run() is None
        with trio.fail_after(500):
            left = await cluster.run()
            mapped = [left async for left in other.map(range(20))]
            limited = await cluster.options(timeout=100).run()
            longer = await cluster.options(timeout=5000, deadline=4000).run()
        with trio.fail_after(500):
            isolated = await cluster.options(isolation="job").run()
        told = (left, isolated, longer, *mapped)
        assert all(one is not None and 400 < one < 500 for one in told), told
        assert limited is not None
        assert 50 < limited <= 100
        assert await cluster.run() is None, "the next one has as long as it likes"
        assert await cluster.options(deadline=300).submit().wait() == pytest.approx(300, abs=50)


def take_and_tell_deadline(_number: int) -> float | None:
    return tell_deadline()


STOPPED_CLIENT = """
import sys, time, trio
import dispy_trio as dispy

def compute(path, seconds):
    import os, time
    with open(path + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".part", path)
    try:
        time.sleep(seconds)
    finally:
        open(path + ".over", "w").close()

async def main():
    async with dispy.open_cluster(compute) as cluster:
        await cluster.run(sys.argv[1] + ".first", 0)  # What starting takes is no part of it.
        with trio.move_on_after(3):
            await cluster.run(sys.argv[1], 60)

trio.run(main)
"""


def test_the_job_of_a_stopped_client_ends_at_its_deadline(world: World, tmp_path: Path) -> None:
    node = world.start_node()
    path = tmp_path / "pid"
    program = world.write("stopped.py", STOPPED_CLIENT)
    environment = {**world.environment, "DISPY_TRIO_NODES": node.address}
    client = subprocess.Popen([sys.executable, str(program), str(path)], env=environment)
    try:
        world.wait_until(path.exists)
        client.send_signal(signal.SIGSTOP)
        world.wait_until((tmp_path / "pid.over").exists)
    finally:
        client.kill()
        client.wait()


# --- the end of what nobody waits for -----------------------------------------------------------
@pytest.mark.parametrize(
    ("compute", "isolation"), [(write_pid_and_sleep, "job"), (write_pid_and_be_deaf, "worker")]
)
async def test_no_process_runs_a_job_any_more_when_its_run_is_over(
    nodes: World, tmp_path: Path, compute: Callable[[str], None], isolation: str
) -> None:
    path = tmp_path / "pid"
    async with open_cluster(nodes, compute, grace=0.3, isolation=isolation) as cluster:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.run, str(path))
                pid = await trio.to_thread.run_sync(read_pid, nodes, path)
                assert is_alive(pid)
                scope.cancel()
        assert not is_alive(pid)


# --- threads and other clusters ----------------------------------------------------------------
async def test_submitting_from_another_thread_says_how_and_queues_nothing(nodes: World) -> None:
    async with open_cluster(nodes, abs) as cluster:
        options: Any = cluster.options(timeout=50)
        for submit in (cluster.submit, options.submit):
            with pytest.raises(RuntimeError, match=r"trio.from_thread.run_sync\(cluster.submit"):
                await trio.to_thread.run_sync(submit, -1)
        assert cluster.status().jobs_pending == 0
        job = cluster.submit(-2)
        for cancel in (job.cancel, lambda: cluster.cancel(job)):
            with pytest.raises(RuntimeError, match=r"trio.from_thread.run_sync\(cluster.cancel"):
                await trio.to_thread.run_sync(cancel)
        assert await job.wait() == 2

        def submit_from_thread() -> Any:
            return trio.from_thread.run_sync(cluster.submit, -3)

        assert await (await trio.to_thread.run_sync(submit_from_thread)).wait() == 3


async def test_another_clusters_job_is_not_cancelled(nodes: World) -> None:
    async with open_cluster(nodes, abs) as cluster, open_cluster(nodes, abs) as other:
        job: Any = other.submit(-1)
        with pytest.raises(ValueError, match=f"job {job.id} is another's"):
            cluster.cancel(job)
        assert await job.wait() == 1
        wrong: Any
        for wrong in (7, None, "job"):
            with pytest.raises(TypeError, match=f"cancel takes a JobHandle, not {wrong!r}"):
                cluster.cancel(wrong)
        with pytest.raises(TypeError, match="as_completed takes a JobHandle, not 1"):
            await anext(aiter(cluster.as_completed([1, 2])))


def test_another_blocking_clusters_job_is_not_cancelled(nodes: World) -> None:
    clusters = [dispy.JobCluster(abs, secret_file=nodes.secret_file) for _ in range(2)]
    try:
        cluster, other = clusters
        job: Any = other.submit(-1)
        with pytest.raises(ValueError, match=f"job {job.id} is another's"):
            cluster.cancel(job)
        assert job() == 1
        assert cluster.cancel(dispy.DispyJob(None, (), {})) == -1
        wrong: Any
        for wrong in (7, None, "job"):
            with pytest.raises(TypeError, match=f"cancel takes a DispyJob, not {wrong!r}"):
                cluster.cancel(wrong)
        with pytest.raises(TypeError, match="as_completed takes a DispyJob, not 1"):
            list(cluster.as_completed([1, 2]))  # type: ignore[list-item]
    finally:
        for one in clusters:
            one.close()


def test_a_blocking_wait_that_is_over_in_vain_leaves_nothing_behind(nodes: World) -> None:
    cluster = dispy.JobCluster(time.sleep, secret_file=nodes.secret_file)
    try:
        job: Any = cluster.submit(1)
        for _ in range(10):
            assert not job.wait(timeout=0.01)
        assert not job.waiters
        assert job.wait(LIMIT)
    finally:
        cluster.close()
