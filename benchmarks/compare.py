"""``python -m benchmarks.compare BEFORE``: what a change costs, by processor time of all processes.

BEFORE is another checkout of this project, say a ``git worktree``. Each workload runs in it and in
this one by turns, ABBA ABBA, so that both see the same machine; what is compared is the processor
time of everything a run started, which a busy machine disturbs less than the clock on the wall.
The work of a run is fixed, so a ratio of times is a ratio of costs.
"""

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.workloads import WORKLOADS
from dispy_trio.child.dying import adopt_orphans

_ROOT = Path(__file__).resolve().parent.parent
_LIMIT = 300
_USUAL = ("W1", "W2", "W5")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; exit code 1 when this checkout costs more than the margin allows."""
    options = _parser().parse_args(arguments)
    adopt_orphans()
    checkouts = {"before": options.before.resolve(), "after": _ROOT}
    missed = False
    for workload in options.workload:
        seconds: dict[str, list[float]] = {name: [] for name in checkouts}
        for turn in range(options.turns):
            names = ("before", "after") if turn % 2 == 0 else ("after", "before")
            for name in names:
                seconds[name].append(_cpu_seconds(checkouts[name], workload, quick=options.quick))
        before, after = (statistics.median(seconds[name]) for name in ("before", "after"))
        # A machine has fast minutes and slow ones: only the runs of one turn saw the same.
        pairs = [a / b for a, b in zip(seconds["after"], seconds["before"], strict=True)]
        ratio = statistics.median(pairs)
        missed |= ratio > options.margin
        print(
            f"{workload}: before {before:.3f} s, after {after:.3f} s of processor time:"
            f" {ratio:.3f} in the median turn (from {min(pairs):.3f} to {max(pairs):.3f};"
            f" target at most {options.margin:g}): {'MISSED' if ratio > options.margin else 'met'}",
            flush=True,
        )
    return 1 if missed else 0


def _cpu_seconds(checkout: Path, workload: str, *, quick: bool) -> float:
    """Processor time of one run on one checkout, with all the processes that it has started."""
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        command = [sys.executable, "-m", "benchmarks.probe", "dispy_trio", workload]
        command += [str(Path(scratch, "figures.json")), "--repeat", "1"]
        command += ["--quick"] if quick else []
        # The harness is this checkout's for both; only the library differs.
        paths = [str(checkout / "src"), str(_ROOT)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            environment[name] = scratch
        start = _children_seconds()
        subprocess.run(
            command,
            check=True,
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=_LIMIT,
        )
        # Whoever is killed has not waited for those below it: they are ours, and count.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        return _children_seconds() - start


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Compare what jobs cost here and in another checkout.",
    )
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(_USUAL))
    parser.add_argument("--turns", type=int, default=6, help="runs of each side")
    parser.add_argument("--margin", type=float, default=1.05, help="largest ratio that is fine")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    return parser


if __name__ == "__main__":
    sys.exit(main())
