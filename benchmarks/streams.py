"""``python -m benchmarks.streams``: what a value of `map` costs the program that takes it.

Blocking and async `map` by turns, with calls that do nothing; the least of several rounds each, in
processor time of the program alone, so that a busy machine tells nearly the same as an idle one.
"""

import argparse
import time
from collections.abc import AsyncIterator, Callable

import trio

import dispy_trio as dispy
from benchmarks.calls import same
from dispy_trio.client.cluster import Cluster


class Watch:
    """The least that a value has cost of each kind, in microseconds."""

    def __init__(self, values: int) -> None:
        self.values = values
        self.least: dict[str, float] = {}
        self._began = 0.0

    def begin(self) -> None:
        """A round begins."""
        self._began = time.process_time()

    def end(self, kind: str, taken: int) -> None:
        """It has ended."""
        assert taken == self.values
        cost = (time.process_time() - self._began) / taken * 1e6
        self.least[kind] = min(cost, self.least.get(kind, cost))


def run_blocking(watch: Watch) -> None:
    """A round of `JobCluster.map`."""
    with dispy.JobCluster(same, cpus=2, connect_timeout=60) as cluster:
        cluster.submit(0)()
        watch.begin()
        taken = sum(1 for _ in cluster.map(range(watch.values)))
        watch.end("blocking", taken)


async def run_async(watch: Watch) -> None:
    """A round of each kind of source of an async `map`."""

    async def count() -> AsyncIterator[int]:  # noqa: ASYNC124 - a source of that kind
        for number in range(watch.values):
            yield number

    sources: dict[str, Callable[[Cluster[[object], object]], AsyncIterator[object]]] = {
        "async": lambda cluster: aiter(cluster.map(range(watch.values))),
        "async, from a thread": lambda cluster: aiter(
            cluster.map(range(watch.values), source_in_thread=True)
        ),
        "async, from an async generator": lambda cluster: aiter(cluster.map(count())),
    }
    async with dispy.open_cluster(same, cpus=2, connect_timeout=60) as cluster:
        await cluster.run(0)
        for kind, start in sources.items():
            taken = 0
            watch.begin()
            async for _ in start(cluster):
                taken += 1
            watch.end(kind, taken)


def main() -> None:
    """Run the rounds, and print what a value costs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--values", type=int, default=300_000, help="of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind (%(default)s)")
    args = parser.parse_args()
    watch = Watch(args.values)
    for _ in range(args.rounds):
        run_blocking(watch)
        trio.run(run_async, watch)
    for kind, cost in watch.least.items():
        print(f"{kind + ':':32}{cost:6.2f} µs a value")
    print(f"{'async beyond blocking:':32}{watch.least['async'] - watch.least['blocking']:6.2f} µs")


if __name__ == "__main__":
    main()
