"""A node's signals and hours, without a node."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from dispy_trio.cli.node import Ending, Voice, describe_hours, keep_hours, save
from dispy_trio.cli.node_config import gather_options
from dispy_trio.errors import LocalError
from dispy_trio.services.hours import ServiceHours

from .fakes import FakeNode

NIGHT = ServiceHours(17 * 60, 6 * 60, 8 * 60)


@pytest.mark.parametrize(
    ("signals", "calls", "status"),
    [
        ([signal.SIGINT], ["leave"], 130),
        ([signal.SIGINT, signal.SIGINT], ["leave", "quit"], 130),
        ([signal.SIGTERM], ["drain"], 143),
        ([signal.SIGTERM, signal.SIGTERM], ["drain", "quit"], 143),
        ([signal.SIGINT, signal.SIGTERM], ["leave", "drain"], 143),
        ([signal.SIGHUP], ["quit"], 129),
        ([signal.SIGQUIT], ["quit"], 131),
        ([], [], 0),
    ],
)
def test_what_signals_ask_for(
    signals: list[signal.Signals],
    calls: list[str],
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = FakeNode()
    ending = Ending(node.control(), Voice())
    for number in signals:
        ending.on_signal(number)
    assert node.calls == calls
    assert ending.voice.ended(ending.number) == status
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"the node has ended{f' ({signals[-1].name})' if signals else ''}"


@pytest.mark.parametrize(
    ("number", "busy", "said"),
    [
        (signal.SIGINT, 1, "the node ends when all is closed (compute); once more to end it now"),
        (signal.SIGTERM, 1, "the node ends when the job that runs ends; once more to end it now"),
        (signal.SIGTERM, 3, "the node ends when 3 jobs end; once more to end it now"),
    ],
)
def test_a_signal_says_what_is_waited_for(
    number: signal.Signals, busy: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node = FakeNode()
    node.report = attrs.evolve(node.report, busy=busy)
    Ending(node.control(), Voice()).on_signal(number)
    assert capsys.readouterr() == ("", f"{said}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_nothing_when_there_is_nothing_to_wait_for(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    node = FakeNode()
    node.report = attrs.evolve(node.report, computations=[], busy=0)
    Ending(node.control(), Voice()).on_signal(number)
    assert capsys.readouterr() == ("", "")


def test_events_of_a_node_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    node = FakeNode()
    voice = Voice(as_lines=True)
    voice.listening(node.control())
    Ending(node.control(), voice).on_signal(signal.SIGTERM)
    assert voice.ended(signal.SIGTERM) == 143
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "event": "listening",
            "address": "127.0.0.1:9701",
            "name": "alpha",
            "slots": 4,
            "process": os.getpid(),
        },
        {"event": "ending", "signal": "SIGTERM", "jobs": 1, "computations": ["compute"]},
        {"event": "ended", "status": 143},
    ]
    assert err.splitlines()[-1] == "the node has ended (SIGTERM)"


def test_a_node_as_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    voice = Voice(as_json=True)
    voice.listening(FakeNode().control())
    voice.ended(None)
    assert json.loads(capsys.readouterr().out)["event"] == "listening"


def test_a_node_whose_readers_are_gone_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        monkeypatch.setattr(sys, "stderr", nobody)
        assert Voice(as_lines=True).ended(signal.SIGHUP) == 129
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # For what its buffer has left.


def clock(start: str) -> Callable[[], datetime]:
    """A wall clock that goes with Trio's."""
    wall, began = datetime.fromisoformat(start), trio.current_time()
    return lambda: wall + timedelta(seconds=trio.current_time() - began)


async def test_a_day_of_a_node_with_hours(autojump_clock: trio.testing.MockClock) -> None:
    node = FakeNode()
    now = clock("2024-05-06 05:30:30")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_hours, NIGHT, node.control(), now)
        seen = []
        while now() < datetime(2024, 5, 7, 7):
            await trio.sleep(1)
            if node.calls:
                seen.append((f"{now():%d %H:%M}", *node.calls))
                node.calls.clear()
        nursery.cancel_scope.cancel()
    assert seen == [
        ("06 06:00", "set_cpus 0"),
        ("06 08:00", "set_cpus 0", "terminate_jobs"),
        ("06 17:00", "set_cpus 4"),
        ("07 06:00", "set_cpus 0"),
    ]


async def test_a_node_that_starts_out_of_hours_is_shut(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = FakeNode()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_hours, NIGHT, node.control(), clock("2024-05-06 12:00"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert node.calls == ["set_cpus 0", "terminate_jobs"]


async def test_a_clock_that_is_set_is_noticed_within_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = FakeNode()
    moment = datetime(2024, 5, 6, 18)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_hours, NIGHT, node.control(), lambda: moment)
        await trio.sleep(1)
        assert node.calls == []
        moment = datetime(2024, 5, 6, 7)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert node.calls == ["set_cpus 0"]


def test_the_hours_are_described() -> None:
    assert describe_hours(None, datetime(2024, 5, 6)) == ""
    assert describe_hours(NIGHT, datetime(2024, 5, 6)) == "service: open until 06:00"


def test_options_that_could_not_run_are_not_saved(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    with pytest.raises(LocalError, match="--service-start"):
        save(file, gather_options({"service_start": "8:00"}))
    assert not file.exists()


def test_a_secret_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "node.toml", gather_options({"secret": "a word"}))
    assert "has no secret in it" in caplog.text
