"""Which refused connections are told, and which only counted."""

from __future__ import annotations

from dispy_trio.services.knocks import MOST_SOURCES, THE_OTHERS, Knocks


def test_a_source_is_told_of_once_a_minute_with_the_number_of_the_others() -> None:
    knocks = Knocks()
    assert knocks.refused("10.0.0.7") == "10.0.0.7"
    assert [knocks.refused("10.0.0.7") for _ in range(41)] == [None] * 41
    assert knocks.refused("10.0.0.8") == "10.0.0.8"
    assert knocks.end_minute("10.0.0.7") == 41


def test_who_goes_on_is_told_of_as_a_number_and_who_stops_is_forgotten() -> None:
    knocks = Knocks()
    knocks.refused("10.0.0.7")
    knocks.refused("10.0.0.7")
    assert knocks.end_minute("10.0.0.7") == 1
    assert knocks.refused("10.0.0.7") is None
    assert knocks.end_minute("10.0.0.7") == 1
    assert knocks.end_minute("10.0.0.7") == 0
    assert knocks.refused("10.0.0.7") == "10.0.0.7"


def test_many_sources_take_bounded_room_and_are_told_as_one() -> None:
    knocks = Knocks()
    for number in range(MOST_SOURCES):
        assert knocks.refused(f"host {number}") == f"host {number}"
    assert knocks.refused("one more") == THE_OTHERS
    assert knocks.refused("and another") is None
    assert knocks.refused("host 7") is None
    assert knocks.end_minute(THE_OTHERS) == 1
    assert knocks.end_minute("host 7") == 1
