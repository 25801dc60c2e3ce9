"""A worker that is slow to begin with its job."""

from __future__ import annotations

from dispy_trio import messages, seams
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.node import NodeMachine, NodeMachineEvent, TemplateReport


def test_a_job_is_told_of_as_running_once_its_worker_has_begun() -> None:
    machine = NodeMachine("node", slots=1)
    opening = messages.OpenComputation(1, "f", "digest", b"bundle", 0)

    def tell(event: NodeMachineEvent, now: float) -> list[c.SendStarted]:
        commands = machine.handle(event, now=now)
        return [command for command in commands if isinstance(command, c.SendStarted)]

    tell(e.SessionConnected("s", "client"), 0.0)
    tell(e.MessageReceived("s", opening), 0.0)
    tell(TemplateReport("s", 1, seams.TemplateReady()), 0.0)
    tell(e.MessageReceived("s", messages.RunJobs(1, [1], [0], [b""], [])), 0.0)
    tell(TemplateReport("s", 1, seams.WorkerStarted(1, 1)), 0.0)
    (first,) = tell(e.Tick(), 0.03)[0].jobs
    assert not tell(e.Tick(), 0.06)
    # It was asked about, and had not begun.
    tell(e.JobUnstarted("s", 1, first.worker, first.sequence), 0.06)
    assert machine.next_deadline() <= 0.1
    (second,) = tell(e.Tick(), 0.1)[0].jobs
    assert second.number == first.number == 1
    # Not about one that it has ended since.
    tell(e.JobUnstarted("s", 1, first.worker, first.sequence + 1), 0.1)
    assert machine.next_deadline() > 1000
