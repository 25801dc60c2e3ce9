"""Connections that are refused: of each source one is told, and then a minute's worth as a number.

Whoever has the wrong secret comes again every few seconds, and whoever looks for open doors comes
a thousand times: neither is to fill the log.
"""

from __future__ import annotations

from attrs import define, field

__all__ = ["MINUTE", "MOST_SOURCES", "THE_OTHERS", "Knocks"]

MINUTE = 60.0
"""Seconds for which a source is told of once."""
MOST_SOURCES = 1000
"""Sources that are told apart at a time; all beyond that count as one."""
THE_OTHERS = "other hosts"


@define(eq=False)
class Knocks:
    """Who was refused within the last minute, and how often that was not told."""

    _left_out: dict[str, int] = field(factory=dict)

    def refused(self, source: str) -> str | None:
        """Somebody from there was refused: None when that is only counted.

        Else it is to be told now; what is returned is to be given to `end_minute` after a minute.
        """
        if source not in self._left_out and len(self._left_out) >= MOST_SOURCES:
            source = THE_OTHERS
        if source in self._left_out:
            self._left_out[source] += 1
            return None
        self._left_out[source] = 0
        return source

    def end_minute(self, source: str) -> int:
        """How often it was refused since, untold; another minute begins unless that is 0."""
        count = self._left_out.pop(source)
        if count:
            self._left_out[source] = 0
        return count
