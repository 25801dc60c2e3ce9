"""What a benchmark hands over: figures as one JSON object a line, or as tables for people.

With ``json=True`` stdout carries nothing but one object per measurement, written the moment it is
added, so that a run cut short still leaves what it measured; everything meant for people goes to
stderr. Without it, everything goes to stdout and no JSON is written.
"""

import json as jsonlib
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TextIO

from attrs import asdict, define, field, frozen

_COLUMN_GAP = "  "
_NOTHING = "–"


@frozen
class Measurement:
    """One figure: what was measured, on whom, how much, in which unit."""

    workload: str
    """The column of the table, such as ``"W1"`` or ``"W2 p99"``; its unit is the same for everyone."""
    system: str
    """The row of the table."""
    value: float
    unit: str


class Bound(Enum):
    """On which side of its target a figure has to lie."""

    AT_LEAST = "at least"
    AT_MOST = "at most"

    def holds(self, value: float, target: float) -> bool:
        return value >= target if self is Bound.AT_LEAST else value <= target


@define(eq=False)
class Report:
    """Collects the measurements of one run and writes them where they belong."""

    json: bool = False
    out: TextIO = field(factory=lambda: sys.stdout)
    err: TextIO = field(factory=lambda: sys.stderr)
    _figures: dict[tuple[str, str], Measurement] = field(factory=dict, init=False)

    def add(self, measurement: Measurement) -> None:
        """Take a figure; a second one for the same workload and system replaces the first."""
        self._figures[measurement.workload, measurement.system] = measurement
        if self.json:
            self.out.write(jsonlib.dumps(asdict(measurement)) + "\n")
            self.out.flush()

    def say(self, text: str) -> None:
        """Write a line for people."""
        stream = self.err if self.json else self.out
        stream.write(text + "\n")
        stream.flush()

    def value(self, workload: str, system: str) -> float | None:
        """The figure of *system*, or None when it was not measured."""
        measurement = self._figures.get((workload, system))
        return None if measurement is None else measurement.value

    def table(self, title: str, workloads: Sequence[str]) -> None:
        """Write a row per system, in the order they were first added, and a column per workload.

        Systems and columns without a single figure are left out, and so is an empty table.
        """
        workloads = [w for w in workloads if any(w == measured for measured, _ in self._figures)]
        systems = list(dict.fromkeys(s for w, s in self._figures if w in workloads))
        if not systems:
            return
        header = ["", *(self._heading(workload) for workload in workloads)]
        rows = [[s, *(_shown(self.value(w, s)) for w in workloads)] for s in systems]
        self.say(f"\n{title}")
        for line in _aligned([header, *rows]):
            self.say(line)

    def ratio(self, workload: str, system: str, over: str, bound: Bound, target: float) -> None:
        """Say how *system* stands to *over*, and whether the ratio is within its target.

        Says so, rather than nothing, when one of the two was not measured.
        """
        value, base = self.value(workload, system), self.value(workload, over)
        aim = f"target {bound.value} {target:g}"
        if value is None or base is None:
            absent = system if value is None else over
            self.say(f"{workload}: {system} / {over} unknown, {absent} was not measured ({aim})")
            return
        quotient = value / base if base else float("inf")
        self.say(
            f"{workload}: {system} / {over} = {quotient:.3g} ({aim}){_verdict(bound, quotient, target)}"
        )

    def goal(self, workload: str, system: str, bound: Bound, target: float) -> None:
        """Say whether a figure is within an absolute target."""
        measurement = self._figures.get((workload, system))
        if measurement is None:
            self.say(f"{workload}: {system} was not measured (target {bound.value} {target:g})")
            return
        self.say(
            f"{workload}: {system} {_shown(measurement.value)} {measurement.unit}"
            f" (target {bound.value} {target:g}){_verdict(bound, measurement.value, target)}"
        )

    def _heading(self, workload: str) -> str:
        units = {m.unit for m in self._figures.values() if m.workload == workload}
        return f"{workload} [{' | '.join(sorted(units))}]"


def _verdict(bound: Bound, value: float, target: float) -> str:
    return ": met" if bound.holds(value, target) else ": MISSED"


def _shown(value: float | None) -> str:
    if value is None:
        return _NOTHING
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """The first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield _COLUMN_GAP.join(cells).rstrip()
