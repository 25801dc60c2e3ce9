"""The times of a job come from memory that the job itself can write to."""

from __future__ import annotations

import math

import pytest

from dispy_trio import messages
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core import workers
from dispy_trio.core.node import NodeMachine, TemplateReport
from dispy_trio.protocol.codec import decode, encode


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e308, -1e308])
def test_times_that_are_none_hurt_nobody(odd: float) -> None:
    machine = NodeMachine("node", slots=1)

    def handle(event: object) -> list[c.NodeCommand]:
        commands = machine.handle(event, now=1.0)  # type: ignore[arg-type]
        machine.validate()
        return commands

    def report(event: workers.TemplateEvent) -> list[c.NodeCommand]:
        return handle(TemplateReport("s", 1, event))

    def tell(message: messages.Message) -> list[c.NodeCommand]:
        return handle(e.MessageReceived("s", message))

    handle(e.SessionConnected("s", "peer"))
    tell(messages.OpenComputation(1, "n", "00", b"", 0))
    report(workers.TemplateReady())
    tell(messages.RunJobs(1, [1], [0], [b"p"], []))
    report(workers.WorkerStarted(1, 7))
    done = report(
        workers.WorkerResults(1, [workers.WorkerResult(1, 0, odd, -odd, b"r")]),
    )
    (results,) = [command for command in done if isinstance(command, c.SendResults)]
    frame = encode(results.message)
    assert decode(frame[4], memoryview(frame)[5:], "p") == results.message
    given = tell(messages.RunJobs(1, [2], [0], [b"p"], [1]))
    assert any(isinstance(command, c.SendJobsToWorker) for command in given), "it goes on"
