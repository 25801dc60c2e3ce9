"""Jobs that are to run on one node."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.cluster import ClusterMachine, ComputationRecord
from dispy_trio.models import Conditions, Job, JobExtras, JobOptions, JobStatus

NODE = "10.0.0.1:9701"


@pytest.fixture
def machine() -> ClusterMachine:
    machine = ClusterMachine()
    opening = messages.OpenComputation(1, "f", "00", b"bundle", 0)
    machine.computations[1] = ComputationRecord(opening, deque())
    return machine


def tell(machine: ClusterMachine, event: Any) -> list[c.ClusterCommand]:
    commands = machine.handle(event, now=0.0)
    machine.validate()
    return commands


def pin(machine: ClusterMachine, number: int) -> Job:
    job = Job(number, b"x", extras=JobExtras(pinned=NODE))
    assert tell(machine, e.JobQueued(job)) == []
    return job


def connect(machine: ClusterMachine) -> None:
    state = messages.SessionState("alpha", 2, "", [], [], [])
    tell(machine, e.NodeConnected(NODE, "i", state))


def make_ready(machine: ClusterMachine) -> list[int]:
    """The numbers of the jobs that it is given."""
    tell(machine, e.NodePrepared(NODE, 1, "i", 2, messages.ComputationOptions()))
    commands = tell(machine, e.MessageReceived(NODE, messages.ComputationReady(1)))
    sent = [command.message for command in commands if isinstance(command, c.Send)]
    runs = [message for message in sent if isinstance(message, messages.RunJobs)]
    return [number for run in runs for number in run.numbers]


def test_a_job_for_a_node_that_is_not_yet_there_waits_for_it(machine: ClusterMachine) -> None:
    early = pin(machine, 1)
    tell(machine, e.NodeLost(NODE, "nobody listens there"))
    connect(machine)
    later = pin(machine, 2)
    assert make_ready(machine) == [1, 2]
    assert early.node_key == later.node_key == NODE


def test_what_it_waits_for_can_be_told(machine: ClusterMachine) -> None:
    pin(machine, 1)
    tell(machine, e.NodeLost(NODE, "nobody listens there"))
    assert machine.parked(1) == (
        f"jobs that were submitted to node {NODE} wait: it has not answered yet"
    )


def test_it_ends_with_the_reason_when_the_node_refuses_us_for_good(machine: ClusterMachine) -> None:
    early = pin(machine, 1)
    tell(machine, e.NodeLost(NODE, "it has another secret", for_good=True))
    late = Job(2, b"x", extras=JobExtras(pinned=NODE))
    tell(machine, e.JobQueued(late))
    for job in (early, late):
        assert job.state is JobStatus.Terminated
        assert job.reply == f"node {NODE}, which it was to run on: it has another secret".encode()


def test_it_can_be_cancelled_meanwhile(machine: ClusterMachine) -> None:
    job = pin(machine, 1)
    tell(machine, e.JobCancelRequested(job))
    assert job.state is JobStatus.Cancelled
    connect(machine)
    assert make_ready(machine) == []


def test_its_cluster_does_not_close_before(machine: ClusterMachine) -> None:
    pin(machine, 1)
    assert tell(machine, e.CloseRequested(1, False)) == []
    connect(machine)
    assert make_ready(machine) == [1]


def test_it_ends_with_the_reason_when_the_node_can_t_run_it(machine: ClusterMachine) -> None:
    early = pin(machine, 1)
    connect(machine)
    tell(machine, e.NodeRefused(NODE, 1, "i", "no space left"))
    late = Job(2, b"x", extras=JobExtras(pinned=NODE))
    tell(machine, e.JobQueued(late))
    for job in (early, late):
        assert job.state is JobStatus.Terminated
        assert b"no space left" in job.reply


def test_it_ends_with_the_reason_when_the_node_is_not_used(machine: ClusterMachine) -> None:
    early = pin(machine, 1)
    connect(machine)
    tell(machine, e.NodeRefused(NODE, 1, "i", ""))
    assert early.state is JobStatus.Terminated
    assert early.reply == (
        f"node alpha ({NODE}), which it was to run on: the cluster does not use it".encode()
    )


def test_a_job_with_options_is_not_kept_by_one_that_was_cancelled_before_it(
    machine: ClusterMachine,
) -> None:
    plain = Job(1, b"x")
    machine.computations[1].queue.append(plain)
    tell(machine, e.JobsSubmitted())
    tell(machine, e.JobCancelRequested(plain))
    assert plain.state is JobStatus.Cancelled
    options = JobOptions(Conditions(timeout=5.0))
    assert tell(machine, e.JobQueued(Job(2, b"x", extras=JobExtras(options)))) == []
    connect(machine)
    assert make_ready(machine) == [2]
