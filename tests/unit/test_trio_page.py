"""The page for Trio programs: each of its lines names tests that exist, and its programs run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dispy_trio.client.engine import CLOSE_GRACE, GOODBYE_GRACE
from dispy_trio.client.keeping import END_GRACE
from dispy_trio.client.stopping import ANSWER_SECONDS
from dispy_trio.models import GRACE, KILL_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trio.md"
TEXT = PAGE.read_text()
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\[test\]\((\S+) "(\w+)"\)')
PROGRAMS = CODE.findall(TEXT)


def promises() -> list[str]:
    """The items of lists and the rows of tables, without the heads of the tables."""
    lines = CODE.sub("", TEXT).splitlines()
    return [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith(("* ", "| ")) and "| --- " not in line + following
    ]


def functions_of(path: Path) -> set[str]:
    """The names of the functions of a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(path.read_text()).body
    return {node.name for node in body if isinstance(node, functions)}


@pytest.mark.parametrize("line", promises(), ids=lambda line: line[2:40])
def test_each_promise_names_tests_that_exist(line: str) -> None:
    links = LINK.findall(line)
    assert links
    assert len(links) == line.count("[test]")
    for path, name in links:
        file = (PAGE.parent / path).resolve()
        assert file.is_relative_to(ROOT / "tests")
        assert name.startswith("test_")
        assert name in functions_of(file), name


def test_seconds_are_those_that_hold_when_nothing_is_said() -> None:
    seconds = [cells.split(" | ")[2] for cells in promises() if cells.startswith("| ")]
    closing = f"{CLOSE_GRACE + GOODBYE_GRACE:g}"
    killed = f"`grace` + {KILL_SECONDS:g}, so {GRACE + KILL_SECONDS:g}"
    answer = KILL_SECONDS + ANSWER_SECONDS
    abandoned = f"`grace` + {answer:g}, so {GRACE + answer:g}"
    assert seconds == ["at once", closing, "at once", killed, abandoned, closing, closing]
    assert f"sets the grace, {GRACE:g} seconds" in TEXT
    assert f"An embedded node has {END_GRACE:g} seconds more" in TEXT


def test_nothing_is_promised_but_in_such_lines() -> None:
    first = TEXT.split("\n\n")[1]
    prose = [line for line in CODE.sub("", TEXT).splitlines() if line and line[0] not in "#*|"]
    assert prose == [first]
    assert "```" not in CODE.sub("", TEXT)


@pytest.mark.parametrize("code", PROGRAMS, ids=lambda code: code.splitlines()[-1])
def test_its_programs_run(code: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] in ("True", "7.0")
