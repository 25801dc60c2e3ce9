"""Trio programs that use a cluster in any way, and leave it in any way, while nodes fail.

Each block is left within its bound, each handle has ended, and nothing is left on any node that
answers. ``DISPY_TRIO_SEEDS=2000`` plays that many.
"""

from __future__ import annotations

import os

import pytest

from .users import Users

SEEDS = range(int(os.environ.get("DISPY_TRIO_SEEDS", "60")))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_program_leaves_nothing_behind(seed: int) -> None:
    Users(seed).play()
