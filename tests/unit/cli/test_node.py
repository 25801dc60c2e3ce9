"""A node's signals and hours, without a node."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from dispy_trio.cli.node import Ending, describe_hours, keep_hours, save
from dispy_trio.cli.node_config import gather_options
from dispy_trio.errors import LocalError
from dispy_trio.services.hours import ServiceHours

from .fakes import FakeNode

NIGHT = ServiceHours(17 * 60, 6 * 60, 8 * 60)


@pytest.mark.parametrize(
    ("signals", "calls"),
    [
        ([signal.SIGINT], ["leave"]),
        ([signal.SIGINT, signal.SIGINT], ["leave", "quit"]),
        ([signal.SIGTERM], ["drain"]),
        ([signal.SIGTERM, signal.SIGTERM], ["drain", "quit"]),
        ([signal.SIGINT, signal.SIGTERM], ["leave", "drain"]),
        ([signal.SIGHUP], ["quit"]),
        ([signal.SIGQUIT], ["quit"]),
    ],
)
def test_what_signals_ask_for(signals: list[signal.Signals], calls: list[str]) -> None:
    node = FakeNode()
    ending = Ending(node.control(), lambda line: None)
    for number in signals:
        ending.on_signal(number)
    assert node.calls == calls


def test_ctrl_c_says_what_is_waited_for() -> None:
    said: list[str] = []
    node = FakeNode()
    Ending(node.control(), said.append).on_signal(signal.SIGINT)
    assert said == ["the node ends when all is closed (compute); once more to end it now"]


def test_ctrl_c_says_nothing_when_there_is_nothing_to_wait_for() -> None:
    said: list[str] = []
    node = FakeNode()
    node.report = attrs.evolve(node.report, computations=[])
    Ending(node.control(), said.append).on_signal(signal.SIGINT)
    assert said == []


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
