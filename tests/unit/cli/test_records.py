"""JSON of commands: documents, lines, and what has no word in JSON."""

from __future__ import annotations

import json
import math
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.cli.records import JsonDocument, JsonLines, to_json


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2.5, None, True), [1, 2.5, None, True]),
        ({"a": {1: [b"x"]}}, {"a": {"1": ["b'x'"]}}),
        ({1}, "{1}"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (1j, "1j"),
        (Colour.RED, 1),
        ("caf\udce9 ☕", "caf\udce9 ☕"),
    ],
)
def test_what_json_has_no_word_for_is_told_as_python_does(value: Any, expected: Any) -> None:
    assert json.loads(to_json(value)) == expected


def test_lines_are_ascii_whatever_is_in_them() -> None:
    assert to_json("☕\n\udce9").isascii()
    assert "\n" not in to_json("☕\n\udce9")


def test_a_value_that_holds_itself_is_told_as_python_does() -> None:
    value: list[Any] = []
    value.append(value)
    assert json.loads(to_json(value)) == "[[...]]"


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner),
        max_leaves=20,
    )
)
def test_whatever_a_job_returns_is_json(value: Any) -> None:
    json.loads(to_json(value), parse_constant=no_constant)


@pytest.mark.parametrize("records", [[], [{"n": 1}], [{"n": 1}, {"n": 2}, {"n": 3}]])
def test_a_document_is_an_array_of_the_lines(records: list[dict[str, Any]]) -> None:
    lines: list[str] = []
    document: list[str] = []
    for writer in (JsonLines(lines.append), JsonDocument(document.append)):
        for record in records:
            writer.write(record)
        if isinstance(writer, JsonDocument) and records:
            with pytest.raises(json.JSONDecodeError):
                json.loads("\n".join(document))
        writer.end()
    assert [json.loads(line) for line in lines] == records
    assert json.loads("\n".join(document)) == records
