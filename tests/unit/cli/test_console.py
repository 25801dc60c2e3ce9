"""The console: what is answered to what is typed."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from attrs import evolve

from dispy_trio.cli import console
from dispy_trio.cli.console import HELP, Commands, is_foreground, run_console
from dispy_trio.models import SlotHolder

from .fakes import FakeNode


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def commands(node: FakeNode) -> Commands:
    return Commands(node.control())


def test_stop_and_start_take_the_slots_away_and_give_them_back(
    node: FakeNode, commands: Commands
) -> None:
    assert commands.answer("cpus 3") == "cpus: 3"
    assert commands.answer("stop").startswith("cpus: 0;")
    assert commands.answer("stop").startswith("cpus: 0;")
    assert commands.answer("start") == "cpus: 3"
    assert node.calls == ["set_cpus 3", "set_cpus 0", "set_cpus 0", "set_cpus 3"]


def test_start_without_a_stop_gives_what_the_node_was_started_with(commands: Commands) -> None:
    assert commands.answer("cpus 0").startswith("cpus: 0;")
    assert commands.answer("start") == "cpus: 4"


def test_cpus_are_shown_and_set_and_refused(commands: Commands) -> None:
    assert commands.answer("cpus") == "cpus: 4 (of 4)"
    assert commands.answer("CPUS -1") == "cpus: 3"
    assert commands.answer("cpus 9") == "there are only 4 processors"
    assert commands.answer("cpus many") == "cpus takes a whole number, not 'many'"


def test_there_are_two_ways_to_end(node: FakeNode, commands: Commands) -> None:
    commands.answer(" exit ")
    commands.answer("quit")
    assert node.calls == ["leave", "quit"]


def test_clients_that_are_away_can_be_forgotten(commands: Commands) -> None:
    assert commands.answer("release") == "forgot 2 clients"
    assert commands.answer("release all") == "forgot 2 clients"
    assert commands.answer("release 10.0.0.9") == "no client 10.0.0.9 is away; away: none"


def test_jobs_that_run_on_for_absent_clients_are_shown_with_the_way_to_end_them(
    node: FakeNode, commands: Commands
) -> None:
    holders = [SlotHolder("10.0.0.7:4000", 2, 720.0), SlotHolder("10.0.0.8:4000", 1, None)]
    node.report = evolve(node.report, holders=holders)
    line = (
        "jobs run on for 10.0.0.7:4000 (2 slots, away for 12 min);"
        " to end them: release 10.0.0.7:4000"
    )
    assert commands.answer("release").splitlines() == ["forgot 2 clients", line]
    assert commands.answer("status").splitlines()[-1] == line


def test_help_names_every_command(commands: Commands) -> None:
    assert commands.answer("help") == HELP
    for word in ("quit", "exit", "stop", "start", "cpus", "release", "status"):
        assert word in HELP


@pytest.mark.parametrize("line", ["status", "", "what?", "quit now"])
def test_anything_else_is_answered_with_the_status(
    node: FakeNode, commands: Commands, line: str
) -> None:
    assert commands.answer(line).splitlines() == [
        "alpha on 127.0.0.1:9701",
        "cpus: 4 (of 4), 1 busy, 1 job done",
        "clients: 127.0.0.1:5000",
        "computations: compute",
    ]
    assert node.calls == []


def test_the_status_tells_the_hours(node: FakeNode) -> None:
    commands = Commands(node.control(), lambda: "service: open until 17:00")
    assert "service: open until 17:00" in commands.answer("status").splitlines()


def test_a_file_and_a_strange_terminal_are_not_in_the_foreground() -> None:
    ours, theirs = pty.openpty()
    reading, writing = os.pipe()
    try:
        assert not is_foreground(theirs)  # No session has it as its terminal.
        assert not is_foreground(reading)
    finally:
        for descriptor in (ours, theirs, reading, writing):
            os.close(descriptor)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Both ends of a terminal that counts as ours."""
    monkeypatch.setattr(console, "is_foreground", lambda descriptor: True)
    ours, theirs = pty.openpty()
    yield ours, theirs
    for descriptor in (ours, theirs):
        try:
            os.close(descriptor)
        except OSError:
            pass  # Closed by the test.


async def test_lines_are_answered_until_the_console_is_left(
    terminal: tuple[int, int], commands: Commands
) -> None:
    ours, theirs = terminal
    said: list[str] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_console, theirs, commands, said.append)
            await trio.testing.wait_all_tasks_blocked()
            assert "help" in said.pop()
            os.write(ours, b"cpus\nrelease\n\x04")  # Ctrl-D
    assert said == ["cpus: 4 (of 4)", "forgot 2 clients", "the console ends; the node goes on"]


async def test_a_line_may_come_in_parts(terminal: tuple[int, int], commands: Commands) -> None:
    ours, theirs = terminal
    said: list[str] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_console, theirs, commands, said.append)
            os.write(ours, b"rel\x04")  # Ctrl-D in a line only hands it over.
            await trio.testing.wait_all_tasks_blocked()
            os.write(ours, b"ease\n\x04")
    assert said[1:] == ["forgot 2 clients", "the console ends; the node goes on"]


async def test_a_terminal_that_is_closed_ends_the_console(
    terminal: tuple[int, int], commands: Commands
) -> None:
    ours, theirs = terminal
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_console, theirs, commands, lambda line: None)
            await trio.testing.wait_all_tasks_blocked()
            os.close(ours)


async def test_in_the_background_nothing_is_read(
    terminal: tuple[int, int],
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = terminal
    looks = iter([False, False, True, True])
    monkeypatch.setattr(console, "is_foreground", lambda descriptor: next(looks))
    said: list[str] = []
    answered = trio.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            answered.set()

    os.write(ours, b"cpus\n")
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(run_console, theirs, commands, say)
        await answered.wait()
        assert trio.current_time() - began >= 2 * console.LOOK_AGAIN
        nursery.cancel_scope.cancel()
    assert said[1] == "cpus: 4 (of 4)"
