"""A node that only writes down what is asked of it."""

from __future__ import annotations

from attrs import define, evolve, field

from dispy_trio.errors import LocalError
from dispy_trio.services.control import NodeControl, NodeReport

BUSY = NodeReport(
    name="alpha",
    address="127.0.0.1:9701",
    cpus=4,
    available=4,
    busy=1,
    jobs_done=1,
    clients=["127.0.0.1:5000"],
    computations=["compute"],
    stopping=False,
)


@define(eq=False)
class FakeNode:
    report: NodeReport = BUSY
    calls: list[str] = field(factory=list)

    def control(self) -> NodeControl:
        def note(name: str) -> None:
            self.calls.append(name)

        return NodeControl(
            host="127.0.0.1",
            port=9701,
            set_cpus=self.set_cpus,
            terminate_jobs=lambda: note("terminate_jobs"),
            drain=lambda: note("drain"),
            leave=lambda: note("leave"),
            quit=lambda: note("quit"),
            release=self.release,
            report=lambda: self.report,
        )

    def release(self, client: str) -> int:
        if client and client != "all":
            raise LocalError(f"no client {client} is away; away: none")
        return 2

    def set_cpus(self, count: int) -> int:
        if count > self.report.available:
            raise LocalError(f"there are only {self.report.available} processors")
        self.calls.append(f"set_cpus {count}")
        cpus = count if count >= 0 else self.report.available + count
        self.report = evolve(self.report, cpus=cpus)
        return cpus
