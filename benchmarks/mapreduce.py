"""``python -m benchmarks.mapreduce``: counting words, on dispy_mapreduce and next to it.

W8: records are lines, the mapper yields ``(word, 1)``, the reducer sums. W9: the mapper gets a
block of text and returns a Counter. Each system runs in a fresh process, one at a time, and all
outputs must be equal. The time is that of the whole call, with the start of its workers.
"""

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.corpus import kernel_corpus, shortened
from benchmarks.report import Bound, Measurement, Report

WORKERS = 2
_BLOCK = 16 << 20
_QUICK_BYTES = 60_000_000
OURS = "dispy_trio"

Counts = Mapping[Any, int]


# --- what is counted ---------------------------------------------------------------------------
def words(line: str) -> Iterator[tuple[str, int]]:
    """W8's mapper."""
    for word in line.split():
        yield word, 1


def count_block(block: bytes) -> Counter[bytes]:
    """W9's mapper."""
    return Counter(block.split())


def ranges(path: str, size: int) -> list[tuple[str, int, int]]:
    """The file, cut into byte ranges."""
    total = Path(path).stat().st_size
    return [(path, start, min(start + size, total)) for start in range(0, total, size)]


def read_range(piece: tuple[str, int, int]) -> bytes:
    """The lines that begin in the range."""
    path, start, stop = piece
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        begin = file.tell()
        return file.read(max(0, stop - begin)) + (file.readline() if begin < stop else b"")


def count_range(piece: tuple[str, int, int]) -> Counter[bytes]:
    """W9, one task."""
    return count_block(read_range(piece))


def count_lines_of_range(piece: tuple[str, int, int]) -> dict[str, int]:
    """W8, one task of a hand-written program."""
    counts: dict[str, int] = {}
    for line in read_range(piece).decode("utf-8", "surrogateescape").split("\n"):
        for word, one in words(line):
            counts[word] = counts.get(word, 0) + one
    return counts


# --- the systems -------------------------------------------------------------------------------
def ours_w8(path: str) -> Counts:
    from dispy_mapreduce import map_reduce

    return map_reduce(words, sum, path, cluster=_two_slots).to_dict()


def ours_w9(path: str) -> Counts:
    from dispy_mapreduce import block_mapper, map_reduce

    return map_reduce(block_mapper(count_block), sum, path, cluster=_two_slots).to_dict()


def _two_slots(computation: Callable[..., Any]) -> Any:
    from dispy_trio import JobCluster

    return JobCluster(computation, cpus=WORKERS)


def serial_w8(path: str) -> Counts:
    counts: dict[str, int] = {}
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            for word, one in words(line):
                counts[word] = counts.get(word, 0) + one
    return counts


def serial_w9(path: str) -> Counts:
    counts: Counter[bytes] = Counter()
    for piece in ranges(path, _BLOCK):
        counts.update(read_range(piece).split())
    return counts


def pool(task: Callable[[tuple[str, int, int]], Counts], path: str) -> Counts:
    """A hand-written program: a task for each 16 MiB, merged by the parent as they come."""
    from multiprocessing import Pool

    total: Counter[Any] = Counter()
    with Pool(WORKERS) as workers:
        for counts in workers.imap_unordered(task, ranges(path, _BLOCK)):
            total.update(counts)
    return total


def dask_w8(path: str) -> Counts:
    import dask
    import dask.bag

    with dask.config.set(scheduler="processes", num_workers=WORKERS):
        text = dask.bag.read_text(path, blocksize=_BLOCK, errors="surrogateescape")
        return dict(text.str.split().flatten().frequencies().compute())


def dask_w9(path: str) -> Counts:
    from dask.distributed import Client, as_completed

    total: Counter[bytes] = Counter()
    with Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as client:
        futures = client.map(count_range, ranges(path, _BLOCK))
        for _, counts in as_completed(futures, with_results=True):
            total.update(counts)
    return total


SYSTEMS: dict[str, tuple[str, dict[str, Callable[[str], Counts]]]] = {
    "serial": ("collections", {"W8": serial_w8, "W9": serial_w9}),
    "multiprocessing": (
        "multiprocessing",
        {"W8": partial(pool, count_lines_of_range), "W9": partial(pool, count_range)},
    ),
    OURS: ("dispy_trio", {"W8": ours_w8, "W9": ours_w9}),
    "dask": ("dask.distributed", {"W8": dask_w8, "W9": dask_w9}),
}
"""Name to the module it needs and the workloads it knows."""


# --- one measurement, in a process of its own --------------------------------------------------
def probe(system: str, workload: str, path: str) -> None:
    """Run once, and print the seconds and a digest of the counts as the last line of stdout."""
    run = SYSTEMS[system][1][workload]
    start = time.perf_counter()
    counts = run(path)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "digest": _digest(counts)}))


def _digest(counts: Counts) -> str:
    """The same for the same counts, in whatever order."""
    digest = hashlib.blake2b(digest_size=16)
    for word, count in sorted(counts.items()):
        data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")
        digest.update(b"%d %s\n" % (count, data))
    return digest.hexdigest()


class ProbeFailed(Exception):
    """A system did not get through; the text is the end of what it wrote."""


def _measure(system: str, workload: str, path: str, limit: float) -> tuple[float, str]:
    command = [sys.executable, "-m", "benchmarks.mapreduce", "--probe", system, workload, path]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise ProbeFailed(f"no end after {limit:g} s") from error
    if done.returncode:
        raise ProbeFailed(done.stderr[-2000:])
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["digest"]


# --- the comparison ----------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, report, and return the exit code: 1 when a system failed or counted differently."""
    options = _options(arguments)
    if options.probe:
        probe(*options.probe)
        return 0
    report = Report(json=options.json)
    corpus = kernel_corpus()
    if options.quick:
        corpus = shortened(corpus, _QUICK_BYTES)
    report.say(f"{corpus.size / 1e6:.0f} MB: {corpus.title}")
    failed = False
    for workload in options.workload:
        digests: dict[str, str] = {}
        # Round by round, not system by system: whatever else the machine does hits all of them.
        best: dict[str, float] = {}
        for number in range(options.repeat):
            for system in options.only:
                if system in digests or number == 0:
                    report.say(f"{workload} on {system} …")
                    try:
                        seconds, digest = _measure(
                            system, workload, str(corpus.path), options.limit
                        )
                    except ProbeFailed as error:
                        report.say(f"{workload} on {system} failed: {error}")
                        failed = True
                        continue
                    digests[system] = digest
                    best[system] = min(seconds, best.get(system, seconds))
        for system, seconds in best.items():
            report.add(Measurement(workload, system, seconds, "s"))
        if len(set(digests.values())) > 1:
            report.say(f"{workload}: THE COUNTS DIFFER: {digests}")
            failed = True
    _conclude(report, options)
    return 1 if failed else 0


def _conclude(report: Report, options: argparse.Namespace) -> None:
    report.table("Counting words", options.workload)
    if OURS not in options.only:
        return
    report.say("")
    # Twice the time that two processors would need if nothing but the loop cost anything.
    targets = {
        "W8": [("serial", 1.0), ("dask", 0.5)],
        "W9": [("multiprocessing", 1.2), ("serial", 1.0)],
    }
    for workload in options.workload:
        for other, target in targets[workload]:
            if other in options.only:
                report.ratio(workload, OURS, other, Bound.AT_MOST, target)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mapreduce", description="Compare what a map_reduce costs."
    )
    parser.add_argument("--only", metavar="NAMES", help=f"some of {', '.join(SYSTEMS)}")
    parser.add_argument("--workload", default="W8,W9", metavar="NAMES", help="W8, W9 or both")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="the best of N counts")
    parser.add_argument("--quick", action="store_true", help="a fifth of the text, once")
    parser.add_argument("--json", action="store_true", help="one object per figure on stdout")
    parser.add_argument(
        "--limit", type=float, default=600, metavar="S", help="seconds for one measurement"
    )
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    asked = options.only.split(",") if options.only else list(SYSTEMS)
    options.workload = options.workload.split(",")
    if unknown := [name for name in asked if name not in SYSTEMS]:
        parser.error(f"unknown system {', '.join(unknown)}; known are {', '.join(SYSTEMS)}")
    if unknown := [name for name in options.workload if name not in ("W8", "W9")]:
        parser.error(f"unknown workload {', '.join(unknown)}")
    if options.repeat < 1:
        parser.error("--repeat takes a number of at least 1")
    there = [name for name in asked if _is_importable(SYSTEMS[name][0])]
    missing = [name for name in asked if name not in there]
    if options.only and missing:
        parser.error(f"not installed: {', '.join(missing)}")
    options.only = there
    options.repeat = 1 if options.quick else options.repeat
    return options


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
