"""What README.md says to type, and what a reader may expect to see; for tests and `tests.newcomer`.

On the standard library alone: it runs where nothing is installed yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PYTHON, SHELL = "python", "sh"


@dataclass(frozen=True)
class Step:
    """A line for a shell, or a whole program."""

    language: str
    text: str

    @property
    def expected(self) -> str:
        """A pattern for what it prints.

        Raises:
            KeyError: nobody has said yet what is to be expected of this line.
        """
        if self.language == PYTHON:
            return "."
        for begin, pattern in PRINTS.items():
            if self.text.startswith(begin):
                return pattern
        raise KeyError(self.text)

    @property
    def needs_an_index(self) -> bool:
        """Does it install something?"""
        return " -m pip " in self.text


PRINTS = {
    "python3 -m venv .venv && .venv/bin/python -m pip install . &&": r"(?m)(^\S+ \d+\n){10}",
    ". .venv/bin/activate": r"^$",
    "python3 -m venv .venv && .venv/bin/python -m pip install nox": "was successful",
    "dispy-trio run examples/collatz.py 27 97 871": "27: 111 steps",
    "python -m pip wheel": "Successfully built dispy-trio",
    "ssh other 'python3 -m venv": "Successfully installed .*dispy-trio",
    "ssh other 'mkdir": r"^$",
    "scp ": "",
    "ssh other 'nohup": r"^$",
    "python -c 'import dispy_trio": r"(?m)^1$",
    "ssh other 'dispy/bin/dispy-trio node": r"",
    "dispy-trio mapreduce": r"(?m)^dispy\t\d+$",
    ".venv/bin/python -m pip install nox && .venv/bin/nox -s bench": r"(?m)^dispy_trio +\d",
}
"""By how a line begins."""


def steps() -> list[Step]:
    """All of the README, from top to bottom."""
    found = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
        if language == SHELL:
            found += [Step(SHELL, line) for line in text.splitlines()]
        elif language == PYTHON:
            found.append(Step(PYTHON, text))
    return found


def script_of(chosen: list[Step], *, mark: str) -> str:
    """A shell's script that takes these steps, one after the other, until one of them fails.

    After each of them it prints a line with the mark, the number of the step, its status and its seconds.
    """
    lines = ["exec 2>&1"]
    for number, step in enumerate(chosen):
        lines.append("began=$(date +%s.%N)")
        if step.language == SHELL:
            lines.append(step.text)
        else:
            lines += ["cat >program.py <<'END OF PROGRAM'", step.text + "END OF PROGRAM"]
            lines.append("python program.py")
        lines.append(
            f'status=$?; printf "\\n"; echo "{mark} {number} $status $began $(date +%s.%N)"'
            "; [ $status = 0 ] || exit 1"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Taken:
    """A step and what came of it."""

    step: Step
    printed: str
    status: int
    seconds: float

    @property
    def fault(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.status != 0:
            return f"status {self.status}"
        if not re.search(self.step.expected, self.printed):
            return f"{self.step.expected!r} was expected"
        return None


def read_transcript(chosen: list[Step], transcript: str, *, mark: str) -> list[Taken]:
    """What a script of `script_of` printed, by its steps; those it did not come to are missing."""
    found = []
    ends = re.compile(rf"^{re.escape(mark)} (\d+) (\d+) (\S+) (\S+)\n", re.MULTILINE)
    begin = 0
    for end in ends.finditer(transcript):
        number, status, began, ended = end.groups()
        printed = transcript[begin : end.start()].removesuffix("\n")
        seconds = float(ended) - float(began)
        found.append(Taken(chosen[int(number)], printed, int(status), seconds))
        begin = end.end()
    return found
