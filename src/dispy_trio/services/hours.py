"""When a node serves: arithmetic on times of the day; nobody's clock is read here.

The day is a ring on which up to three moments lie: from *start* on jobs are taken, from *stop* on
no new ones, and at *end* those that still run are terminated, until it is *start* again. So a
window may cross midnight: 17:00, 6:00, 8:00 is a night's work.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta

from attrs import field, frozen

from dispy_trio.errors import LocalError

__all__ = ["MINUTES_OF_DAY", "ServiceHours", "ServiceState", "parse_time"]

MINUTES_OF_DAY = 24 * 60


class ServiceState(enum.Enum):
    """What a node does at a moment."""

    OPEN = "open"
    STOPPED = "stopped"
    """No new jobs; those that run go on."""
    ENDED = "ended"
    """No jobs at all."""


def parse_time(text: str) -> int:
    """The minute of the day that ``HH:MM`` is.

    Raises:
        ValueError: it is no such time.
    """
    hours, colon, minutes = text.partition(":")
    digits = hours.isdecimal() and minutes.isdecimal() and len(hours) <= 2 and len(minutes) == 2
    if not colon or not digits or int(hours) > 23 or int(minutes) > 59:
        raise ValueError(f"must be a time of the day, HH:MM from 00:00 to 23:59, not {text!r}")
    return int(hours) * 60 + int(minutes)


@frozen
class ServiceHours:
    """The daily window of a node, in minutes of the local day.

    Raises:
        LocalError: neither stop nor end is given, or they do not follow one another.
    """

    start: int | None = None
    """None for midnight: so a node that is started later in the window serves at once."""
    stop: int | None = None
    end: int | None = None
    _changes: list[tuple[int, ServiceState]] = field(init=False, repr=False, eq=False)
    """Sorted by the minute."""

    @_changes.default
    def _find_changes(self) -> list[tuple[int, ServiceState]]:
        if self.stop is None and self.end is None:
            raise LocalError("service hours need a stop or an end")
        start = self.start or 0
        changes = [(start, ServiceState.OPEN)]
        if self.stop is not None:
            changes.append((self.stop, ServiceState.STOPPED))
        if self.end is not None:
            changes.append((self.end, ServiceState.ENDED))
        if any(not 0 <= minute < MINUTES_OF_DAY for minute, _ in changes):
            raise LocalError("service hours are minutes of one day")
        after_start = [(minute - start) % MINUTES_OF_DAY for minute, _ in changes]
        if after_start != sorted(set(after_start)):
            raise LocalError(
                "service hours must follow one another within a day: start, then stop, then end"
                f" (given: {', '.join(f'{state.value} at {_clock(m)}' for m, state in changes)})"
            )
        return sorted(changes, key=lambda change: change[0])

    def at(self, now: datetime) -> tuple[ServiceState, datetime]:
        """The state at a local time, and when it changes next."""
        minute = now.hour * 60 + now.minute
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        # Before the day's first change, the last one of yesterday holds.
        state = self._changes[-1][1]
        for moment, following in self._changes:
            if moment > minute:
                return state, midnight + timedelta(minutes=moment)
            state = following
        return state, midnight + timedelta(days=1, minutes=self._changes[0][0])


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
