"""A job's deadline holds on its node, whether its client is there to stop it or not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.slots import DUE_SLACK
from dispy_trio.errors import ProtocolError
from dispy_trio.models import (
    GRACE,
    KILL_SECONDS,
    Conditions,
    Job,
    JobExtras,
    JobOptions,
    JobStatus,
    Outcome,
)
from dispy_trio.protocol import codec
from dispy_trio.protocol.framing import FRAME_HEADER
from dispy_trio.protocol.splitting import halves

from .test_later_tries import Client
from .test_node_shortage import CLIENT, Node, died


def run_timed(
    node: Node, left: list[float], first: int = 1, conditions: Conditions | None = None
) -> None:
    numbers = list(range(first, first + len(left)))
    message = messages.RunJobs(
        1, numbers, [0] * len(left), [b"x"] * len(left), [], conditions, left
    )
    node.tell(e.MessageReceived(CLIENT, message))


def open_node(slots: int = 1, grace: float = GRACE) -> Node:
    node = Node(slots)
    options = messages.ComputationOptions(grace=grace)
    opening = messages.OpenComputation(1, "f", "00", b"bundle", 0, options)
    node.tell(e.MessageReceived(CLIENT, opening))
    node.report(1, seams.TemplateReady())
    return node


def begin(node: Node) -> int:
    (worker,) = node.started()
    node.begin(1, [worker])
    return worker


def climb(node: Node) -> list[tuple[str, float]]:
    """The rungs of the ladder, and when they come."""
    kinds = (c.InterruptJob, c.TerminateJob, c.KillWorker)
    rungs: list[tuple[str, float]] = []
    while node.machine.next_deadline() < math.inf and len(rungs) < len(kinds):
        node.tick()
        rungs += [(kind.__name__, node.now) for kind in kinds for _ in node.taken(kind)]
    return rungs


# --- on the node -------------------------------------------------------------------------------
@pytest.mark.parametrize("is_there", [True, False])
def test_a_running_job_is_stopped_at_its_deadline_also_when_its_client_is_away(
    is_there: bool,
) -> None:
    node = open_node()
    run_timed(node, [10.0])
    worker = begin(node)
    if not is_there:
        node.tell(e.SessionDisconnected(CLIENT))
    (name, when), *_ = climb(node)
    assert name == "InterruptJob"
    assert 10.0 + DUE_SLACK <= when <= 10.3 + DUE_SLACK
    interrupted = seams.WorkerResult(1, Outcome.CANCELLED, 0.0, 1.0, b"cancelled while it ran")
    node.report(1, seams.WorkerResults(worker, [interrupted]))
    ended = node.machine.sessions[CLIENT].ended[1]
    assert (ended.outcome, ended.payload) == (Outcome.TIMED_OUT, b"its deadline has passed")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_waiting_job_ends_at_its_deadline_and_those_round_it_wait_on(is_there: bool) -> None:
    node = open_node()
    run_timed(node, [100.0])
    begin(node)
    run_timed(node, [50.0, 5.0, 1e9], first=2)
    node.run(1, [5])
    if not is_there:
        node.tell(e.SessionDisconnected(CLIENT))
    session = node.machine.sessions[CLIENT]
    while session.jobs.keys() >= {3}:
        node.tick()
    assert 5.0 + DUE_SLACK <= node.now <= 5.1 + DUE_SLACK
    assert session.jobs.keys() == {1, 2, 4, 5}
    assert session.ended[3].outcome == Outcome.TIMED_OUT
    while session.jobs.keys() >= {2}:
        node.tick()
    assert 50.0 + DUE_SLACK <= node.now <= 50.1 + DUE_SLACK


def test_a_job_that_comes_back_from_a_dead_worker_keeps_its_deadline() -> None:
    node = open_node()
    run_timed(node, [5.0])
    worker = begin(node)
    node.now = 1.0
    node.report(1, died(worker, started=0))
    session = node.machine.sessions[CLIENT]
    while session.jobs:  # No new worker comes.
        node.tick()
    assert 5.0 + DUE_SLACK <= node.now <= 5.1 + DUE_SLACK


@pytest.mark.parametrize(
    ("timeout", "left", "expected", "text"),
    [
        (2.0, 10.0, 2.0, b"ran longer than its timeout of 2 s"),
        (10.0, 2.0, 2.0 + DUE_SLACK, b"its deadline has passed"),
    ],
)
def test_of_timeout_and_deadline_the_earlier_one_counts(
    timeout: float, left: float, expected: float, text: bytes
) -> None:
    node = open_node()
    run_timed(node, [left], conditions=Conditions(timeout=timeout))
    worker = begin(node)
    ((job,),) = [command.jobs for command in node.taken(c.SendJobsToWorker)]  # type: ignore[attr-defined]
    assert job.settings["left"] == pytest.approx(2.0)
    (_, when), *_ = climb(node)
    assert when == pytest.approx(expected, abs=0.1)
    result = seams.WorkerResult(1, Outcome.CANCELLED, 0.0, 1.0, b"")
    node.report(1, seams.WorkerResults(worker, [result]))
    assert node.machine.sessions[CLIENT].ended[1].payload == text


def test_jobs_with_deadlines_wait_behind_nobody_in_a_worker() -> None:
    isolated = Conditions(isolated=True)
    node = open_node()
    run_timed(node, [9.0, 9.0, 9.0], conditions=isolated)
    begin(node)
    assert [
        [job.number for job in command.jobs]  # type: ignore[attr-defined]
        for command in node.taken(c.SendJobsToWorker)
    ] == [[1]]


def test_a_large_job_has_its_deadline_too() -> None:
    node = open_node()
    bulk = messages.RunBulkJob(1, 1, 0, 7, [100], -1, None, 4.0)
    node.tell(e.BulkJobReceived(CLIENT, bulk, 50))
    begin(node)
    (_, when), *_ = climb(node)
    assert when == pytest.approx(4.0 + DUE_SLACK, abs=0.1)


# --- grace -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("of_all", "of_job", "expected"),
    [(GRACE, None, GRACE), (0.5, None, 0.5), (0.5, 3.0, 3.0), (3.0, 0.0, 0.0)],
)
def test_a_stopped_job_has_its_grace_between_interrupt_and_the_end(
    of_all: float, of_job: float | None, expected: float
) -> None:
    node = open_node(grace=of_all)
    conditions = None if of_job is None else Conditions(grace=of_job)
    message = messages.RunJobs(1, [1], [0], [b"x"], [], conditions)
    node.tell(e.MessageReceived(CLIENT, message))
    begin(node)
    node.now = 100.0
    node.tell(e.MessageReceived(CLIENT, messages.CancelJobs([1], [0])))
    rungs = [("InterruptJob", 100.0) for _ in node.taken(c.InterruptJob)]
    rungs += [("TerminateJob", 100.0) for _ in node.taken(c.TerminateJob)]
    rungs += climb(node)
    assert [name for name, _ in rungs] == ["InterruptJob", "TerminateJob", "KillWorker"]
    assert [when - 100.0 for _, when in rungs] == pytest.approx(
        [0.0, expected, expected + KILL_SECONDS], abs=0.1
    )


# --- at the client -----------------------------------------------------------------------------
def queue(client: Client, number: int, extras: JobExtras | None) -> tuple[Job, list[Any]]:
    job = Job(number, b"x", extras=extras)
    if extras is None:
        client.machine.computations[1].queue.append(job)
        return job, client.tell(e.JobsSubmitted())
    return job, client.tell(e.JobQueued(job))


def test_seconds_left_travel_and_no_moment() -> None:
    client = Client()
    for number, extras, expected in (
        (1, JobExtras(due=7.0), [7.0]),
        (2, JobExtras(due=-3.0), [0.001]),
        (3, JobExtras(JobOptions(deadline=4.0)), [4.0]),
        (4, JobExtras(JobOptions(deadline=4.0), due=3.0), [3.0]),
        (5, JobExtras(JobOptions(deadline=4.0), due=9.0), [4.0]),
        (6, JobExtras(due=1e300), [1e9]),
        (7, JobExtras(), None),
        (8, None, None),
    ):
        _, sent = queue(client, number, extras)
        (message,) = sent
        assert message.left == expected, number
        client.finish(number, 0, Outcome.RETURNED)


def test_jobs_with_and_without_deadlines_do_not_share_a_message() -> None:
    client = Client()
    client.machine.computations[1].duration = 0.001  # They are short: many go at once.
    jobs = [Job(number, b"x", extras=JobExtras(due=9.0)) for number in (3, 4)]
    jobs += [Job(number, b"x", extras=JobExtras()) for number in range(5, 9)]
    for job in jobs:
        client.machine.computations[1].waiting_aside += 1
        client.machine.computations[1].aside.push(job)
    sent = client.tell(e.JobsSubmitted())
    assert [(m.numbers, m.left) for m in sent if isinstance(m, messages.RunJobs)] == [
        ([3, 4], [9.0, 9.0]),
        ([5, 6], None),
    ]


def test_no_other_try_is_made_after_the_deadline() -> None:
    client = Client()
    job, _ = queue(client, 1, JobExtras(JobOptions(retries=3), due=-1.0))
    client.finish(1, 0, Outcome.TIMED_OUT)
    assert job.state is JobStatus.Terminated


# --- why a job was cancelled -------------------------------------------------------------------
def test_the_reason_of_a_cancel_goes_to_the_node_and_stays_with_the_job() -> None:
    client = Client()
    job, _ = queue(client, 1, None)
    (told,) = client.tell(e.JobCancelRequested(job, "nobody needs it"))
    assert told == messages.CancelJobs([1], [0], "nobody needs it")
    client.finish(1, 0, Outcome.INTERRUPTED)
    assert job.state is JobStatus.Terminated
    assert job.extras is not None
    assert job.extras.why == "nobody needs it"


def test_the_reason_stays_with_a_job_that_never_left() -> None:
    client = Client()
    jobs = [queue(client, number, None)[0] for number in (1, 2, 3)]
    assert client.tell(e.JobCancelRequested(jobs[2], "too late")) == []
    assert jobs[2].state is JobStatus.Cancelled
    assert jobs[2].extras is not None
    assert jobs[2].extras.why == "too late"
    for number in (1, 2):
        client.finish(number, 0, Outcome.RETURNED)
    assert [job.state.name for job in jobs] == ["Finished", "Finished", "Cancelled"]


# --- jobs whose node does not answer -----------------------------------------------------------
@pytest.mark.parametrize("extras", [None, JobExtras()])
def test_a_job_that_is_given_up_ends_here_and_is_stopped_when_its_node_is_back(
    extras: JobExtras | None,
) -> None:
    client = Client(reentrant=True)
    job, _ = queue(client, 1, extras)
    client.tell(e.JobCancelRequested(job))
    client.tell(e.NodeDisconnected("n", "it broke"))
    client.tell(e.JobGivenUp(job, "did not answer"))
    assert job.state is JobStatus.Abandoned
    assert bytes(job.reply) == b"node n (n): did not answer"
    assert client.machine.computations[1].outstanding == 0
    sent = client.connect([1], [0])
    assert messages.CancelJobs([1], [-1]) in sent
    client.finish(1, 0, Outcome.INTERRUPTED)
    assert job.state is JobStatus.Abandoned


def test_a_cancel_that_was_lost_with_the_connection_is_said_again() -> None:
    client = Client()
    jobs = [queue(client, number, None)[0] for number in (1, 2)]
    client.tell(e.NodeDisconnected("n", "it broke"))
    client.tell(e.JobCancelRequested(jobs[0]))
    sent = client.connect([1, 2], [0, 0])
    assert [m for m in sent if isinstance(m, messages.CancelJobs)] == [
        messages.CancelJobs([1], [0])
    ]


def test_giving_up_what_has_ended_changes_nothing() -> None:
    client = Client()
    job, _ = queue(client, 1, None)
    client.finish(1, 0, Outcome.RETURNED)
    client.tell(e.JobGivenUp(job, "did not answer"))
    assert job.state is JobStatus.Finished


def test_a_cluster_that_closes_waits_no_more_for_what_was_given_up() -> None:
    client = Client()
    job, _ = queue(client, 1, None)
    assert client.tell(e.CloseRequested(1, False)) == []
    client.tell(e.JobCancelRequested(job))
    sent = client.tell(e.JobGivenUp(job, "did not answer"))
    assert messages.CloseComputation(1, False) in sent


# --- on the wire -------------------------------------------------------------------------------
def decode(message: messages.Message) -> messages.Message:
    frame = codec.encode(message)
    return codec.decode(
        FRAME_HEADER.unpack_from(frame)[1], memoryview(frame)[FRAME_HEADER.size :], "p"
    )


@pytest.mark.parametrize("left", [None, [1.0, 2.0]])
def test_the_seconds_left_are_a_column(left: list[float] | None) -> None:
    message = messages.RunJobs(1, [1, 2], [0, 0], [b"x", b"y"], [], None, left)
    assert decode(message) == message
    split = halves(message)
    assert split is not None
    first, second = split
    assert isinstance(first, messages.RunJobs)
    assert isinstance(second, messages.RunJobs)
    assert (first.left, second.left) == ((None, None) if left is None else ([1.0], [2.0]))


def test_a_column_of_another_length_ends_the_session() -> None:
    with pytest.raises(ProtocolError, match=r"left have \[2, 2, 2, 1\] items"):
        decode(messages.RunJobs(1, [1, 2], [0, 0], [b"x", b"y"], [], None, [1.0]))


def test_a_reason_is_made_to_fit() -> None:
    message = messages.CancelJobs([1], [0], "x" * 100_000 + "\0")
    assert decode(message) == message
