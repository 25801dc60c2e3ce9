"""What is measured: W1 to W5, each on one system in a process of its own.

Only the standard library is imported, as in `benchmarks.systems`. Every workload checks the
results it got; a system that loses or mixes up a job has no figure.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.calls import hold, same
from benchmarks.systems import WORKERS, Session, System

MEGABYTE = 1_000_000
_PAYLOAD_BYTES = 8 * 1024 * 1024


class Figure(NamedTuple):
    """A measured value with the column it belongs to; the system is known to whoever asked."""

    column: str
    value: float
    unit: str


class Size(NamedTuple):
    """How much of each workload to run."""

    rounds: int | None = None
    """How often to repeat; None for each workload's own number."""
    quick: bool = False
    """A tenth or less: good for trying the harness, not for comparing."""

    def or_rounds(self, usual: int) -> int:
        return self.rounds or usual

    def shrunk(self, count: int, divisor: int = 10) -> int:
        return max(1, count // divisor) if self.quick else count


Workload = Callable[[System, Size], list[Figure]]


class WrongResult(Exception):
    """A system handed back something else than what was computed."""


def no_op_jobs(system: System, size: Size) -> list[Figure]:
    """W1: submit jobs that do nothing one by one and gather them; the best round of the best size."""
    best, best_count = 0.0, 0
    with system.open(same) as session:
        _warm_up(session, 100)
        for count in {size.shrunk(count) for count in system.sizes}:
            for _ in range(size.or_rounds(3)):
                rate = count / _timed_round(session, list(range(count)))
                if rate > best:
                    best, best_count = rate, count
    return [Figure("W1", best, "jobs/s"), Figure("W1 n", best_count, "jobs")]


def lone_round_trips(system: System, size: Size) -> list[Figure]:
    """W2: submit one job and wait for it, over and over; the median round of each percentile."""
    count = size.shrunk(2_000)
    medians, tails = [], []
    with system.open(same) as session:
        _warm_up(session, size.shrunk(200))
        for _ in range(size.or_rounds(1)):
            times = sorted(_lone_times(session, count))
            medians.append(times[count // 2])
            tails.append(times[count * 99 // 100])
    return [
        Figure("W2 p50", statistics.median(medians) * 1e6, "µs"),
        Figure("W2 p99", statistics.median(tails) * 1e6, "µs"),
    ]


def payloads(system: System, size: Size) -> list[Figure]:
    """W3: 8 MiB out and the same 8 MiB back; MB/s counts each payload once for the whole trip.

    The parent's memory is the most it ever held. Where jobs pass through a node, its growth is the
    most it ever held over what it held before the first payload.
    """
    count = size.shrunk(24, 4)
    payload = os.urandom(_PAYLOAD_BYTES)
    best = 0.0
    with system.open(same) as session:
        _warm_up(session, 20)
        node_before = _fresh_mark(session.node_pid) if session.node_pid else 0
        for _ in range(size.or_rounds(3)):
            seconds = _timed_round(session, [payload] * count)
            best = max(best, count * _PAYLOAD_BYTES / MEGABYTE / seconds)
        figures = [
            Figure("W3", best, "MB/s"),
            Figure("W3 parent peak", memory("VmHWM") / MEGABYTE, "MB"),
        ]
        if session.node_pid:
            grown = memory("VmHWM", session.node_pid) - node_before
            figures.append(Figure("W3 node growth", grown / MEGABYTE, "MB"))
    return figures


def whole_process(system: System, size: Size) -> list[Figure]:
    """W4: a fresh interpreter that starts two workers, has one result and ends; the median."""
    command = [sys.executable, "-c", system.whole_process]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # byte code and caches
    times = []
    for _ in range(size.or_rounds(5)):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return [Figure("W4", statistics.median(times), "s")]


def long_queue(system: System, size: Size) -> list[Figure]:
    """W5: fill a client's queue while every slot is held by a job that waits for a file.

    The arguments and the list of handles exist before memory is read, so the growth is what the
    system itself keeps for a queued job. The queue is then let go, drained and checked.
    """
    count = size.shrunk(1_000_000)
    gate = Path("gate").absolute()
    gate.unlink(missing_ok=True)
    arguments = list(range(count))
    handles: list[object] = [None] * count
    with system.open(hold) as session:
        _warm_up(session, 10)
        holders = [session.submit(str(gate)) for _ in range(WORKERS)]
        before = _settled_memory()
        tenths = list(_submit_in_tenths(session, arguments, handles))
        grown = _settled_memory() - before
        start = time.perf_counter()
        gate.touch()
        _check(session.gather(handles), arguments)
        drained = time.perf_counter() - start
        _check(session.gather(holders), [str(gate)] * WORKERS)
    return [
        Figure("W5 submit", sum(tenths) / count * 1e6, "µs"),
        Figure("W5 last/first", tenths[-1] / tenths[0], "×"),
        Figure("W5 memory", grown / count, "B/job"),
        Figure("W5 drain", count / drained, "jobs/s"),
    ]


WORKLOADS: dict[str, Workload] = {
    "W1": no_op_jobs,
    "W2": lone_round_trips,
    "W3": payloads,
    "W4": whole_process,
    "W5": long_queue,
}


def memory(field: str, pid: int | None = None) -> int:
    """Bytes of a field of ``/proc/PID/status``: VmRSS for now, VmHWM for the most there ever was."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    for line in status.splitlines():
        name, _, amount = line.partition(":")
        if name == field:
            return int(amount.split()[0]) * 1024
    raise LookupError(f"/proc/{pid or 'self'}/status has no {field}")


def _fresh_mark(pid: int) -> int:
    """Resident bytes of a process, whose VmHWM starts again from there."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory("VmRSS", pid)


def _warm_up(session: Session, count: int) -> None:
    _timed_round(session, list(range(count)))


def _timed_round(session: Session, arguments: Sequence[object]) -> float:
    """Seconds to submit all and gather all; the check is not timed."""
    submit = session.submit
    start = time.perf_counter()
    results = session.gather([submit(argument) for argument in arguments])
    seconds = time.perf_counter() - start
    _check(results, arguments)
    return seconds


def _lone_times(session: Session, count: int) -> Iterator[float]:
    submit, gather = session.submit, session.gather
    for number in range(count):
        start = time.perf_counter()
        results = gather([submit(number)])
        yield time.perf_counter() - start
        _check(results, [number])


def _submit_in_tenths(
    session: Session, arguments: Sequence[object], handles: list[object]
) -> Iterator[float]:
    """Seconds for each tenth of the submissions."""
    submit = session.submit
    step = len(arguments) // 10
    for first in range(0, step * 10, step):
        start = time.perf_counter()
        for index in range(first, first + step):
            handles[index] = submit(arguments[index])
        yield time.perf_counter() - start


def _settled_memory() -> int:
    """Resident bytes once this process's own threads have gone idle: they may lag behind submit."""
    patience = time.monotonic() + 60
    idle = 0
    while idle < 3 and time.monotonic() < patience:
        used = time.process_time()
        time.sleep(0.1)
        idle = idle + 1 if time.process_time() - used < 0.01 else 0
    return memory("VmRSS")


def _check(results: Sequence[object], expected: Sequence[object]) -> None:
    if list(results) != list(expected):
        wrong = sum(result != right for result, right in zip(results, expected, strict=False))
        raise WrongResult(f"{len(results)} results for {len(expected)} jobs, {wrong} of them wrong")
