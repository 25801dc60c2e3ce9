"""What a worker reports that can't be ends that worker; its node and the other jobs go on."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import NodeMachine, TemplateReport
from dispy_trio.models import Conditions, Outcome

KEY = "s"


@define(eq=False)
class OneNode:
    """A node with one computation, and all that it wants done."""

    slots: int = 1
    machine: NodeMachine = field(init=False)
    out: list[c.NodeCommand] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.machine = NodeMachine("n", slots=self.slots)
        self.feed(e.SessionConnected(KEY, "peer"))
        opening = messages.OpenComputation(1, "f", "00", b"", 0)
        self.feed(e.MessageReceived(KEY, opening))
        self.report(seams.TemplateReady())

    def feed(self, event: Any) -> list[c.NodeCommand]:
        commands = self.machine.handle(event, now=0.0)
        self.machine.validate()
        self.out += commands
        return commands

    def report(self, event: seams.TemplateEvent) -> list[c.NodeCommand]:
        return self.feed(TemplateReport(KEY, 1, event))

    def run(self, *numbers: int, conditions: Conditions | None = None) -> list[c.NodeCommand]:
        count = len(numbers)
        return self.feed(
            e.MessageReceived(
                KEY,
                messages.RunJobs(1, [*numbers], [0] * count, [b""] * count, [], conditions),
            )
        )

    def ended(self) -> dict[int, int]:
        """Job to outcome."""
        found: dict[int, int] = {}
        for command in self.out:
            if isinstance(command, c.SendResults):
                told = command.message
                for number, outcome in zip(told.numbers, told.outcomes, strict=True):
                    assert number not in found, "told twice"
                    found[number] = outcome
        return found

    def given(self) -> list[int]:
        """Sequences of all jobs that workers were given, in order."""
        return [
            job.number  # type: ignore[attr-defined]
            for command in self.out
            if isinstance(command, c.SendJobsToWorker)
            for job in command.jobs
        ]

    def started_workers(self) -> list[int]:
        return [command.worker for command in self.out if isinstance(command, c.StartWorker)]


def result(sequence: int, outcome: int = Outcome.RETURNED, **more: Any) -> seams.WorkerResult:
    return seams.WorkerResult(sequence, outcome, 1.0, 1.0, b"", **more)


def killed(commands: list[c.NodeCommand]) -> list[int]:
    return [command.worker for command in commands if isinstance(command, c.KillWorker)]


def two_jobs_in_one_worker() -> tuple[OneNode, int]:
    """Jobs 2 and 3 are in it, as 2 and 3."""
    node = OneNode()
    node.run(1)
    (worker,) = node.started_workers()
    node.report(seams.WorkerStarted(worker, 100))
    node.report(seams.WorkerResults(worker, [result(1)]))
    node.run(2, 3)
    node.report(seams.WorkerResults(worker, []))
    assert node.given() == [1, 2, 3]
    return node, worker


@pytest.mark.parametrize("sequence", [0, 1, 3, 4, 2**60])
def test_a_result_that_is_not_due_ends_its_worker_only(sequence: int) -> None:
    node, worker = two_jobs_in_one_worker()
    commands = node.report(seams.WorkerResults(worker, [result(sequence, segment=77)]))
    assert [x.segment for x in commands if isinstance(x, c.ReleaseSegment)] == [77]
    assert killed(commands) == [worker]
    node.report(seams.WorkerDied(worker, 2, "killed", b""))
    assert node.ended() == {1: Outcome.RETURNED, 2: Outcome.DIED}
    replacement = node.started_workers()[-1]
    node.report(seams.WorkerStarted(replacement, 101))
    assert node.given() == [1, 2, 3, 3]


def test_a_result_of_an_idle_worker_ends_it() -> None:
    node = OneNode()
    node.run(1)
    (worker,) = node.started_workers()
    node.report(seams.WorkerStarted(worker, 100))
    node.report(seams.WorkerResults(worker, [result(1)]))
    commands = node.report(seams.WorkerResults(worker, [result(2)]))
    assert killed(commands) == [worker]
    node.report(seams.WorkerDied(worker, 1, "killed", b""))
    assert node.ended() == {1: Outcome.RETURNED}


def test_jobs_that_ran_without_a_result_to_believe_do_not_run_again() -> None:
    node, worker = two_jobs_in_one_worker()
    node.report(seams.WorkerDied(worker, 3, "killed", b""))
    assert node.ended() == {1: Outcome.RETURNED, 2: Outcome.DIED, 3: Outcome.DIED}
    assert node.given() == [1, 2, 3]


def test_the_last_result_of_a_worker_that_is_being_killed_stops_nothing_twice() -> None:
    """It may run one job only, and that one was cut off when it had just ended."""
    node = OneNode()
    node.run(1, conditions=Conditions(max_jobs=1))
    (worker,) = node.started_workers()
    node.report(seams.WorkerStarted(worker, 100))
    node.feed(e.MessageReceived(KEY, messages.CancelJobs([1], [0])))
    for seconds in (5.5, 7.5):
        node.out += node.machine.handle(e.Tick(), now=seconds)
    assert killed(node.out) == [worker]
    node.report(seams.WorkerResults(worker, [result(1)]))
    node.report(seams.WorkerDied(worker, 1, "killed", b""))
    assert node.ended() == {1: Outcome.RETURNED}


def test_what_comes_for_a_computation_that_is_gone_keeps_no_memory() -> None:
    machine = NodeMachine("node", slots=1)
    died = seams.WorkerDied(1, 1, "killed", segment=8)
    late = seams.WorkerResults(1, [seams.WorkerResult(1, 0, 1.0, 2.0, b"", segment=7)])
    for event, segments in ((late, [7]), (died, [8]), (seams.TemplateDied("gone", [died]), [8])):
        commands = machine.handle(TemplateReport("nobody", 1, event), now=1.0)
        assert [command.segment for command in commands] == segments  # type: ignore[union-attr]
