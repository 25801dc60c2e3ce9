"""What the documentation says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dispy_trio
from dispy_trio.core.jobs import MOVES, draw
from dispy_trio.core.sessions import WORKER_MOVES
from tests.readme import PYTHON, steps

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("moves", [MOVES, WORKER_MOVES], ids=["job", "worker"])
def test_pictures_of_states_are_drawn_from_the_tables(moves: dict) -> None:
    assert f"```mermaid\n{draw(moves)}\n```" in ARCHITECTURE


def test_every_module_named_in_the_architecture_exists() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", ARCHITECTURE)
    assert named
    for name in named:
        assert (ROOT / "src" / "dispy_trio" / name).exists(), name


@pytest.mark.parametrize(
    "code", [step.text for step in steps() if step.language == PYTHON], ids=lambda code: code[:30]
)
def test_the_readme_s_programs_run(code: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_exported_name_can_be_had() -> None:
    for name in dispy_trio.__all__:
        assert getattr(dispy_trio, name) is not None
