"""Texts of a job's processes fit into their messages."""

from __future__ import annotations

import json

import pytest

from dispy_trio.child.texts import fit


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f40d", "\udce9", "\0", '"'])
@pytest.mark.parametrize("length", [0, 1, 100, 1_000, 10_000, 1_000_000])
def test_it_fits_and_says_what_it_was(letter: str, length: int) -> None:
    text = "begin" + letter * length + "end"
    fitted = fit(text, 4096)
    assert len(json.dumps(fitted)) <= 4096
    assert fitted.startswith("begin")
    assert fitted.endswith("end")
    whole = len(json.dumps(text)) <= 4096
    assert (fitted == text) == whole
    assert whole or f"[… {len(text)} characters, cut here …]" in fitted
