"""The console of a node: commands, a line each, from the terminal it was started on.

It reads without threads, as soon as the terminal has a line, and only while the node is in the
foreground: a background process that reads from its terminal is stopped by the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio
from attrs import define, field

from dispy_trio.errors import LocalError
from dispy_trio.services.control import NodeControl, NodeReport

__all__ = ["Commands", "is_foreground", "run_console"]

LOOK_AGAIN = 1.0
"""Seconds between looks whether the node is in the foreground again; no event tells."""

HELP = """\
quit      end the node now, and the jobs that run
exit      end the node when the computations that are open are closed
stop      take no new jobs
start     take jobs again
cpus [N]  show or set the jobs that run at a time; -N leaves N processors free
release [CLIENT|all]
          forget clients that are away and have nothing running; or this client,
          or all that are away, and end their jobs
status    show what the node does (so does anything else)
Ctrl-D    leave the console; the node goes on"""


@define(eq=False)
class Commands:
    """What can be typed, and what is answered."""

    control: NodeControl
    describe_hours: Callable[[], str] = str
    """A line on the service hours; empty when there are none."""
    _before_stop: int = field(init=False)
    """Slots to go back to."""

    def __attrs_post_init__(self) -> None:
        self._before_stop = self.control.report().available

    def answer(self, line: str) -> str:
        """Do what the line says; return what to print."""
        words = line.split()
        match [word.lower() for word in words]:
            case ["quit"]:
                self.control.quit()
                return "the node ends now"
            case ["exit"]:
                self.control.leave()
                return "the node ends when its computations are closed"
            case ["stop"]:
                self._before_stop = self.control.report().cpus or self._before_stop
                return self._set_cpus(0)
            case ["start"]:
                return self._set_cpus(self._before_stop)
            case ["cpus"]:
                report = self.control.report()
                return f"cpus: {report.cpus} (of {report.available})"
            case ["cpus", count]:
                return self._set_cpus_to(count)
            case ["release"]:
                return self._release("")
            case ["release", client]:
                return self._release(client)
            case ["help" | "?"]:
                return HELP
            case _:
                return format_report(self.control.report(), self.describe_hours())

    def _release(self, client: str) -> str:
        try:
            forgot = f"forgot {_count(self.control.release(client), 'client')}"
        except LocalError as exc:
            return str(exc)
        return "\n".join([forgot, *_absent_holders(self.control.report())])

    def _set_cpus_to(self, count: str) -> str:
        try:
            return self._set_cpus(int(count))
        except ValueError:
            return f"cpus takes a whole number, not {count!r}"

    def _set_cpus(self, count: int) -> str:
        try:
            cpus = self.control.set_cpus(count)
        except LocalError as exc:
            return str(exc)
        return f"cpus: {cpus}" if cpus else "cpus: 0; what runs goes on, start takes jobs again"


def format_report(report: NodeReport, hours: str = "") -> str:
    """What the node does, in a few lines."""
    cpus = f"cpus: {report.cpus} (of {report.available}), {report.busy} busy"
    lines = [
        f"{report.name} on {report.address}" + (", stopping" if report.stopping else ""),
        f"{cpus}, {_count(report.jobs_done, 'job')} done",
        *([hours] if hours else []),
        f"clients: {', '.join(report.clients) or 'none'}",
        f"computations: {', '.join(report.computations) or 'none'}",
        *_absent_holders(report),
    ]
    return "\n".join(lines)


def _absent_holders(report: NodeReport) -> list[str]:
    """A line for each client that is away while its jobs run."""
    return [
        f"jobs run on for {holder}; to end them: release {holder.client}"
        for holder in report.holders
        if holder.away is not None
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def is_foreground(descriptor: int) -> bool:
    """Whether it is a terminal and this process may read from it."""
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False  # It is a terminal, but not ours.


async def run_console(descriptor: int, commands: Commands, say: Callable[[str], None]) -> None:
    """Answer each line that is typed, until the terminal has no more."""
    say('type "help" for what can be typed here')
    typed = b""
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        if not is_foreground(descriptor):
            if not os.isatty(descriptor):
                return
            await trio.sleep(LOOK_AGAIN)
            continue
        try:
            received = os.read(descriptor, 4096)
        except OSError:
            return  # The terminal is gone.
        if not received:
            say("the console ends; the node goes on")
            return
        *lines, typed = (typed + received).split(b"\n")
        for line in lines:
            say(commands.answer(line.decode(errors="replace")))
