"""What dispy programs rely on, row by row: numbers, the order of callbacks, return values.

Each test names the row of dispy's own behaviour that it asserts. Clusters are made in this process,
nodes are processes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

import dispy_trio as dispy

from .conftest import World

LIMIT = 30.0


@define
class Log:
    """What a cluster's callbacks were told, in order."""

    entries: list[tuple[str, int, Any]] = field(factory=list)
    """Which callback, the status, and the job's id or the node's address."""
    changed: threading.Condition = field(factory=threading.Condition)

    def job_status(self, job: Any) -> None:
        with self.changed:
            self.entries.append(("job", int(job.status), job.id))
            self.changed.notify_all()

    def cluster_status(self, status: int, node: Any, job: Any) -> None:
        with self.changed:
            self.entries.append(("cluster", int(status), job.id if job else node.ip_addr))
            self.changed.notify_all()

    def wait_for(self, *entry: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: entry in self.entries, LIMIT), self.entries

    def of(self, subject: Any) -> list[tuple[str, int]]:
        return [(which, status) for which, status, about in self.entries if about == subject]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def make(world: World, two_nodes: list[str]) -> Iterator[Any]:
    """Makes clusters on the two nodes, and ends them."""
    made: list[Any] = []

    def make(computation: Any, **options: Any) -> Any:
        options.setdefault("nodes", two_nodes)
        cluster = dispy.JobCluster(computation, secret_file=world.secret_file, **options)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close(terminate=True)


def double(n: float) -> float:
    return 2 * n


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def fail() -> None:
    raise ValueError("on purpose")


def wait_running(job: Any) -> None:
    until = time.monotonic() + LIMIT
    while job.status == job.Created:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert job.status in (job.Running, job.ProvisionalResult), job.status


# --- 2.1 constants -----------------------------------------------------------------------------
def test_row_2_1_status_numbers() -> None:
    job, node = dispy.DispyJob, dispy.DispyNode
    assert [
        node.Initialized,
        job.Created,
        job.Running,
        job.ProvisionalResult,
        job.Cancelled,
        job.Terminated,
        job.Abandoned,
        job.Finished,
        node.Closed,
        node.AvailInfo,
    ] == [4, 5, 6, 7, 8, 9, 10, 11, 16, 17]


# --- 2.2 and 2.4 jobs and callbacks ------------------------------------------------------------
def test_row_2_4_order_per_job_created_running_final(make: Any, log: Log) -> None:
    cluster = make(double, job_status=log.job_status, cluster_status=log.cluster_status)
    jobs = [cluster.submit_job_id(f"j{n}", n) for n in range(1, 50)]
    cluster.wait()
    for job in jobs:
        assert log.of(job.id) == [("cluster", 5), ("cluster", 6), ("job", 11), ("cluster", 11)]


def test_row_2_4_provisional_results_come_in_order_before_the_end(make: Any, log: Log) -> None:
    seen: list[Any] = []

    def job_status(job: Any) -> None:
        log.job_status(job)
        seen.append((int(job.status), job.result))

    def count(n: int) -> str:
        for i in range(n):
            assert dispy_provisional_result(i) == 0  # noqa: F821 - nodes know it
        return "end"

    cluster = make(count, job_status=job_status, cluster_status=log.cluster_status)
    job = cluster.submit_job_id("p", 3)
    cluster.wait()
    assert seen == [(7, 0), (7, 1), (7, 2), (11, "end")]
    provisional = [("job", 7), ("cluster", 7)] * 3
    assert log.of("p") == [
        ("cluster", 5),
        ("cluster", 6),
        *provisional,
        ("job", 11),
        ("cluster", 11),
    ]
    assert job.result == "end"


def test_row_2_4_large_provisional_results_keep_their_order(make: Any) -> None:
    seen: list[int] = []

    def job_status(job: Any) -> None:
        seen.append(len(job.result) if job.status == job.ProvisionalResult else -1)

    def send(size: int) -> str:
        assert dispy_provisional_result(bytes(size)) == 0  # noqa: F821
        assert dispy_provisional_result(b"small") == 0  # noqa: F821
        return "end"

    cluster = make(send, job_status=job_status)
    cluster.submit(3_000_000)
    cluster.wait()
    assert seen == [3_000_000, 5, -1]


def test_row_2_4_a_callback_gets_a_copy_and_its_result_is_the_jobs_own(make: Any) -> None:
    taken: list[Any] = []
    cluster = make(double, job_status=taken.append)
    job = cluster.submit(4)
    job.id = "mine"
    cluster.wait()
    (copy,) = taken
    assert copy is not job
    assert copy.number == job.number
    assert copy.id == "mine"
    assert copy.result == 8
    assert copy() == 8
    assert copy.finish.is_set()


def test_row_2_4_callbacks_run_one_at_a_time_and_may_use_the_cluster(make: Any) -> None:
    running = threading.Lock()
    again: list[Any] = []

    def job_status(job: Any) -> None:
        assert running.acquire(blocking=False)
        if len(again) < 3:
            again.append(cluster.submit(job.result))
        running.release()

    cluster = make(double, job_status=job_status)
    cluster.submit(1)
    until = time.monotonic() + LIMIT
    while len(again) < 3:
        assert time.monotonic() < until
        cluster.wait()
    assert [job() for job in again] == [4, 8, 16]


def test_row_2_4_wait_and_close_return_after_the_callbacks(make: Any) -> None:
    done: list[int] = []

    def slow(job: Any) -> None:
        time.sleep(0.02)
        done.append(job.id)

    cluster = make(double, job_status=slow)
    for n in range(10):
        cluster.submit(n)
    cluster.wait()
    assert len(done) == 10
    for n in range(5):
        cluster.submit(n)
    cluster.close()
    assert len(done) == 15


def test_row_2_4_a_callback_that_raises_is_logged_and_the_next_is_called(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []

    def job_status(job: Any) -> None:
        called.append(job.result)
        raise RuntimeError("in a callback")

    cluster = make(double, job_status=job_status)
    for n in range(3):
        cluster.submit(n)
    cluster.wait()
    assert sorted(called) == [0, 2, 4]
    assert "in a callback" in caplog.text


def test_row_2_2_exception_ends_terminated_with_its_traceback(make: Any, log: Log) -> None:
    cluster = make(fail, job_status=log.job_status, cluster_status=log.cluster_status)
    job = cluster.submit_job_id("f")
    assert job() is None
    cluster.wait()
    assert job.status == dispy.DispyJob.Terminated
    assert "ValueError: on purpose" in job.exception
    assert log.of("f") == [("cluster", 5), ("cluster", 6), ("job", 9), ("cluster", 9)]


def test_row_2_2_queued_job_is_cancelled_and_a_running_one_terminated(make: Any, log: Log) -> None:
    cluster = make(sleep, job_status=log.job_status, cluster_status=log.cluster_status)
    jobs = [cluster.submit_job_id(f"s{n}", 60) for n in range(6)]
    for job in jobs[:4]:
        wait_running(job)
    assert [cluster.cancel(job) for job in reversed(jobs)] == [0] * 6
    cluster.wait()
    assert [int(job.status) for job in jobs] == [9] * 4 + [8] * 2
    assert jobs[5].exception is None
    assert jobs[0].exception is None
    assert cluster.cancel(jobs[0]) == -1
    assert log.of("s5") == [("cluster", 5), ("job", 8), ("cluster", 8)]
    assert log.of("s0")[-2:] == [("job", 9), ("cluster", 9)]


def test_row_2_2_abandoned_jobs_end_and_both_callbacks_hear_of_it(
    world: World, make: Any, log: Log
) -> None:
    node = world.start_node("127.0.0.4", "--cpus", "1")
    cluster = make(
        sleep,
        nodes=[node.address],
        pulse_interval=0.2,
        job_status=log.job_status,
        cluster_status=log.cluster_status,
    )
    job = cluster.submit_job_id("lost", 60)
    wait_running(job)
    node.process.kill()
    assert job() is None
    assert job.status == dispy.DispyJob.Abandoned
    assert "was lost" in job.exception
    assert cluster.wait(LIMIT) is True
    assert log.of("lost")[-2:] == [("job", 10), ("cluster", 10)]
    log.wait_for("cluster", 16, "127.0.0.4")


def test_row_2_2_reentrant_jobs_run_elsewhere_and_cluster_status_says_abandoned(
    world: World, make: Any, log: Log, two_nodes: list[str], tmp_path: Path
) -> None:
    node = world.start_node("127.0.0.4", "--cpus", "1")
    go_on = tmp_path / "go on"

    def wait_for_file(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.01)
        return str(dispy_node_ip_addr)  # noqa: F821

    cluster = make(
        wait_for_file,
        nodes=[node.address],
        reentrant=True,
        pulse_interval=0.2,
        cluster_status=log.cluster_status,
    )
    job = cluster.submit_job_id("moved", str(go_on))
    wait_running(job)
    node.process.kill()
    log.wait_for("cluster", 10, "moved")
    assert cluster.allocate_node(two_nodes[0]) == 0
    go_on.touch()
    assert job() == "127.0.0.2"
    cluster.wait()
    assert [status for _, status in log.of("moved")] == [5, 6, 10, 6, 11]


# --- 2.3 nodes ---------------------------------------------------------------------------------
def test_row_2_3_initialized_availinfo_and_closed_of_each_node(make: Any, log: Log) -> None:
    cluster = make(double, cluster_status=log.cluster_status, pulse_interval=0.2)
    for address in ("127.0.0.2", "127.0.0.3"):
        log.wait_for("cluster", 4, address)
        log.wait_for("cluster", 17, address)
    infos = [node.avail_info for node in cluster.status().nodes]
    assert all(0 <= info.cpu <= 100 and info.memory > 0 and info.disk > 0 for info in infos)
    assert all(0 <= info.swap <= 100 for info in infos)
    cluster.close()
    for address in ("127.0.0.2", "127.0.0.3"):
        assert [s for _, s in log.of(address) if s != 17] == [4, 16]


def test_row_2_3_a_failed_setup_is_told_with_its_traceback_and_ends_waiting_jobs(
    make: Any, log: Log
) -> None:
    told: list[str] = []

    def cluster_status(status: int, node: Any, job: Any) -> None:
        log.cluster_status(status, node, job)
        if status == node_closed and node.error:
            told.append(node.error)

    def setup() -> int:
        raise OSError("no data here")

    node_closed = dispy.DispyNode.Closed
    cluster = make(double, setup=setup, cluster_status=cluster_status)
    job = cluster.submit(1)
    assert job() is None
    assert job.status == dispy.DispyJob.Terminated
    assert "OSError: no data here" in job.exception
    later = cluster.submit(2)
    assert later() is None
    assert "OSError: no data here" in later.exception
    cluster.close()
    assert len(told) == 2
    assert all("OSError: no data here" in text for text in told)
    assert "template.py" not in told[0]


# --- 1.3 methods of clusters -------------------------------------------------------------------
def test_row_1_3_submit_node_pins_and_unknown_nodes_give_none(make: Any, log: Log) -> None:
    def where() -> str:
        return str(dispy_node_ip_addr)  # noqa: F821

    cluster = make(where, cluster_status=log.cluster_status)
    log.wait_for("cluster", 4, "127.0.0.2")
    log.wait_for("cluster", 4, "127.0.0.3")
    nodes = cluster.status().nodes
    assert [cluster.submit_node(node)() for node in nodes] == [node.ip_addr for node in nodes]
    jobs = [cluster.submit_node("127.0.0.3") for _ in range(20)]
    assert {job() for job in jobs} == {"127.0.0.3"}
    assert {job.ip_addr for job in jobs} == {job.host for job in jobs} == {"127.0.0.3"}
    named = cluster.submit_job_id_node("mine", "127.0.0.2")
    assert (named.id, named()) == ("mine", "127.0.0.2")
    assert cluster.submit_node("127.0.0.9") is None


def test_row_1_3_deallocate_allocate_and_close_node(make: Any, log: Log) -> None:
    def where() -> str:
        return str(dispy_node_ip_addr)  # noqa: F821

    cluster = make(where, cluster_status=log.cluster_status)
    log.wait_for("cluster", 4, "127.0.0.2")
    log.wait_for("cluster", 4, "127.0.0.3")
    assert cluster.deallocate_node("127.0.0.2") == 0
    assert {cluster.submit()() for _ in range(20)} == {"127.0.0.3"}
    assert cluster.allocate_node("127.0.0.2") == 0
    assert cluster.deallocate_node("127.0.0.3") == 0
    assert {cluster.submit()() for _ in range(20)} == {"127.0.0.2"}
    assert cluster.allocate_node(["127.0.0.3"]) == 0
    assert cluster.close_node("127.0.0.2") == 0
    log.wait_for("cluster", 16, "127.0.0.2")
    assert {cluster.submit()() for _ in range(20)} == {"127.0.0.3"}
    assert cluster.submit_node("127.0.0.2") is None
    for method in (cluster.deallocate_node, cluster.close_node, cluster.resetup_node):
        assert method("127.0.0.9") == -1
    assert cluster.allocate_node(17) == -1


def test_row_1_3_close_node_ends_its_pinned_jobs(make: Any, log: Log) -> None:
    cluster = make(sleep, cluster_status=log.cluster_status)
    log.wait_for("cluster", 4, "127.0.0.2")
    jobs = [cluster.submit_node("127.0.0.2", 0.5) for _ in range(5)]
    for job in jobs[:2]:
        wait_running(job)
    assert cluster.close_node("127.0.0.2") == 0
    assert cluster.wait(LIMIT)
    assert [int(job.status) for job in jobs] == [11, 11, 8, 8, 8]


def test_row_1_3_node_jobs_and_set_node_cpus(make: Any, log: Log) -> None:
    cluster = make(sleep, cluster_status=log.cluster_status)
    log.wait_for("cluster", 4, "127.0.0.2")
    assert cluster.set_node_cpus("127.0.0.2", 1) == 1
    assert cluster.set_node_cpus("127.0.0.2", 17) == 2
    assert cluster.set_node_cpus("127.0.0.2", -1) == 1
    assert cluster.set_node_cpus("127.0.0.9", 1) == -1
    assert cluster.node_jobs("127.0.0.9") == -1
    assert cluster.node_jobs("127.0.0.2") == []
    jobs = [cluster.submit_node("127.0.0.2", 60) for _ in range(3)]
    wait_running(jobs[0])
    assert cluster.node_jobs("127.0.0.2") == jobs[:1]
    assert jobs[1].status == dispy.DispyJob.Created
    assert cluster.set_node_cpus("127.0.0.2", 2) == 2
    wait_running(jobs[1])
    assert cluster.node_jobs("127.0.0.2") == jobs[:2]


def test_row_1_3_wait_close_and_status(make: Any) -> None:
    cluster = make(sleep)
    job = cluster.submit(60)
    wait_running(job)
    assert cluster.wait(0.05) is False
    assert cluster(0.05) is False
    assert cluster.close(timeout=0.05) is False
    status = cluster.status()
    assert status.jobs_pending == 1
    nodes, pending = status
    assert (pending, len(nodes)) == (1, 2)
    assert cluster.close(timeout=0.05, terminate=True) is True
    assert job() is None
    assert job.status == dispy.DispyJob.Terminated
    assert cluster.close() is None
    with pytest.raises(dispy.ClusterClosed):
        cluster.submit(1)
    assert cluster.name == "sleep"


def test_row_1_3_close_terminate_ends_every_job(make: Any) -> None:
    cluster = make(sleep)
    jobs = [cluster.submit(60) for _ in range(50)]
    wait_running(jobs[0])
    assert cluster.close(terminate=True) is True
    assert all(job.finish.is_set() and job() is None for job in jobs)
    assert {int(job.status) for job in jobs} == {8, 9}


def test_row_1_3_context_manager_swallows_nothing(make: Any) -> None:
    cluster = make(sleep)

    def leave_by_an_error() -> None:
        with cluster:
            cluster.submit(60)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_by_an_error()


def test_row_1_3_print_status_has_all_columns(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = make(double)
    for n in range(10):
        cluster.submit(n)
    cluster.wait()
    cluster.print_status(wall_time=1.0)
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert [column.strip() for column in head.split("|")] == [
        "Node",
        "CPUs",
        "Jobs",
        "Sec/Job",
        "Node Time Sec",
        "Sent",
        "Rcvd",
    ]
    assert set(line) == {"-"}
    jobs = [int(row.split("|")[2]) for row in rows if row.startswith("127.")]
    assert sum(jobs) == 10
    assert any("wall time: 1.000 sec" in row for row in rows)
    cluster.stats()


# --- 1.4 jobs ----------------------------------------------------------------------------------
def test_row_1_4_attributes_of_a_job(make: Any) -> None:
    def talk(n: int) -> int:
        sys.stdout.write(f"out {n}\n")
        sys.stderr.write(f"err {n}\n")
        return n

    cluster = make(talk)
    before = time.time()
    first, second = cluster.submit(1), cluster.submit(2)
    assert second.id == first.id + 1
    assert first < second
    assert first() == 1
    assert first.result == 1
    assert (first.stdout, first.stderr) == ("out 1\n", "err 1\n")
    assert before <= first.submit_time <= first.start_time <= first.end_time <= time.time()
    assert first.exception is None
    assert first.finish.is_set()
    assert first(clear=True) == 1
    assert not first.finish.is_set()
    assert cluster.submit_job_id("name", 3).id == "name"
    assert isinstance(cluster.submit_job_id(0, 3).id, int)


# --- 1.5 and 1.6 nodes -------------------------------------------------------------------------
def test_row_1_5_forms_of_nodes_and_setup_args(make: Any, two_nodes: list[str]) -> None:
    def setup(name: str) -> int:
        global given
        given = name
        return 0

    def tell() -> tuple[str, str]:
        time.sleep(0.05)  # Long enough for the jobs to be spread.
        return dispy_node_ip_addr, given  # type: ignore[name-defined]  # noqa: F821

    ports = [int(address.rpartition(":")[2]) for address in two_nodes]
    cluster = make(
        tell,
        setup=setup,
        nodes=[
            ("127.0.0.2", ports[0], 1, [], ("tuple",)),
            {"host": "127.0.0.3", "port": ports[1], "setup_args": ("dict",)},
        ],
    )
    told: set[Any] = set()
    until = time.monotonic() + LIMIT
    while len(told) < 2:
        assert time.monotonic() < until
        told |= {job() for job in [cluster.submit() for _ in range(8)]}
    assert told == {("127.0.0.2", "tuple"), ("127.0.0.3", "dict")}
    by_address = {node.ip_addr: node for node in cluster.status().nodes}
    assert (by_address["127.0.0.2"].cpus, by_address["127.0.0.2"].avail_cpus) == (1, 2)
    assert by_address["127.0.0.3"].cpus == 2


def test_row_1_5_an_overridden_allocate_decides(make: Any, two_nodes: list[str]) -> None:
    asked: list[Any] = []

    class Filter(dispy.NodeAllocate):
        def allocate(
            self,
            cluster: Any,
            ip_addr: str,
            name: str,
            cpus: int,
            avail_info: Any = None,
            platform: str = "",
        ) -> int:
            asked.append((cluster, ip_addr, cpus, type(avail_info), platform.startswith("Linux")))
            return 1 if ip_addr.endswith(".3") else 0

    def where() -> str:
        return str(dispy_node_ip_addr)  # noqa: F821

    cluster = make(where, nodes=[Filter(address) for address in two_nodes])
    assert {cluster.submit()() for _ in range(10)} == {"127.0.0.3"}
    assert {a[1:] for a in asked} == {
        (f"127.0.0.{n}", 2, dispy.DispyNodeAvailInfo, True) for n in (2, 3)
    }
    assert all(a[0] is cluster for a in asked)


def test_row_1_5_an_allocate_that_raises_ends_the_jobs_and_says_why(
    make: Any, two_nodes: list[str]
) -> None:
    class Broken(dispy.NodeAllocate):
        def allocate(self, *args: Any, **kwargs: Any) -> int:
            raise LookupError("which one?")

    cluster = make(double, nodes=[Broken(address) for address in two_nodes])
    job = cluster.submit(1)
    assert job() is None
    assert "LookupError: which one?" in job.exception


def test_row_1_5_setup_args_that_cannot_be_sent_end_the_jobs_and_say_why(
    make: Any, two_nodes: list[str]
) -> None:
    nodes = [dispy.NodeAllocate(address, setup_args=(threading.Lock(),)) for address in two_nodes]
    cluster = make(double, nodes=nodes, setup=lambda lock: 0)
    job = cluster.submit(1)
    assert job() is None
    assert f"the setup_args of node {two_nodes[0].rpartition('.')[0]}" in job.exception
    assert "cannot be pickled" in job.exception


def test_row_1_6_node_attributes(make: Any) -> None:
    cluster = make(double)
    for n in range(20):
        cluster.submit(n)
    cluster.wait()
    nodes = cluster.status().nodes
    assert sum(node.jobs_done for node in nodes) == 20
    assert {node.busy for node in nodes} == {0}
    assert all(node.tx > 0 and node.rx > 0 for node in nodes if node.jobs_done)
    assert all(node.name and node.platform and node.connected for node in nodes)
    assert all(node.update_time > 0 and node.cpu_time >= 0 for node in nodes)
