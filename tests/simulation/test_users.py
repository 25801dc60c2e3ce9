"""Trio programs that use a cluster in any way, and leave it in any way, while nodes fail.

Each block is left within its bound, each handle has ended, and nothing is left on any node that
answers. `tests.soak.users` plays more of them.
"""

from __future__ import annotations

import pytest

from .users import Users

SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_program_leaves_nothing_behind(seed: int) -> None:
    Users(seed).play()
