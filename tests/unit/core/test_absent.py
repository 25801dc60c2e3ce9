"""Clients that are away: what their jobs hold, who is told, and when they are forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import FORGOTTEN_KEPT, HOLDERS_TOLD, NodeMachine, TemplateReport
from dispy_trio.models import Job, JobStatus, Outcome, SlotHolder

from .pure_cluster import SESSION, PureCluster

HOUR = 3600.0


def make_node(slots: int = 1, **settings: Any) -> NodeMachine:
    return NodeMachine("n", slots=slots, zombie_seconds=HOUR, **settings)


def tell(machine: NodeMachine, event: Any, now: float = 0.0) -> list[c.NodeCommand]:
    """Tell a node, all of whose processes do at once what they are told."""
    commands = machine.handle(event, now=now)
    machine.validate()
    done = list(commands)
    for command in commands:
        follows: Any = None
        match command:
            case c.OpenTemplate(session=session, computation=number):
                follows = TemplateReport(session, number, seams.TemplateReady())
            case c.StartWorker(session=session, computation=number, worker=worker):
                follows = TemplateReport(session, number, seams.WorkerStarted(worker, 1))
            case c.CloseTemplate(session=session, computation=number):
                follows = e.TemplateClosed(session, number)
        if follows is not None:
            done += tell(machine, follows, now)
    return done


def come(machine: NodeMachine, session: str, *numbers: int) -> list[c.NodeCommand]:
    """A client with these jobs."""
    tell(machine, e.SessionConnected(session, f"{session}:1"))
    tell(machine, e.MessageReceived(session, messages.OpenComputation(1, "f", "00", b"", 0)))
    jobs = list(numbers)
    run = messages.RunJobs(1, jobs, [0] * len(jobs), [b"x"] * len(jobs), [])
    return tell(machine, e.MessageReceived(session, run))


def started(commands: list[c.NodeCommand]) -> list[tuple[str, int]]:
    return [
        (command.session, job.number)
        for command in commands
        if isinstance(command, c.SendJobsToWorker)
        for job in command.jobs
    ]


def pass_time(machine: NodeMachine, until: float) -> list[c.NodeCommand]:
    """Tick whenever the machine wants, up to that time."""
    done: list[c.NodeCommand] = []
    while machine.next_deadline() <= until:
        done += tell(machine, e.Tick(), machine.next_deadline())
    return done


def end_job(machine: NodeMachine, session: str, now: float) -> list[c.NodeCommand]:
    """The job that runs returns."""
    (worker,) = machine.sessions[session].computations[1].workers.values()
    result = seams.WorkerResult(worker.sent[0].sequence, Outcome.RETURNED, 0.0, now, b"r")
    return tell(
        machine, TemplateReport(session, 1, seams.WorkerResults(worker.number, [result])), now
    )


def forgotten(commands: list[c.NodeCommand]) -> list[str]:
    return [command.session for command in commands if isinstance(command, c.ForgetClient)]


# --- jobs that run on ------------------------------------------------------------------------
def test_jobs_of_an_absent_client_run_to_their_end_and_their_results_are_kept() -> None:
    machine = make_node()
    come(machine, "away", 1)
    tell(machine, e.SessionDisconnected("away"))
    assert forgotten(pass_time(machine, 100 * HOUR)) == []
    end_job(machine, "away", 100.2 * HOUR)
    assert forgotten(pass_time(machine, 101.1 * HOUR)) == []
    done = tell(machine, e.SessionConnected("away", "away:2"), 101.1 * HOUR)
    (results,) = [command for command in done if isinstance(command, c.SendResults)]
    assert results.message.numbers == [1]


def test_a_client_without_jobs_is_forgotten_an_interval_after_it_went_or_its_last_job_ended() -> (
    None
):
    machine = make_node(2)
    come(machine, "idle")
    come(machine, "busy", 1)
    for session in ("idle", "busy"):
        tell(machine, e.SessionDisconnected(session))
    assert forgotten(pass_time(machine, 0.9 * HOUR)) == []
    assert forgotten(pass_time(machine, 1.1 * HOUR)) == ["idle"]
    end_job(machine, "busy", 5 * HOUR)
    assert forgotten(pass_time(machine, 5.9 * HOUR)) == []
    assert forgotten(pass_time(machine, 6.1 * HOUR)) == ["busy"]
    assert machine.idle
    assert machine.next_deadline() == float("inf")


def test_a_client_that_comes_back_in_time_is_not_forgotten() -> None:
    machine = make_node()
    come(machine, "s")
    tell(machine, e.SessionDisconnected("s"))
    tell(machine, e.SessionConnected("s", "s:2"), 0.9 * HOUR)
    assert forgotten(pass_time(machine, 100 * HOUR)) == []


def test_without_an_interval_nobody_is_forgotten() -> None:
    machine = NodeMachine("n", slots=1)
    come(machine, "s")
    tell(machine, e.SessionDisconnected("s"))
    assert machine.next_deadline() == float("inf")


def test_where_jobs_of_absent_clients_are_to_end_the_next_client_gets_their_slots() -> None:
    machine = make_node(ends_zombie_jobs=True)
    come(machine, "away", 1, 2)
    tell(machine, e.SessionDisconnected("away"))
    assert started(come(machine, "next", 7)) == []
    assert started(pass_time(machine, 0.9 * HOUR)) == []
    done = pass_time(machine, 1.1 * HOUR)
    assert forgotten(done) == ["away"]
    assert started(done) == [("next", 7)]
    (text,) = [command.text for command in done if isinstance(command, c.ForgetClient)]
    assert text == (
        "client away:1 stayed away for 60 min; its computations end, and the 2 jobs that it has here"
    )


def test_a_client_that_is_released_gives_its_slots_back_at_once() -> None:
    machine = make_node()
    come(machine, "away", 1)
    tell(machine, e.SessionDisconnected("away"))
    come(machine, "next", 7)
    done = tell(machine, e.SessionReleased("away"))
    assert (forgotten(done), started(done)) == (["away"], [("next", 7)])


def test_a_client_that_is_there_can_not_be_released() -> None:
    machine = make_node()
    come(machine, "s", 1)
    assert tell(machine, e.SessionReleased("s")) == []
    assert tell(machine, e.SessionReleased("nobody")) == []


# --- who holds slots -------------------------------------------------------------------------
def test_who_holds_slots_is_told_to_others_those_first_that_are_away_the_longest() -> None:
    machine = make_node(4)
    for session, numbers in {"a": [1, 2], "b": [1], "c": [1], "d": []}.items():
        come(machine, session, *numbers)
    tell(machine, e.SessionDisconnected("b"), 10.0)
    tell(machine, e.SessionDisconnected("c"), 20.0)
    expected = [SlotHolder("b:1", 1, 20.0), SlotHolder("c:1", 1, 10.0), SlotHolder("a:1", 2, None)]
    assert machine.holders("d", now=30.0) == expected
    assert machine.holders("b", now=30.0) == expected[1:]
    assert str(expected[0]) == "b:1 (1 slot, away for 20 s)"
    assert str(expected[2]) == "a:1 (2 slots)"
    assert str(SlotHolder("h:1", 3, 3 * HOUR)) == "h:1 (3 slots, away for 3 h)"


def test_of_many_holders_the_first_few_are_told() -> None:
    machine = make_node(2 * HOLDERS_TOLD)
    for number in range(2 * HOLDERS_TOLD):
        come(machine, f"s{number}", 1)
    assert len(machine.holders("", now=0.0)) == HOLDERS_TOLD


def test_the_memory_of_forgotten_clients_is_bounded() -> None:
    machine = make_node()
    for number in range(FORGOTTEN_KEPT + 10):
        session = f"s{number}"
        machine.handle(e.SessionConnected(session, "c"), now=0.0)
        machine.handle(e.SessionDisconnected(session), now=0.0)
        machine.handle(e.SessionReleased(session), now=0.0)
    assert not machine.sessions
    assert len(machine._forgotten) == FORGOTTEN_KEPT


# --- the client that waits -------------------------------------------------------------------
def connect(cluster: PureCluster) -> None:
    for node in cluster.nodes:
        if not node.connected:
            cluster.connect(node)
    deliver(cluster)


def deliver(cluster: PureCluster) -> None:
    for node in cluster.nodes:
        while node.inbox or node.outbox:
            if node.inbox:
                cluster.deliver_to_node(node)
            else:
                cluster.tell(e.MessageReceived(node.key, node.outbox.popleft()))


def words(cluster: PureCluster, *holders: SlotHolder) -> list[str]:
    """What the user is told when the node tells of these."""
    status = messages.NodeStatus(0.0, 0, 0, 0.0, list(holders))
    commands = cluster.machine.handle(e.MessageReceived("n0", status), now=0.0)
    return [command.text for command in commands if isinstance(command, c.AnnounceWaiting)]


def test_who_waits_for_slots_of_absent_clients_is_told_once_whose_and_what_to_do() -> None:
    cluster = PureCluster(1, [2])
    connect(cluster)
    first, second = SlotHolder("10.0.0.7:4000", 2, 720.0), SlotHolder("10.0.0.8:4000", 2, 5.0)
    assert words(cluster, first) == [], "nobody waits"
    cluster.submit(1)
    (text,) = words(cluster, first)
    assert "n0" in text
    assert "10.0.0.7:4000 (2 slots, away for 12 min)" in text
    assert "release 10.0.0.7:4000" in text
    assert words(cluster, first) == []
    assert len(words(cluster, second)) == 1
    # When there was room meanwhile, it is news again.
    assert words(cluster) == []
    assert len(words(cluster, first)) == 1


@pytest.mark.parametrize(
    "holder", [SlotHolder("c:1", 2, None), SlotHolder("c:1", 1, 10.0)], ids=["there", "room"]
)
def test_slots_of_clients_that_are_there_and_slots_left_are_no_news(holder: SlotHolder) -> None:
    cluster = PureCluster(1, [2])
    connect(cluster)
    cluster.submit(1)
    assert words(cluster, holder) == []


# --- the client that comes back --------------------------------------------------------------
def go_away(cluster: PureCluster) -> None:
    (node,) = cluster.nodes
    node.connected = False
    cluster.tell(e.NodeDisconnected("n0", "reset"))
    cluster.tell_node(node, e.SessionDisconnected(SESSION))


@pytest.mark.parametrize("breaks_again", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_forgotten_client_had_there_does_not_run_twice(
    reentrant: bool, breaks_again: bool
) -> None:
    cluster = PureCluster(1, [1], reentrant=reentrant)
    connect(cluster)
    cluster.submit(1)
    deliver(cluster)
    (node,) = cluster.nodes
    ((worker, fake),) = node.templates[1].items()
    cluster.step(node, 1, worker, fake)
    assert cluster.runs == {1: 1}
    go_away(cluster)
    cluster.tell_node(node, e.SessionReleased(SESSION))
    if breaks_again:
        # The first word of the node is lost with the connection.
        node.connected = True
        cluster.tell_node(node, e.SessionConnected(SESSION, "client"))
        node.outbox.clear()
        go_away(cluster)
    connect(cluster)
    cluster.submit(1)
    cluster.run()
    (job, second) = cluster.jobs
    assert second.state is JobStatus.Finished
    assert job.state is (JobStatus.Finished if reentrant else JobStatus.Abandoned)
    assert cluster.runs == {1: 2 if reentrant else 1, 2: 1}
    # Later breaks are as any others.
    go_away(cluster)
    connect(cluster)
    cluster.submit(1)
    cluster.run()
    assert cluster.jobs[-1].state is JobStatus.Finished


def test_a_client_may_come_back_while_what_it_had_is_being_closed() -> None:
    machine = make_node()
    come(machine, "s", 1)
    tell(machine, e.SessionDisconnected("s"))
    machine.handle(e.SessionReleased("s"), now=0.0)  # Its processes take their time.
    tell(machine, e.SessionConnected("s", "s:2"))
    opening = messages.OpenComputation(1, "f", "00", b"", 0)
    assert tell(machine, e.MessageReceived("s", opening)) == []
    done = tell(machine, e.TemplateClosed("s", 1))
    assert any(isinstance(command, c.OpenTemplate) for command in done)
    run = messages.RunJobs(1, [2], [0], [b"x"], [])
    assert started(tell(machine, e.MessageReceived("s", run))) == [("s", 2)]


def test_what_is_to_be_opened_after_a_close_may_be_closed_before_that() -> None:
    machine = make_node()
    come(machine, "s", 1)
    tell(machine, e.SessionDisconnected("s"))
    machine.handle(e.SessionReleased("s"), now=0.0)
    tell(machine, e.SessionConnected("s", "s:2"))
    opening = messages.OpenComputation(1, "f", "00", b"", 0)
    tell(machine, e.MessageReceived("s", opening))
    tell(machine, e.MessageReceived("s", messages.CloseComputation(1, terminate=True)))
    (closed,) = tell(machine, e.TemplateClosed("s", 1))
    assert isinstance(closed, c.Send)
    assert closed.message == messages.ComputationClosed(1)


def test_a_job_that_ends_late_has_one_end() -> None:
    """The client that knows the node as lost is not told a second time that its jobs are."""
    cluster = PureCluster(1, [1])
    connect(cluster)
    job = Job(1, b"x")
    cluster.jobs.append(job)
    cluster.record.queue.append(job)
    cluster.tell(e.JobsSubmitted())
    deliver(cluster)
    go_away(cluster)
    cluster.tell(e.NodeLost("n0", "no answer"))
    cluster.tell_node(cluster.nodes[0], e.SessionReleased(SESSION))
    connect(cluster)
    cluster.run()
    assert cluster.ends == {1: [JobStatus.Abandoned]}
