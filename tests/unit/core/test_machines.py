"""Both machines together, without I/O: every job ends exactly once, under any order of events."""

from __future__ import annotations

import pytest

from dispy_trio.core import events as e
from dispy_trio.core.jobs import has_ended
from dispy_trio.models import JobStatus

from .pure_cluster import RESOURCES, PureCluster


@pytest.mark.parametrize("seed", range(40))
def test_every_job_ends_exactly_once(seed: int) -> None:
    cluster = PureCluster(seed, [2, 1, 4])
    cluster.submit(200)
    cluster.run()
    assert [cluster.ends[j.number] for j in cluster.jobs] == [[JobStatus.Finished]] * 200
    assert set(cluster.runs.values()) == {1}


@pytest.mark.parametrize("seed", range(40))
def test_the_jobs_of_dead_workers_are_terminated_and_no_other(seed: int) -> None:
    cluster = PureCluster(seed, [2, 2], kills=0.002)
    cluster.submit(300)
    cluster.run()
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    assert {ends[0] for ends in cluster.ends.values()} <= {
        JobStatus.Finished,
        JobStatus.Terminated,
    }
    # At most once: whatever was not started when its worker died runs elsewhere.
    assert all(cluster.runs[j.number] == 1 for j in cluster.jobs)
    for job in cluster.jobs:
        if job.state is JobStatus.Terminated:
            assert b"SIGKILL" in job.reply


@pytest.mark.parametrize("seed", range(40))
def test_a_computation_whose_process_died_goes_on_in_a_new_one(seed: int) -> None:
    cluster = PureCluster(seed, [2, 2], collapses=0.005, refusals=0.3, disconnects=2)
    cluster.submit(200)
    cluster.run()
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    assert all(cluster.runs[j.number] == 1 for j in cluster.jobs)
    for job in cluster.jobs:
        if job.state is not JobStatus.Finished:
            assert b"SIGKILL" in job.reply
    check_nothing_is_held(cluster)


def test_a_computation_whose_process_dies_again_and_again_fails() -> None:
    cluster = PureCluster(1, [2], collapses=1.0)
    cluster.submit(20)
    cluster.run()
    assert {ends[0] for ends in cluster.ends.values()} == {JobStatus.Terminated}
    for job in cluster.jobs:
        assert b"its process ended: killed by SIGKILL" in job.reply


@pytest.mark.parametrize("seed", range(40))
def test_reentrant_jobs_survive_lost_nodes_and_connections(seed: int) -> None:
    cluster = PureCluster(seed, [2, 2, 2], reentrant=True, node_losses=3, disconnects=5)
    cluster.submit(300)
    cluster.run()
    assert [cluster.ends[j.number] for j in cluster.jobs] == [[JobStatus.Finished]] * 300


@pytest.mark.parametrize("seed", range(40))
def test_other_jobs_run_at_most_once_and_are_abandoned_with_their_node(seed: int) -> None:
    cluster = PureCluster(seed, [2, 2, 2], node_losses=3, disconnects=5)
    cluster.submit(300)
    cluster.run()
    assert all(cluster.runs.get(j.number, 0) <= 1 for j in cluster.jobs)
    for job in cluster.jobs:
        ends = cluster.ends[job.number]
        assert ends in (
            [JobStatus.Finished],
            [JobStatus.Abandoned],
            [JobStatus.Abandoned, JobStatus.Finished],
        )


@pytest.mark.parametrize("seed", range(40))
def test_cancel_at_any_moment_ends_the_job_once(seed: int) -> None:
    cluster = PureCluster(seed, [2, 1], disconnects=2, cancels=0.05)
    cluster.submit(100)
    cluster.run()
    assert any(j.state is not JobStatus.Finished for j in cluster.jobs)
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    for node in cluster.nodes:
        assert node.machine._taken == 0


@pytest.mark.parametrize("seed", range(60))
def test_jobs_with_extras_end_exactly_once_and_give_back_what_they_took(seed: int) -> None:
    cluster = PureCluster(seed, [2, 1, 4], failures=0.2, kills=0.001, cancels=0.01)
    cluster.submit_special(120)
    cluster.run()
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    check_nothing_is_held(cluster)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_user_does_with_nodes_every_job_ends_once(seed: int) -> None:
    cluster = PureCluster(seed, [2, 1, 4], managing=0.02, disconnects=2, failures=0.1)
    cluster.submit_special(100)
    cluster.run()
    cluster.managing = 0.0
    cluster.restore()
    cluster.run()
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    check_nothing_is_held(cluster)


@pytest.mark.parametrize("seed", range(40))
def test_extras_survive_lost_nodes(seed: int) -> None:
    cluster = PureCluster(
        seed, [2, 2, 4], reentrant=True, node_losses=2, disconnects=4, failures=0.1
    )
    cluster.submit_special(100)
    cluster.run()
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    for job in cluster.jobs:
        if job.state is JobStatus.Abandoned:
            assert job.extras is not None
            assert job.extras.pinned or job.extras.late, "others may run anywhere"


@pytest.mark.parametrize("seed", range(60))
def test_jobs_that_are_given_up_end_once_too_and_hold_nothing(seed: int) -> None:
    cluster = PureCluster(seed, [2, 1, 4], disconnects=4, failures=0.1, cancels=0.2, gives_up=0.5)
    cluster.submit_special(120)
    cluster.run()
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    check_nothing_is_held(cluster)


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_close_completes_also_when_jobs_are_given_up(seed: int, terminate: bool) -> None:
    cluster = PureCluster(seed, [2, 1], disconnects=2, cancels=0.2, gives_up=0.5)
    cluster.submit_special(60)
    for _ in range(cluster.rng.randrange(200)):
        if actions := cluster.actions():
            cluster.rng.choice(actions)()
    cluster.tell(e.CloseRequested(1, terminate))
    cluster.run()
    assert cluster.complete
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    assert all(node.machine.idle for node in cluster.nodes)


def check_nothing_is_held(cluster: PureCluster) -> None:
    record = cluster.record
    assert (record.outstanding, record.waiting_aside) == (0, 0)
    for node in cluster.machine.nodes.values():
        assert node.extra == 0
        assert not any(node.taken.values())
        assert all(map(has_ended, node.pinned)), "these are passed over when their turn comes"
    for fake in cluster.nodes:
        assert fake.machine._taken == 0
        assert fake.machine._free == RESOURCES
        assert fake.machine._free_gpus == [0, 1]


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_close_ends_all_jobs_and_completes(seed: int, terminate: bool) -> None:
    cluster = PureCluster(seed, [2, 1], disconnects=1)
    cluster.submit(100)
    for _ in range(cluster.rng.randrange(200)):
        if actions := cluster.actions():
            cluster.rng.choice(actions)()
    cluster.tell(e.CloseRequested(1, terminate))
    cluster.run()
    assert cluster.complete
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    if not terminate:
        assert {j.state for j in cluster.jobs} == {JobStatus.Finished}
    assert all(node.machine.idle for node in cluster.nodes)


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_close_completes_also_when_the_computations_processes_die(
    seed: int, terminate: bool
) -> None:
    cluster = PureCluster(seed, [2, 1], collapses=seed / 100)
    cluster.submit(30)
    for _ in range(cluster.rng.randrange(200)):
        if actions := cluster.actions():
            cluster.rng.choice(actions)()
    cluster.tell(e.CloseRequested(1, terminate))
    cluster.run()
    assert cluster.complete
    assert all(len(cluster.ends[j.number]) == 1 for j in cluster.jobs)
    assert all(node.machine.idle for node in cluster.nodes)
