"""``python -m benchmarks.run_sync``: single calls of any function, on dispy_trio and trio-parallel.

Both run the same program in one process, by turns, so that each pair of figures is of the same
moment of the machine. The program is that of trio-parallel's README: concurrent calls in a nursery,
and a function that would never end, which is cancelled.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
import trio_parallel

import dispy_trio

OURS, THEIRS = "dispy_trio", "trio_parallel"
WORKERS = 2
_QUICK, _WHOLE = (2, 50), (9, 400)
"""Rounds, and calls in each."""

Run = Callable[..., Awaitable[object]]


def loop(n: int) -> int:
    """The README's work."""
    for _ in range(n):
        pass
    return n


def begin_and_loop(path: str) -> None:
    """Say that it has begun, and never end."""
    Path(path).touch()
    loop(10**20)


async def program(run_sync: Run) -> float:
    """Seconds that the README's calls take, at a hundredth of their size."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for exponent in [4, 5, 6] * 4:
            nursery.start_soon(run_sync, loop, 10**exponent)
    return trio.current_time() - start


async def concurrent(run_sync: Run, calls: int) -> float:
    """Seconds for a call that costs nothing, among many."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(calls):
            nursery.start_soon(run_sync, loop, 1)
    return (trio.current_time() - start) / calls


async def lone(run_sync: Run, calls: int) -> float:
    """Seconds for a call that costs nothing, one after the other; the median."""
    times = []
    for _ in range(calls):
        start = trio.current_time()
        await run_sync(loop, 1)
        times.append(trio.current_time() - start)
    return statistics.median(times)


async def cancel(run_sync: Run) -> float:
    """Seconds from a cancellation of what never ends until the nursery is left."""
    with tempfile.TemporaryDirectory() as directory:
        begun = os.path.join(directory, "begun")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(run_sync, begin_and_loop, begun, kill_on_cancel=True)
            )
            while not os.path.exists(begun):  # noqa: ASYNC110, ASYNC240 - by another process
                await trio.sleep(0.002)
            start = trio.current_time()
            nursery.cancel_scope.cancel()
        return trio.current_time() - start


async def after_cancel(run_sync: Run) -> float:
    """Seconds of the first call after a worker was cancelled."""
    await cancel(run_sync)
    return await lone(run_sync, 1)


async def measure(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Medians over all rounds, by what was measured and by whom."""
    measures: dict[str, Callable[[Run], Awaitable[float]]] = {
        "program": program,
        "concurrent": functools.partial(concurrent, calls=calls),
        "lone": functools.partial(lone, calls=calls),
        "cancel": cancel,
        "after_cancel": after_cancel,
    }
    taken: dict[str, dict[str, list[float]]] = {name: {OURS: [], THEIRS: []} for name in measures}
    trio_parallel.current_default_worker_limiter().total_tokens = WORKERS
    async with dispy_trio.open_cluster(cpus=WORKERS) as cluster:
        systems: dict[str, Run] = {OURS: cluster.run_sync, THEIRS: trio_parallel.run_sync}
        for run_sync in systems.values():  # What is started once is no part of it.
            await program(run_sync)
        for number in range(rounds):
            for name, call in measures.items():
                for system in sorted(systems, reverse=bool(number % 2)):
                    taken[name][system].append(await call(systems[system]))
    return {
        name: {system: statistics.median(times) for system, times in by_system.items()}
        for name, by_system in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run at all")
    parser.add_argument("--json", action="store_true", help="one object in place of the table")
    options = parser.parse_args()
    figures = trio.run(measure, *(_QUICK if options.quick else _WHOLE))
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{'milliseconds':<14}{OURS:>14}{THEIRS:>16}{'ratio':>8}")
    for name, by_system in figures.items():
        ours, theirs = by_system[OURS], by_system[THEIRS]
        print(f"{name:<14}{ours * 1e3:>14.3f}{theirs * 1e3:>16.3f}{ours / theirs:>8.2f}")
    ours, theirs = (1 / figures["concurrent"][system] for system in (OURS, THEIRS))
    print(f"{'calls/s':<14}{ours:>14.0f}{theirs:>16.0f}{ours / theirs:>8.2f}")


if __name__ == "__main__":
    main()
