"""Why nodes can't be used, in words."""

from __future__ import annotations

import pytest

from dispy_trio.client.troubles import Troubles


@pytest.mark.parametrize(
    ("reason", "said"),
    [("refused", "refused"), ("Traceback:\n  x\nOSError: gone\n", "OSError: gone"), (" \n", "")],
)
def test_of_a_reason_the_last_line_is_told_whatever_a_node_says(reason: str, said: str) -> None:
    troubles = Troubles()
    troubles.note("a:1", reason)
    assert troubles.describe(["a:1", "b:2"], {}) == f"a:1: {said}; b:2: no answer yet"
