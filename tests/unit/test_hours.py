"""Service hours: windows of the day, also across midnight."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.errors import LocalError
from dispy_trio.services.hours import MINUTES_OF_DAY, ServiceHours, ServiceState, parse_time

OPEN, STOPPED, ENDED = ServiceState.OPEN, ServiceState.STOPPED, ServiceState.ENDED

moments = st.datetimes(datetime(1971, 1, 2), datetime(2100, 1, 1))
minutes = st.integers(0, MINUTES_OF_DAY - 1)


@st.composite
def windows(draw: st.DrawFn) -> ServiceHours:
    """Any legal window: a start, and a stop and an end at growing distances from it."""
    start = draw(minutes)
    distances = sorted(draw(st.sets(st.integers(1, MINUTES_OF_DAY - 1), min_size=2, max_size=2)))
    stop, end = ((start + distance) % MINUTES_OF_DAY for distance in distances)
    kept = draw(st.sampled_from(["both", "stop", "end"]))
    return ServiceHours(start, None if kept == "end" else stop, None if kept == "stop" else end)


def at(hours: ServiceHours, time: str) -> tuple[ServiceState, str]:
    state, change = hours.at(datetime.fromisoformat(f"2024-05-06 {time}"))
    return state, change.strftime("%d %H:%M")


def test_the_manual_s_example_crosses_midnight() -> None:
    hours = ServiceHours(parse_time("17:00"), parse_time("6:00"), parse_time("8:00"))
    assert at(hours, "16:59:59") == (ENDED, "06 17:00")
    assert at(hours, "17:00:00") == (OPEN, "07 06:00")
    assert at(hours, "23:59:59") == (OPEN, "07 06:00")
    assert at(hours, "00:00:00") == (OPEN, "06 06:00")
    assert at(hours, "06:00:00") == (STOPPED, "06 08:00")
    assert at(hours, "07:59:59.999999") == (STOPPED, "06 08:00")
    assert at(hours, "08:00:00") == (ENDED, "06 17:00")


def test_without_a_start_the_day_begins_at_midnight() -> None:
    hours = ServiceHours(stop=parse_time("17:00"), end=parse_time("19:00"))
    assert at(hours, "00:00") == (OPEN, "06 17:00")
    assert at(hours, "18:00") == (STOPPED, "06 19:00")
    assert at(hours, "20:00") == (ENDED, "07 00:00")


def test_without_an_end_what_runs_may_go_on() -> None:
    hours = ServiceHours(start=parse_time("9:00"), stop=parse_time("12:30"))
    assert at(hours, "8:00".zfill(5)) == (STOPPED, "06 09:00")
    assert at(hours, "12:00") == (OPEN, "06 12:30")


def test_without_a_stop_jobs_are_taken_until_the_end() -> None:
    hours = ServiceHours(start=parse_time("9:00"), end=parse_time("12:30"))
    assert at(hours, "12:29") == (OPEN, "06 12:30")
    assert at(hours, "12:30") == (ENDED, "07 09:00")


def test_a_change_at_the_end_of_a_month_is_on_the_first() -> None:
    _, change = ServiceHours(start=0, end=1).at(datetime(2024, 2, 29, 12))
    assert change == datetime(2024, 3, 1)


@pytest.mark.parametrize(
    "hours",
    [(540, None, None), (None, None, None), (None, 0, None), (5, 5, None), (5, 9, 9), (5, 9, 7)],
)
def test_hours_that_do_not_follow_one_another_are_refused(
    hours: tuple[int | None, int | None, int | None],
) -> None:
    with pytest.raises(LocalError, match="service hours"):
        ServiceHours(*hours)


def test_minutes_of_another_day_are_refused() -> None:
    with pytest.raises(LocalError, match="one day"):
        ServiceHours(0, MINUTES_OF_DAY)


@given(windows(), moments)
def test_a_state_holds_until_the_change_that_was_told_and_not_longer(
    hours: ServiceHours, now: datetime
) -> None:
    state, change = hours.at(now)
    assert now < change <= now + timedelta(days=1)
    assert change.second == change.microsecond == 0
    assert hours.at(change - timedelta(microseconds=1)) == (state, change)
    assert hours.at(change)[0] != state


@given(windows(), moments)
def test_the_states_follow_one_another_in_one_order(hours: ServiceHours, now: datetime) -> None:
    order = [OPEN]
    order += [STOPPED] if hours.stop is not None else []
    order += [ENDED] if hours.end is not None else []
    state, change = hours.at(now)
    following, _ = hours.at(change)
    assert following == order[(order.index(state) + 1) % len(order)]


@given(windows(), moments)
def test_every_day_is_like_the_next(hours: ServiceHours, now: datetime) -> None:
    state, change = hours.at(now)
    assert hours.at(now + timedelta(days=1)) == (state, change + timedelta(days=1))


@given(minutes)
def test_a_time_is_read_as_it_is_written(minute: int) -> None:
    assert parse_time(f"{minute // 60}:{minute % 60:02}") == minute
    assert parse_time(f"{minute // 60:02}:{minute % 60:02}") == minute


@pytest.mark.parametrize(
    "text", ["", "8", "24:00", "8:60", "8:5", "-1:00", "008:00", "8:00:00", "²:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HH:MM"):
        parse_time(text)
