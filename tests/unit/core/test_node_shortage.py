"""What a node's machine does when workers can't be started, die early, or go with their template."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import REFUSED_LIMIT, STILLBORN_LIMIT, NodeMachine, TemplateReport
from dispy_trio.core.sessions import Computation
from dispy_trio.models import Conditions, Outcome

CLIENT = "s" * 32


class Node:
    """A machine, and what it commanded."""

    def __init__(self, slots: int = 4, **given: int) -> None:
        self.machine = NodeMachine("n", slots=slots, **given)
        self.now = 0.0
        self.commands: list[c.NodeCommand] = []
        self.tell(e.SessionConnected(CLIENT, "client"))

    def tell(self, event: object) -> None:
        self.commands += self.machine.handle(event, now=self.now)  # type: ignore[arg-type]
        self.machine.validate()

    def report(self, number: int, event: seams.TemplateEvent) -> None:
        self.tell(TemplateReport(CLIENT, number, event))

    def open(self, number: int) -> None:
        opening = messages.OpenComputation(number, "f", "00", b"bundle", 0)
        self.tell(e.MessageReceived(CLIENT, opening))
        self.report(number, seams.TemplateReady())

    def run(self, computation: int, numbers: Sequence[int]) -> None:
        jobs = messages.RunJobs(
            computation, list(numbers), [1] * len(numbers), [b"x"] * len(numbers), []
        )
        self.tell(e.MessageReceived(CLIENT, jobs))

    def taken(self, kind: type[object]) -> list[object]:
        """Commands of that kind since they were taken last."""
        found = [command for command in self.commands if isinstance(command, kind)]
        self.commands = [command for command in self.commands if not isinstance(command, kind)]
        return found

    def started(self) -> list[int]:
        return [command.worker for command in self.taken(c.StartWorker)]  # type: ignore[attr-defined]

    def stopped(self) -> list[int]:
        return [command.worker for command in self.taken(c.StopWorker)]  # type: ignore[attr-defined]

    def told(self, kind: type[object]) -> list[object]:
        """Messages of that kind to the client."""
        sent = [command.message for command in self.taken(c.Send)]  # type: ignore[attr-defined]
        return [message for message in sent if isinstance(message, kind)]

    def ended(self) -> dict[int, tuple[int, bytes]]:
        found: dict[int, tuple[int, bytes]] = {}
        for command in self.taken(c.SendResults):
            message = command.message  # type: ignore[attr-defined]
            found |= {
                number: (outcome, payload)
                for number, outcome, payload in zip(
                    message.numbers, message.outcomes, message.payloads, strict=True
                )
            }
        return found

    def begin(self, computation: int, workers: Sequence[int]) -> None:
        for worker in workers:
            self.report(computation, seams.WorkerStarted(worker, 1))

    def finish(self, computation: int, worker: int, sequence: int = 1) -> None:
        result = seams.WorkerResult(sequence, Outcome.RETURNED, 0.0, 1.0, b"y")
        self.report(computation, seams.WorkerResults(worker, [result]))

    def started_at_last(self) -> list[int]:
        while not (workers := self.started()):
            self.tick()
        return workers

    def tick(self) -> None:
        self.now = max(self.now, self.machine.next_deadline())
        self.tell(e.Tick())


def died(worker: int, started: int = 0) -> seams.WorkerDied:
    return seams.WorkerDied(worker, started, "killed by SIGKILL (9)", b"")


def refused(worker: int) -> seams.WorkerRefused:
    return seams.WorkerRefused(worker, "Too many open files")


# --- what can't be started ---------------------------------------------------------------------
def test_a_refused_worker_is_tried_again_later_and_its_job_waits() -> None:
    node = Node()
    node.open(1)
    node.run(1, [1])
    began = 0.0
    for expected in (0.1, 0.2, 0.4):
        (worker,) = node.started_at_last()
        if expected > 0.1:
            assert node.now - began == pytest.approx(expected / 2)
        began = node.now
        node.report(1, refused(worker))
        assert node.started() == []
    (worker,) = node.started_at_last()
    node.begin(1, [worker])
    node.finish(1, worker)
    assert node.ended() == {1: (Outcome.RETURNED, b"y")}


def test_workers_refused_together_count_once() -> None:
    node = Node(slots=64)
    node.open(1)
    node.run(1, range(64))
    workers = node.started()
    assert len(workers) == 64
    for worker in workers[1:]:
        node.report(1, refused(worker))
    node.begin(1, workers[:1])
    assert not node.told(messages.ComputationFailed)
    for sequence in range(1, 65):
        node.finish(1, workers[0], sequence)
    assert len(node.ended()) == 64


def test_a_node_that_can_start_no_worker_at_all_says_so_in_the_end() -> None:
    node = Node()
    node.open(1)
    node.run(1, [1, 2])
    for _ in range(REFUSED_LIMIT):
        for worker in node.started_at_last():
            node.report(1, refused(worker))
    sent = [command.message for command in node.taken(c.Send)]  # type: ignore[attr-defined]
    (returned,) = [m for m in sent if isinstance(m, messages.JobsReturned)]
    assert sorted(returned.numbers) == [1, 2]
    (failed,) = [m for m in sent if isinstance(m, messages.ComputationFailed)]
    assert failed.text == "no worker can be started: Too many open files"
    assert node.now < 20


def test_while_others_run_a_refused_one_waits_and_gets_what_they_give_back() -> None:
    node = Node(slots=4)
    node.open(1)
    node.open(2)
    node.run(1, [1])
    (busy,) = node.started()
    node.begin(1, [busy])
    node.run(2, [2])
    for _ in range(2 * REFUSED_LIMIT):
        for worker in node.started():
            node.report(2, refused(worker))
        node.tick()
    assert not node.told(messages.ComputationFailed)
    for worker in node.started():
        node.report(2, refused(worker))
    assert node.started() == []
    node.report(1, died(busy, started=1))
    assert len(node.started()) == 1, "at once"


def test_an_idle_worker_of_another_computation_gives_way_to_a_refused_one() -> None:
    node = Node(slots=4)
    node.open(1)
    node.open(2)
    node.run(1, [1])
    (idle,) = node.started()
    node.begin(1, [idle])
    node.finish(1, idle)
    node.run(2, [2])
    (worker,) = node.started()
    node.report(2, refused(worker))
    assert node.stopped() == [idle]
    assert node.started() == []
    node.report(1, died(idle, started=1))
    assert len(node.started()) == 1


# --- how many there may be ---------------------------------------------------------------------
def test_idle_workers_of_others_end_before_there_are_too_many() -> None:
    node = Node(slots=4, most_workers=6)
    for number in (1, 2, 3):
        node.open(number)
    for number in (1, 2, 3):
        node.run(number, [10 * number + n for n in range(4)])
        living: list[int] = []
        while len(living) < 4:
            started = node.started()
            living += started
            node.begin(number, started)
            stopped = node.stopped()
            for worker in stopped:
                (owner,) = [
                    k
                    for k, known in node.machine.sessions[CLIENT].computations.items()
                    if worker in known.workers
                ]
                assert owner != number
                node.report(owner, died(worker, started=1))
            assert started or stopped
        computations = node.machine.sessions[CLIENT].computations
        assert sum(len(known.workers) for known in computations.values()) <= 6
        for worker in living:
            node.finish(number, worker)
        assert len(node.ended()) == 4
    assert node.machine._taken == 0


def test_no_more_workers_end_than_are_needed() -> None:
    node = Node(slots=4, most_workers=4)
    node.open(1)
    node.open(2)
    node.run(1, [1, 2, 3, 4])
    workers = node.started()
    node.begin(1, workers)
    for worker in workers:
        node.finish(1, worker)
    node.run(2, [5])
    assert len(node.stopped()) == 1
    node.tell(e.Tick())
    assert node.stopped() == []


def test_own_workers_that_have_run_give_way_to_one_that_has_not() -> None:
    node = Node(slots=4, most_workers=4)
    node.open(1)
    node.open(2)
    node.run(1, [1, 2])
    used = node.started()
    node.begin(1, used)
    for worker in used:
        node.finish(1, worker)
    node.run(2, [3, 4])
    node.begin(2, node.started())
    isolated = messages.RunJobs(1, [5], [1], [b"x"], [], Conditions(isolated=True))
    node.tell(e.MessageReceived(CLIENT, isolated))
    (stopped,) = node.stopped()
    assert stopped in used
    node.report(1, died(stopped, started=1))
    assert len(node.started()) == 1


# --- deaths at birth ---------------------------------------------------------------------------
def test_deaths_at_birth_end_a_computation_none_of_whose_workers_ran() -> None:
    node = Node(slots=1)
    node.open(1)
    node.run(1, [1, 2, 3])
    for _ in range(STILLBORN_LIMIT):
        (worker,) = node.started()
        node.report(1, died(worker))
    sent = [command.message for command in node.taken(c.Send)]  # type: ignore[attr-defined]
    (returned,) = [m for m in sent if isinstance(m, messages.JobsReturned)]
    assert sorted(returned.numbers) == [1, 2, 3]
    (failed,) = [m for m in sent if isinstance(m, messages.ComputationFailed)]
    assert "3 worker processes in a row" in failed.text
    assert not failed.again


def test_deaths_at_birth_end_nothing_once_a_worker_ran() -> None:
    node = Node(slots=1)
    node.open(1)
    node.run(1, [1])
    (worker,) = node.started()
    node.begin(1, [worker])
    node.finish(1, worker)
    node.report(1, died(worker, started=1))
    node.run(1, [2, 3])
    began = node.now
    for count in range(20):
        workers = node.started_at_last()
        assert len(workers) == 1
        assert (node.now > began) == (count >= STILLBORN_LIMIT), "at leisure after some"
        node.report(1, died(workers[0]))
    assert not node.told(messages.ComputationFailed)
    workers = node.started_at_last()
    node.begin(1, workers)
    node.finish(1, workers[0])
    assert node.ended().keys() == {1, 2}


# --- the death of a template -------------------------------------------------------------------
def test_with_its_template_only_what_ran_ends() -> None:
    node = Node(slots=2)
    node.open(1)
    node.open(2)
    node.run(1, [1, 2, 3, 4])
    first, second = node.started()
    node.begin(1, [first, second])
    node.started()
    deaths = [died(first, started=1), died(second)]
    node.report(1, seams.TemplateDied("killed by SIGKILL", deaths))
    assert node.started() == [], "nothing is asked of a dead one"
    ((number, (outcome, text)),) = node.ended().items()
    assert (number, outcome) == (1, Outcome.DIED)
    assert b"SIGKILL" in text
    sent = [command.message for command in node.taken(c.Send)]  # type: ignore[attr-defined]
    (returned,) = [m for m in sent if isinstance(m, messages.JobsReturned)]
    assert sorted(returned.numbers) == [2, 3, 4]
    (failed,) = [m for m in sent if isinstance(m, messages.ComputationFailed)]
    assert failed.again
    assert failed.text == "its process ended: killed by SIGKILL"
    node.run(2, [9])
    assert len(node.started()) == 1


# --- faults of the machine itself --------------------------------------------------------------
@pytest.mark.parametrize("method", ["_employ_workers", "_start_workers", "_poll_worker"])
def test_a_computation_that_makes_no_sense_is_given_up_and_the_others_go_on(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(slots=4)
    for number in (1, 2):
        node.open(number)
        node.run(number, [number])
        node.begin(number, node.started())
    real = getattr(NodeMachine, method)

    def failing(machine: NodeMachine, computation: Computation, *rest: object) -> object:
        if computation.number == 1:
            raise ZeroDivisionError
        return real(machine, computation, *rest)

    monkeypatch.setattr(NodeMachine, method, failing)
    node.run(1, [11])
    node.run(2, [12])
    node.tick()
    given_up = node.taken(c.GiveUp)
    assert given_up
    assert {command.computation for command in given_up} == {1}  # type: ignore[attr-defined]
    assert len(node.started()) >= 1, "of the other"
