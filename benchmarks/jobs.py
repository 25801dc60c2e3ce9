"""``python -m benchmarks.jobs``: what a job costs, on dispy_trio and on its peers.

Each workload runs on each system in turn, in a fresh process, one at a time, so that all of them
see the same machine. Systems that are not installed are left out, unless they were asked for.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from attrs import frozen

from benchmarks.report import Bound, Measurement, Report
from benchmarks.systems import SYSTEMS, is_importable
from benchmarks.workloads import WORKLOADS

_ROOT = Path(__file__).resolve().parent.parent
_TAIL_LINES = 8

OURS = "dispy_trio"

TABLES = {
    "W1: no-op jobs, submitted one by one and gathered": ["W1", "W1 n"],
    "W2: one lone job and its result": ["W2 p50", "W2 p99"],
    "W3: 8 MiB out and back": ["W3", "W3 parent peak", "W3 node growth"],
    "W4: whole process": ["W4"],
    "W5: a million queued jobs": ["W5 submit", "W5 last/first", "W5 memory", "W5 drain"],
}

GOALS = [
    ("W1", Bound.AT_LEAST, 100_000),
    ("W4", Bound.AT_MOST, 0.45),
    ("W5 submit", Bound.AT_MOST, 5),
    ("W5 last/first", Bound.AT_MOST, 1.2),
    ("W5 memory", Bound.AT_MOST, 1024),
]
"""Of dispy_trio alone."""

RATIOS = [
    ("W1", OURS, "multiprocessing", Bound.AT_LEAST, 2),
    ("W2 p50", OURS, "concurrent_futures", Bound.AT_MOST, 1),
    ("W2 p99", OURS, "concurrent_futures", Bound.AT_MOST, 2),
    ("W3", OURS, "mpire", Bound.AT_LEAST, 1.5),
    ("W1", "dispy_trio_isolated", "dispy", Bound.AT_LEAST, 3),
]


class ProbeFailed(Exception):
    """A system did not get through a workload; the text ends with the last lines it printed."""


@frozen
class Options:
    """What one run was asked for."""

    systems: Sequence[str]
    workloads: Sequence[str]
    repeat: int | None
    quick: bool
    limit: float
    dispy_python: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, report, and return the exit code: 1 when a system failed or timed out."""
    parser = _parser()
    given = parser.parse_args(arguments)
    options = Options(
        systems=_installed(parser, given.only, given.dispy_python),
        workloads=given.workload,
        repeat=given.repeat,
        quick=given.quick,
        limit=given.limit,
        dispy_python=given.dispy_python,
    )
    report = Report(json=given.json)
    failed = _measure_all(report, options)
    _conclude(report, options)
    return 1 if failed else 0


def _measure_all(report: Report, options: Options) -> bool:
    """Run every asked workload on every system that knows it; True when one of them failed."""
    failed = False
    for workload in options.workloads:
        for system in options.systems:
            if workload not in SYSTEMS[system].workloads:
                continue
            report.say(f"{workload} on {system} …")
            try:
                figures = _probe(system, workload, options)
            except ProbeFailed as error:
                report.say(f"{workload} on {system} failed: {error}")
                failed = True
                continue
            for column, value, unit in figures:
                report.add(Measurement(column, system, value, unit))
    return failed


def _conclude(report: Report, options: Options) -> None:
    for title, columns in TABLES.items():
        report.table(title, columns)
    if options.quick:
        report.say(
            "\nA quick run: the figures show that the harness works, not how fast anything is."
        )
    if OURS not in options.systems:
        return
    report.say("\nTargets")
    for column, bound, target in GOALS:
        if column.split()[0] in options.workloads:
            report.goal(column, OURS, bound, target)
    for column, system, over, bound, target in RATIOS:
        if column.split()[0] in options.workloads:
            report.ratio(column, system, over, bound, target)


def _probe(system: str, workload: str, options: Options) -> list[tuple[str, float, str]]:
    """Run one workload on one system in a process group of its own, of which nothing is left."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        figures = Path(scratch, "figures.json")
        output = Path(scratch, "output.txt")
        command = [_interpreter(system, options), "-m", "benchmarks.probe", system, workload]
        command.append(str(figures))
        command += ["--repeat", str(options.repeat)] if options.repeat else []
        command += ["--quick"] if options.quick else []
        with output.open("wb") as sink, _own_group(command, scratch, sink) as process:
            try:
                code = process.wait(options.limit)
            except subprocess.TimeoutExpired as error:
                raise ProbeFailed(f"no end after {options.limit:g} s\n{_tail(output)}") from error
        if code:
            raise ProbeFailed(f"exit code {code}\n{_tail(output)}")
        read: list[tuple[str, float, str]] = json.loads(figures.read_text())
        return read


def _interpreter(system: str, options: Options) -> str:
    if system == "dispy" and options.dispy_python:
        return str(options.dispy_python)
    return sys.executable


@contextmanager
def _own_group(
    command: Sequence[str], scratch: str, sink: BinaryIO
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that leads a session, whose members are all killed on the way out."""
    process = subprocess.Popen(
        command,
        cwd=scratch,
        env=_environment(scratch),
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the usual case: they all ended by themselves
        process.wait()


def _environment(scratch: str) -> dict[str, str]:
    """This process's, with the benchmarks importable from elsewhere and state kept in *scratch*."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(_ROOT), *(os.path.abspath(path) for path in inherited if path)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": scratch,
        "XDG_CONFIG_HOME": scratch,
        "XDG_STATE_HOME": scratch,
    }


def _tail(output: Path) -> str:
    lines = output.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.jobs", description="Compare what a job costs, system by system."
    )
    parser.add_argument(
        "--only", type=_SYSTEM_NAMES, metavar="NAMES", help=f"some of {', '.join(SYSTEMS)}"
    )
    parser.add_argument(
        "--workload",
        type=_WORKLOAD_NAMES,
        default=list(WORKLOADS),
        metavar="NAMES",
        help=f"some of {', '.join(WORKLOADS)}",
    )
    parser.add_argument("--repeat", type=_positive, metavar="N", help="rounds of each workload")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--json", action="store_true", help="one object per figure on stdout")
    parser.add_argument(
        "--limit",
        type=float,
        default=300,
        metavar="S",
        help="seconds for one workload on one system",
    )
    parser.add_argument(
        "--dispy-python", type=Path, metavar="PATH", help="an interpreter that has dispy 4.15"
    )
    return parser


@frozen
class _Names:
    """Parses a comma-separated list in which every name must be known."""

    kind: str
    known: tuple[str, ...]

    def __call__(self, text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in self.known]
        if unknown or not names:
            wrong = f"unknown {self.kind} {', '.join(unknown)}" if unknown else f"no {self.kind}"
            raise argparse.ArgumentTypeError(f"{wrong}; known are {', '.join(self.known)}")
        return list(dict.fromkeys(names))


_SYSTEM_NAMES = _Names("system", tuple(SYSTEMS))
_WORKLOAD_NAMES = _Names("workload", tuple(WORKLOADS))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _installed(
    parser: argparse.ArgumentParser, only: list[str] | None, dispy_python: Path | None
) -> list[str]:
    """The systems to run; one that was named but isn't there is an error."""
    asked = list(SYSTEMS) if only is None else only
    there = [
        name
        for name in asked
        if is_importable(SYSTEMS[name].module) or (name == "dispy" and dispy_python)
    ]
    missing = [name for name in asked if name not in there]
    if only is not None and missing:
        parser.error(f"not installed: {', '.join(missing)}")
    return there


if __name__ == "__main__":
    sys.exit(main())
