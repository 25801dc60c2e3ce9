"""A cluster that is closed ends, whichever way its last job does; and what counts as pending."""

from __future__ import annotations

import math
from collections import deque

import pytest

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.cluster import RETURN_SECONDS, ClusterMachine, ComputationRecord
from dispy_trio.core.jobs import has_ended
from dispy_trio.models import Job, JobStatus

from .pure_cluster import PureCluster


def one_node(jobs: int) -> tuple[ClusterMachine, list[Job]]:
    """A machine with a node of one slot that has the first of some jobs."""
    opening = messages.OpenComputation(1, "f", "00", b"bundle", 0)
    machine = ClusterMachine()
    machine.computations[1] = ComputationRecord(opening, deque())
    made = [Job(number, b"x") for number in range(1, jobs + 1)]
    tell(machine, e.NodeConnected("n", "1", messages.SessionState("n", 1, "here", [], [], [])))
    tell(machine, e.NodePrepared("n", 1, "1", 0, messages.ComputationOptions()))
    tell(machine, e.MessageReceived("n", messages.ComputationReady(1)))
    machine.computations[1].queue.extend(made)
    tell(machine, e.JobsSubmitted())
    assert list(machine.nodes["n"].outstanding) == [1]
    return machine, made


def tell(machine: ClusterMachine, event: object) -> list[c.ClusterCommand]:
    commands = machine.handle(event, now=0.0)  # type: ignore[arg-type]
    machine.validate()
    return commands


def sent(commands: list[c.ClusterCommand]) -> list[messages.Message]:
    return [command.message for command in commands if isinstance(command, c.Send)]


def test_a_cancelled_job_that_its_node_gives_back_is_the_last_one_to_wait_for() -> None:
    machine, (job,) = one_node(1)
    tell(machine, e.JobCancelRequested(job))
    assert sent(tell(machine, e.CloseRequested(1, terminate=False))) == []
    commands = tell(machine, e.MessageReceived("n", messages.JobsReturned(1, [1])))
    assert job.state is JobStatus.Cancelled
    assert sent(commands) == [messages.CloseComputation(1, False)]
    commands = tell(machine, e.MessageReceived("n", messages.ComputationClosed(1)))
    assert any(isinstance(command, c.CloseComplete) for command in commands)


@pytest.mark.parametrize("seed", range(40))
def test_a_close_completes_whatever_is_cancelled_and_whatever_breaks(seed: int) -> None:
    cluster = PureCluster(
        seed,
        [2, 1, 3],
        reentrant=seed % 2 == 0,
        cancels=0.1,
        failures=0.1,
        collapses=0.01,
        disconnects=3,
        node_losses=seed % 3,
    )
    cluster.submit_special(60)
    for _ in range(cluster.rng.randrange(400)):
        if actions := cluster.actions():
            cluster.rng.choice(actions)()
    cluster.tell(e.CloseRequested(1, terminate=False))
    cluster.run()
    assert cluster.complete
    assert all(len(cluster.ends[job.number]) == 1 for job in cluster.jobs)
    assert cluster.record.pending == 0


def test_what_was_cancelled_in_the_queue_is_not_pending() -> None:
    machine, jobs = one_node(5)
    record = machine.computations[1]
    assert record.pending == 5
    for job in jobs[1:4]:
        tell(machine, e.JobCancelRequested(job))
    assert record.pending == 2, "one runs, one waits"
    tell(machine, e.MessageReceived("n", finished(jobs[0])))
    assert record.pending == 1
    assert list(machine.nodes["n"].outstanding) == [5], "those before it are passed over"
    tell(machine, e.MessageReceived("n", finished(jobs[4])))
    assert record.pending == 0
    assert all(map(has_ended, jobs))


def finished(job: Job) -> messages.JobsFinished:
    return messages.JobsFinished([job.number], [job.attempt], [0], [1.0], [2.0], [b""], {}, {}, {})


def test_a_cancel_that_was_lost_with_the_connection_is_said_again() -> None:
    machine, (job, other) = one_node(2)
    tell(machine, e.NodeDisconnected("n", "cut"))
    tell(machine, e.JobCancelRequested(job))
    state = messages.SessionState("n", 1, "here", [1], [job.attempt], [1])
    commands = tell(machine, e.NodeConnected("n", "1", state))
    assert messages.CancelJobs([1], [job.attempt]) in sent(commands)
    assert not has_ended(other)


def test_a_node_that_is_away_has_a_moment_to_hear_that_all_is_to_end() -> None:
    machine, (job,) = one_node(1)
    tell(machine, e.NodeDisconnected("n", "reset"))
    tell(machine, e.CloseRequested(1, terminate=True))
    assert not has_ended(job)
    assert machine.next_deadline() == RETURN_SECONDS
    state = messages.SessionState("n", 1, "here", [1], [job.attempt], [1])
    assert messages.CloseComputation(1, True) in sent(
        tell(machine, e.NodeConnected("n", "1", state))
    )


def test_who_does_not_come_back_in_that_moment_is_lost() -> None:
    machine, (job,) = one_node(1)
    tell(machine, e.CloseRequested(1, terminate=True))
    tell(machine, e.NodeDisconnected("n", "reset"))
    commands = machine.handle(e.Tick(), now=machine.next_deadline())
    machine.validate()
    assert job.state is JobStatus.Abandoned
    assert any(isinstance(command, c.CloseComplete) for command in commands)
    assert machine.next_deadline() == math.inf


@pytest.mark.parametrize("seed", range(20))
def test_all_jobs_of_a_cluster_whose_engine_is_gone_end_with_the_reason(seed: int) -> None:
    cluster = PureCluster(seed, [2, 1], cancels=0.05, disconnects=2, managing=0.02)
    cluster.submit_special(40)
    for _ in range(cluster.rng.randrange(300)):
        if actions := cluster.actions():
            cluster.rng.choice(actions)()
    before = {job.number for job in cluster.jobs if has_ended(job)}
    ended = cluster.machine.give_up("its engine is gone")
    cluster.machine.validate()
    assert {job.number for job in ended} == {j.number for j in cluster.jobs} - before
    assert all(has_ended(job) for job in cluster.jobs)
    assert {bytes(job.reply) for job in ended} <= {b"its engine is gone"}
    assert {job.state for job in ended} <= {JobStatus.Abandoned}
    assert cluster.record.pending == 0
    assert cluster.machine.give_up("again") == []
