"""What commands print for other programs: JSON, as one document or a line for each record.

A document is an array of what the lines would be, so that both are described once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define

from dispy_trio.cli.saying import say, spell
from dispy_trio.errors import LocalError

__all__ = ["JsonDocument", "JsonLines", "RecordWriter", "check_choice", "choose_writer", "to_json"]

Record = dict[str, Any]


class RecordWriter(Protocol):
    """Takes the records of a command, in order."""

    def write(self, record: Record) -> None:
        """One more."""
        ...

    def end(self) -> None:
        """That was the last one."""
        ...


@define(eq=False)
class JsonLines:
    """A line for each, at once."""

    say: Callable[[str], None]

    def write(self, record: Record) -> None:
        self.say(to_json(record))

    def end(self) -> None:
        """Nothing is left to say."""


@define(eq=False)
class JsonDocument:
    """An array, an element a line; without its end it is no JSON, so nobody takes half for all."""

    say: Callable[[str], None]
    _waiting: str = ""

    def write(self, record: Record) -> None:
        self.say(f"{self._waiting}," if self._waiting else "[")
        self._waiting = to_json(record)

    def end(self) -> None:
        if not self._waiting:
            self.say("[")
        else:
            self.say(self._waiting)
        self.say("]")


def check_choice(*, as_json: bool, as_lines: bool) -> None:
    """See that at most one of ``--json`` and ``--jsonl`` is given.

    Raises:
        LocalError: both are.
    """
    if as_json and as_lines:
        raise LocalError("--json and --jsonl: give one of them")


def choose_writer(*, as_json: bool, as_lines: bool) -> RecordWriter | None:
    """What ``--json`` and ``--jsonl`` ask for; None for text.

    Raises:
        LocalError: both are given.
    """
    check_choice(as_json=as_json, as_lines=as_lines)
    if as_json:
        return JsonDocument(say)
    return JsonLines(say) if as_lines else None


def to_json(value: Any) -> str:
    """JSON on one line, in ASCII. What JSON has no word for is a string, as `repr` tells it."""
    try:
        return json.dumps(_plain(value))
    except RecursionError:
        return json.dumps(spell(value))


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else spell(value)
        case dict():
            return {
                key if isinstance(key, str) else spell(key): _plain(element)
                for key, element in value.items()
            }
        case list() | tuple():
            return [_plain(element) for element in value]
        case _:
            return spell(value)
