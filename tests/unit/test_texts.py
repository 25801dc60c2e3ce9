"""Texts are made fit for the wire; paths are left as they are."""

from __future__ import annotations

import os

import pytest

from dispy_trio.texts import (
    NAME_LIMIT,
    NOTE_LIMIT,
    PATH_DEPTH,
    PATH_LIMIT,
    TEXT_LIMIT,
    FilePath,
    fit_name,
    fit_note,
    fit_text,
    readable,
)


def test_what_has_an_encoding_stays() -> None:
    for text in ("", "plain", "é 漢 \U0001f40d", "line\nline"):
        assert readable(text) == fit_name(text) == fit_note(text) == fit_text(text) == text


def test_what_has_none_is_escaped() -> None:
    assert readable("caf\udce9 \ud800") == r"caf\udce9 \ud800"


@pytest.mark.parametrize(
    ("fit", "limit"), [(fit_name, NAME_LIMIT), (fit_note, NOTE_LIMIT), (fit_text, TEXT_LIMIT)]
)
def test_a_long_text_is_cut_in_the_middle_and_says_so(fit: object, limit: int) -> None:
    assert callable(fit)
    whole = "x" * limit
    assert fit(whole) == whole
    cut = fit("begin" + whole + "end")
    assert len(cut) == limit
    assert cut.startswith("begin")
    assert cut.endswith("end")
    assert f" [… {limit + 8} characters, cut here …] " in cut
    assert fit(cut) == cut, "cut once"


@pytest.mark.parametrize(
    "name", [b"plain", "é".encode(), b"caf\xe9/x", b"\xff" * 255, b"n" * PATH_LIMIT, b""]
)
def test_a_path_keeps_its_bytes(name: bytes) -> None:
    path = FilePath.from_wire(name)
    assert path == os.fsdecode(name)
    assert path.to_wire() == name


@pytest.mark.parametrize(
    "data",
    [b"n" * (PATH_LIMIT + 1), b"d/" * PATH_DEPTH + b"f", b"a\0b", "text", None, 1],
    ids=["long", "deep", "NUL", "text", "None", "number"],
)
def test_what_can_be_no_path_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="a path"):
        FilePath.from_wire(data)


def test_what_no_file_is_called_has_no_bytes() -> None:
    with pytest.raises(UnicodeEncodeError):
        FilePath("\ud800").to_wire()
