"""Runs a node for the command line: its lock, its signals, its hours and its console."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import trio
from attrs import define, field

from dispy_trio.cli.console import Commands, is_foreground, run_console
from dispy_trio.cli.node_config import (
    NodeOptions,
    hours_of,
    options_without_effect,
    settings_of,
    write_config,
)
from dispy_trio.cli.node_lock import claim_given_port, claim_port, clean_prefix
from dispy_trio.cli.records import to_json
from dispy_trio.cli.saying import remark, say
from dispy_trio.cli.vocabulary import SECRET_SEEN
from dispy_trio.config import NodeSettings
from dispy_trio.errors import DispyError, LocalError, innermost
from dispy_trio.services.control import NodeControl, NodeReport
from dispy_trio.services.hours import ServiceHours, ServiceState
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import Outside, default_prefix, real_outside

__all__ = ["Ending", "Voice", "keep_hours", "run", "save"]

log = logging.getLogger("dispy_trio.node")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOOK_AGAIN = 60.0
"""Seconds between looks at the clock: it may be set, and the machine may sleep."""


def save(file: Path, options: NodeOptions) -> None:
    """Write the options as a file for ``--config``, instead of running.

    Raises:
        LocalError: they contradict each other, or the file can't be written.
    """
    settings_of(options)
    hours_of(options)
    write_config(file, options)
    if options.secret or options.admin_secret:
        log.warning("%s has no secret in it; keep that in a file for --secret-file", file)


def run(options: NodeOptions, voice: Voice) -> int:
    """Run until it is told to end: by a signal, its console, or its last client.

    Returns the exit status.

    Raises:
        DispyError: the node can't start; says why.
    """
    settings = settings_of(options)
    hours = hours_of(options)
    for line in options_without_effect(options):
        log.warning("%s", line)
    if options.secret:
        log.warning("%s", SECRET_SEEN)
    prefix = _prefix_of(settings)
    settings = attrs.evolve(settings, dest_path_prefix=prefix)
    with claim_port(prefix, settings.host, options.port, end_other=options.clean) as lock:
        if options.clean or options.serve == 0:
            clean_prefix(prefix, lock)
        return _serve(settings, options, hours, voice) if options.serve != 0 else 0


def _prefix_of(settings: NodeSettings) -> Path:
    return settings.dest_path_prefix or default_prefix()


def _serve(
    settings: NodeSettings, options: NodeOptions, hours: ServiceHours | None, voice: Voice
) -> int:
    outside = real_outside(settings, alone=True)
    number: int | None = None
    try:
        number = trio.run(_attend, settings, outside, options, hours, voice)
    # No `except*`: what is raised there is a group itself on Python before 3.11.4.
    except BaseExceptionGroup as group:
        told, others = group.split(DispyError)
        if told is None or others is not None:
            raise
        raise innermost(told) from group
    finally:
        if options.port_file is not None:
            options.port_file.unlink(missing_ok=True)
    return voice.ended(number)


async def _attend(
    settings: NodeSettings,
    outside: Outside,
    options: NodeOptions,
    hours: ServiceHours | None,
    voice: Voice,
) -> int | None:
    """Run the node; what may be done to it ends with it. Returns the signal that ended it."""
    # What is ignored stays so: nohup, and a shell for what it starts in the background, count on it.
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    with ExitStack() as claims, trio.open_signal_receiver(*handled) as signals:
        async with trio.open_nursery() as attendants:
            async with trio.open_nursery() as nursery:
                control: NodeControl = await nursery.start(run_node, settings, outside)
                if not options.port:
                    claim = claim_given_port(_prefix_of(settings), settings.host, control.port)
                    claims.enter_context(claim)
                ending = Ending(control, voice)
                attendants.start_soon(_obey, ending, signals)
                if hours is not None:
                    attendants.start_soon(keep_hours, hours, control, datetime.now)
                if options.port_file is not None:
                    _write_port(options.port_file, control.port)
                voice.listening(control)
                terminal = _terminal()
                if terminal is not None and not options.daemon:
                    commands = Commands(control, lambda: describe_hours(hours, datetime.now()))
                    attendants.start_soon(run_console, terminal, commands, voice.say)
            attendants.cancel_scope.cancel()
    return ending.number


# --- what is told ----------------------------------------------------------------------------
@define(eq=False)
class Voice:
    """What a node tells: on stdout where it listens, all else on stderr."""

    as_json: bool = False
    """An object in place of the line."""
    as_lines: bool = False
    """The same, and one for each event that follows."""

    def listening(self, control: NodeControl) -> None:
        """Clients may come."""
        address = f"{control.host}:{control.port}"
        if not self.as_json and not self.as_lines:
            say(f"listening on {address}")
            return
        report = control.report()
        event = {
            "event": "listening",
            "address": address,
            "name": report.name,
            "slots": report.cpus,
            "process": os.getpid(),
        }
        say(to_json(event))

    def ending(self, number: int, report: NodeReport, text: str) -> None:
        """It was asked to end by a signal; `text` tells what is waited for, if anything is."""
        if text:
            self.say(text)
        self._tell(
            {
                "event": "ending",
                "signal": signal.Signals(number).name,
                "jobs": report.busy,
                "computations": report.computations,
            }
        )

    def ended(self, number: int | None) -> int:
        """It has ended, by a signal or by itself; returns the exit status."""
        status = 0 if number is None else 128 + number
        self.say(
            f"the node has ended{'' if number is None else f' ({signal.Signals(number).name})'}"
        )
        self._tell({"event": "ended", "status": status})
        return status

    def say(self, text: str) -> None:
        """Tell people."""
        try:
            remark(text)
        except OSError:
            pass  # The terminal is gone, which may be why the node ends.

    def _tell(self, event: dict[str, Any]) -> None:
        if self.as_lines:
            try:
                say(to_json(event))
            except (BrokenPipeError, DispyError):
                pass  # Nobody reads it any more.


# --- signals ---------------------------------------------------------------------------------
@define(eq=False)
class Ending:
    """What a signal means: the first asks the node to end in good order, the same again insists."""

    control: NodeControl
    voice: Voice
    number: int | None = None
    """The signal that came last."""
    _asked: set[int] = field(factory=set)

    def on_signal(self, number: int) -> None:
        report = self.control.report()
        self.number = number
        waits_for = ""
        if number in (signal.SIGHUP, signal.SIGQUIT) or number in self._asked:
            self.control.quit()
        elif number == signal.SIGTERM:
            self.control.drain()
            if report.busy:
                jobs = "the job that runs ends" if report.busy == 1 else f"{report.busy} jobs end"
                waits_for = f"the node ends when {jobs}; once more to end it now"
        else:
            self.control.leave()
            if report.computations:
                open_ones = ", ".join(report.computations)
                waits_for = (
                    f"the node ends when all is closed ({open_ones}); once more to end it now"
                )
        self._asked.add(number)
        self.voice.ending(number, report, waits_for)


async def _obey(ending: Ending, signals: AsyncIterator[int]) -> None:
    async for number in signals:
        ending.on_signal(number)


# --- service hours ---------------------------------------------------------------------------
async def keep_hours(
    hours: ServiceHours, control: NodeControl, now: Callable[[], datetime]
) -> None:
    """Open and shut the node at its hours.

    Args:
        hours: when.
        control: of the node.
        now: tells the local time.
    """
    slots = control.report().available
    state = ServiceState.OPEN
    while True:
        moment = now()
        following, change = hours.at(moment)
        if following != state:
            log.info("service hours: %s until %s", following.value, change)
            control.set_cpus(slots if following == ServiceState.OPEN else 0)
            if following == ServiceState.ENDED:
                control.terminate_jobs()
            state = following
        await trio.sleep(min((change - moment).total_seconds(), LOOK_AGAIN))


def describe_hours(hours: ServiceHours | None, now: datetime) -> str:
    """A line on the state; empty when there are no hours."""
    if hours is None:
        return ""
    state, change = hours.at(now)
    return f"service: {state.value} until {change:%H:%M}"


# --- small things ----------------------------------------------------------------------------
def _terminal() -> int | None:
    """The descriptor of the terminal to read commands from."""
    if sys.stdin is None or sys.stdin.closed:
        return None
    try:
        descriptor = sys.stdin.fileno()
    except OSError:
        return None
    return descriptor if is_foreground(descriptor) else None


def _write_port(path: Path, port: int) -> None:
    """Whole or not at all: scripts wait for the file to appear."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(f"{port}\n")
        draft.replace(path)
    except OSError as exc:
        raise LocalError(f"--port-file: can't write {path}: {exc.strerror}") from exc
