"""A job comes to a node that it was on before: which try is meant is never in doubt."""

from __future__ import annotations

from collections import deque

import pytest

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.cluster import ClusterMachine, ComputationRecord
from dispy_trio.core.nodes import Membership
from dispy_trio.models import Job, JobExtras, JobOptions, Outcome

from .test_node_shortage import CLIENT, Node


def bulk(number: int, attempt: int) -> messages.RunBulkJob:
    return messages.RunBulkJob(1, number, attempt, 7, [100], -1)


def node_with_a_failed_job(segment: int | None) -> Node:
    node = Node()
    node.open(1)
    node.tell(e.BulkJobReceived(CLIENT, bulk(1, 0), 50))
    (worker,) = node.started()
    node.begin(1, [worker])
    result = seams.WorkerResult(1, Outcome.RAISED, 0.0, 1.0, b"", segment=segment, sizes=(9, 0, 0))
    node.report(1, seams.WorkerResults(worker, [result]))
    node.commands.clear()
    return node


def sent_to_workers(node: Node) -> list[tuple[int, int]]:
    return [
        (job.number, job.attempt)
        for command in node.taken(c.SendJobsToWorker)
        for job in command.jobs  # type: ignore[attr-defined]
    ]


def test_a_large_job_may_be_tried_again_before_its_first_end_is_acknowledged() -> None:
    node = node_with_a_failed_job(segment=None)
    node.tell(e.BulkJobReceived(CLIENT, bulk(1, 1), 51))
    assert sent_to_workers(node) == [(1, 1)]


def test_the_memory_of_an_end_goes_when_the_job_is_tried_again() -> None:
    node = node_with_a_failed_job(segment=60)
    node.tell(e.BulkJobReceived(CLIENT, bulk(1, 1), 51))
    assert 60 in [command.segment for command in node.taken(c.ReleaseSegment)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("attempt", [0, 1])
def test_the_same_try_is_taken_once(attempt: int) -> None:
    node = node_with_a_failed_job(segment=None)
    for segment in (51, 52):
        node.tell(e.BulkJobReceived(CLIENT, bulk(1, attempt), segment))
    assert sent_to_workers(node) == [(1, 1)][:attempt]
    released = [command.segment for command in node.taken(c.ReleaseSegment)]  # type: ignore[attr-defined]
    assert released == [51, 52][attempt:]


# --- at the client -----------------------------------------------------------------------------
class Client:
    """A machine with one node, whose computation is ready."""

    def __init__(self, *, reentrant: bool = False) -> None:
        self.machine = ClusterMachine()
        opening = messages.OpenComputation(1, "f", "00", b"bundle", 0)
        self.machine.computations[1] = ComputationRecord(opening, deque(), reentrant=reentrant)
        self.connect([], [])
        self.tell(e.NodePrepared("n", 1, "1", 0, messages.ComputationOptions()))
        self.hear(messages.ComputationReady(1))

    def tell(self, event: object) -> list[messages.Message]:
        commands = self.machine.handle(event, now=0.0)  # type: ignore[arg-type]
        self.machine.validate()
        return [command.message for command in commands if isinstance(command, c.Send)]

    def hear(self, message: messages.Message) -> list[messages.Message]:
        return self.tell(e.MessageReceived("n", message))

    def connect(self, numbers: list[int], attempts: list[int]) -> list[messages.Message]:
        computations = [1] if numbers else []
        state = messages.SessionState("n", 2, "", numbers, attempts, computations)
        return self.tell(e.NodeConnected("n", "1", state))

    def finish(self, number: int, attempt: int, outcome: Outcome) -> list[messages.Message]:
        return self.hear(
            messages.JobsFinished([number], [attempt], [outcome], [0.0], [1.0], [b"y"], {}, {}, {})
        )


def runs(sent: list[messages.Message]) -> list[tuple[int, int]]:
    return [
        row
        for message in sent
        if isinstance(message, messages.RunJobs)
        for row in zip(message.numbers, message.attempts, strict=True)
    ]


def test_a_second_try_that_was_lost_on_its_way_is_sent_again() -> None:
    client = Client()
    job = Job(1, b"x", extras=JobExtras(JobOptions(retries=1, retry_delay=0.0)))
    assert runs(client.tell(e.JobQueued(job))) == [(1, 0)]
    assert runs(client.finish(1, 0, Outcome.RAISED)) == [(1, 1)]
    client.tell(e.NodeDisconnected("n", "reset"))
    # It knows the job, but only the first try.
    client.connect([1], [0])
    assert runs(client.finish(1, 0, Outcome.RAISED)) == [(1, 2)]


def test_a_node_ends_what_it_ran_before_it_was_lost_and_is_then_given_jobs() -> None:
    client = Client(reentrant=True)
    job = Job(1, b"x")
    client.machine.computations[1].queue.append(job)
    assert runs(client.tell(e.JobsSubmitted())) == [(1, 0)]
    client.tell(e.NodeDisconnected("n", "no sign of life"))
    client.tell(e.NodeLost("n", "no answer"))
    sent = client.connect([1], [0])
    assert messages.CancelJobs([1], [-1]) in sent
    sent += client.hear(messages.ComputationReady(1))
    assert runs(sent) == []
    assert runs(client.finish(1, 0, Outcome.INTERRUPTED)) == [(1, 1)]


# --- closing -----------------------------------------------------------------------------------
def test_jobs_on_a_node_that_is_being_closed_end_when_all_is_closed_by_force() -> None:
    client = Client()
    client.machine.computations[1].queue.append(Job(1, b"x"))
    assert runs(client.tell(e.JobsSubmitted())) == [(1, 0)]
    sent = client.tell(e.NodeRetired("n", 1, terminate=False, again=False))
    assert messages.CloseComputation(1, False) in sent
    assert client.machine.nodes["n"].memberships == {1: Membership.CLOSING}
    assert client.tell(e.CloseRequested(1, True)) == [messages.CloseComputation(1, True)]


def test_a_node_that_is_allocated_while_it_is_being_closed_is_opened_after_that() -> None:
    client = Client()
    client.tell(e.NodeRetired("n", 1, terminate=False, again=False))
    client.tell(e.NodeAllocated("n"))
    assert client.machine.nodes["n"].memberships == {1: Membership.CLOSING}
    client.hear(messages.ComputationClosed(1))
    assert client.machine.nodes["n"].memberships == {1: Membership.PREPARING}


def test_what_is_opened_while_only_its_files_are_removed_is_opened_after_that() -> None:
    node = Node()
    node.tell(e.MessageReceived(CLIENT, messages.CloseComputation(1, True)))
    assert len(node.taken(c.CloseTemplate)) == 1
    node.tell(e.MessageReceived(CLIENT, messages.OpenComputation(1, "f", "00", b"bundle", 0)))
    assert node.taken(c.OpenTemplate) == []
    node.tell(e.TemplateClosed(CLIENT, 1))
    assert len(node.taken(c.OpenTemplate)) == 1
