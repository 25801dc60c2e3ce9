"""The tools by which tests and ``nox -s newcomer`` do what the README says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.readme import PRINTS, PYTHON, SHELL, Step, read_transcript, script_of, steps

MARK = "=== step"


def test_it_is_known_of_every_line_what_it_prints() -> None:
    lines = [step.text for step in steps() if step.expected is not None and step.language == SHELL]
    for begin in PRINTS:
        assert any(line.startswith(begin) for line in lines), f"{begin} is not in the README"


def test_steps_are_told_apart_and_the_first_that_fails_is_the_last(tmp_path: Path) -> None:
    chosen = [
        Step(SHELL, "python() { python3 \"$@\"; }; printf 'no newline'"),
        Step(PYTHON, "print('$HOME')\n"),
        Step(SHELL, "true && false && true"),
        Step(SHELL, "echo never"),
    ]
    script = tmp_path / "script"
    script.write_text(script_of(chosen, mark=MARK))
    done = subprocess.run(["sh", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    taken = read_transcript(chosen, done.stdout, mark=MARK)
    assert [each.step for each in taken] == chosen[:3]
    assert [each.printed for each in taken] == ["no newline", "$HOME\n", ""]
    assert [each.status for each in taken] == [0, 0, 1]
    assert taken[2].fault == "status 1"
