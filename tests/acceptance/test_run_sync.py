"""A cluster without a computation: `run_sync` of any function, and what bounds it."""

from __future__ import annotations

import functools
import operator
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import dispy_trio
from dispy_trio.child.functions import DIRECTORY

from .conftest import World


@asynccontextmanager
async def opened(world: World, **options: Any) -> AsyncIterator[Any]:
    with trio.fail_after(60):
        async with dispy_trio.open_cluster(secret=world.mark, **options) as cluster:
            yield cluster


def add(number: int, other: int = 1) -> int:
    return number + other


class Counter:
    step = 10

    def __init__(self) -> None:
        self.count = 0

    def plus(self, number: int) -> int:
        return self.count + number

    def __call__(self, number: int) -> int:
        return self.count - number

    @classmethod
    def of_class(cls, number: int) -> int:
        return cls.step * number

    @staticmethod
    def of_nobody(number: int) -> int:
        return -number


def adder(other: int) -> Callable[[int], int]:
    return lambda number: number + other


CALLS: list[tuple[Any, Any]] = [
    (add, 6),
    (functools.partial(add, other=3), 8),
    (functools.partial(functools.partial(operator.sub, 7)), 2),
    (lambda number: number**2, 25),
    (adder(100), 105),
    (Counter().plus, 5),
    (Counter(), -5),
    (Counter.of_class, 50),
    (Counter.of_nobody, -5),
    (str, "5"),
    (abs, 5),
    (["a", "b", "c", "d", "e", "f", "g"][0:6].__getitem__, "f"),
    (operator.neg, -5),
]


async def test_any_function_is_called(world: World) -> None:
    async with opened(world, cpus=1) as cluster:
        for function, value in CALLS:
            assert await cluster.run_sync(function, 5) == value


async def test_what_may_change_between_calls_goes_with_each(world: World) -> None:
    counter, items = Counter(), [1]
    async with opened(world, cpus=1) as cluster:
        method, partial = counter.plus, functools.partial(len, items)
        assert (await cluster.run_sync(method, 1), await cluster.run_sync(partial)) == (1, 1)
        counter.count = 7
        items.append(2)
        assert (await cluster.run_sync(method, 1), await cluster.run_sync(partial)) == (8, 2)
        assert await cluster.run_sync(counter, 1) == 6


async def test_the_code_of_a_content_is_sent_once(world: World) -> None:
    def make() -> Callable[[int], int]:
        weight = b"x" * 1_000_000
        return lambda number: number + len(weight)

    function = make()
    async with opened(world, cpus=2) as cluster:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(cluster.run_sync, function, number)
        assert await cluster.run_sync(make(), 1) == 1_000_001
        (node,) = cluster.status().nodes
        assert 1_000_000 < node.tx + node.rx < 1_100_000


async def test_a_node_that_has_lost_a_function_is_given_it_again(world: World) -> None:
    def lose() -> None:
        for name in os.listdir(DIRECTORY):
            os.remove(os.path.join(DIRECTORY, name))
        os._exit(1)  # The next worker does not know any.

    async with opened(world, cpus=1) as cluster:
        assert await cluster.run_sync(add, 1) == 2
        with pytest.raises(dispy_trio.JobTerminated):
            await cluster.run_sync(lose)
        assert await cluster.run_sync(add, 2) == 3


def test_a_module_imported_later_goes_along(world: World, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.mkdir()
    (program / "imported_later.py").write_text("def triple(n):\n    return 3 * n\n")
    (program / "main.py").write_text(
        "import importlib, sys, trio\n"
        "import dispy_trio\n"
        "async def main():\n"
        "    async with dispy_trio.open_cluster(cpus=1) as cluster:\n"
        "        later = importlib.import_module('imported_' + 'later')\n"
        "        print(await cluster.run_sync(later.triple, 5))\n"
        "trio.run(main)\n"
    )
    assert run(world, program / "main.py") == "15\n"


def test_classes_of_the_main_program_stay_what_they_are(world: World, tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text(
        "import trio\n"
        "import dispy_trio\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def moved(self, by): return Point(self.x + by)\n"
        "def is_point(point): return isinstance(point, Point) and point.x\n"
        "async def main():\n"
        "    async with dispy_trio.open_cluster(cpus=1) as cluster:\n"
        "        moved = await cluster.run_sync(Point(1).moved, 2)\n"
        "        assert type(moved) is Point\n"
        "        print(moved.x, await cluster.run_sync(is_point, moved))\n"
        "        print(await cluster.run_sync(lambda *points: len(set(map(type, points))), moved, moved))\n"
        "if __name__ == '__main__':\n"
        "    trio.run(main)\n"
    )
    assert run(world, program) == "3 3\n1\n"


def run(world: World, program: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        env=world.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


# --- errors ----------------------------------------------------------------------------------------
async def wait(number: int) -> int:  # noqa: ASYNC124 - never run
    return number


WRONG: list[tuple[Any, type[Exception], str]] = [
    (functools.partial(int, "x"), ValueError, "invalid literal"),
    (wait, TypeError, "open_cluster\\(wait\\)"),
    (3, TypeError, "calls a function, not int"),
    (functools.partial(add, open), TypeError, "unsupported operand"),
    (functools.partial(add, sys._getframe), TypeError, "unsupported operand"),
    (functools.partial(add, sys._getframe()), dispy_trio.PickleArgumentError, "argument 1"),
]


async def test_what_is_wrong_is_raised_here(world: World) -> None:
    async with opened(world, cpus=1) as cluster:
        for function, error, text in WRONG:
            with pytest.raises(error, match=text):
                await cluster.run_sync(function)


async def test_each_kind_of_cluster_names_the_way_of_the_other(world: World) -> None:
    async with opened(world, cpus=1) as cluster:
        for call in (cluster.submit, cluster.map, cluster.run, cluster.options):
            with pytest.raises(TypeError, match=r"cluster\.run_sync\(function, …\)"):
                call()
    async with dispy_trio.open_cluster(add, secret=world.mark, cpus=1) as other:
        with pytest.raises(TypeError, match=r"made by open_cluster\(\)"):
            await other.run_sync(add, 1)
    with pytest.raises(dispy_trio.ClusterClosed):
        await cluster.run_sync(add, 1)


# --- cancelling, and what bounds the calls -----------------------------------------------------------
def touch_and_wait(begun: str, go: str) -> str:
    with open(begun, "w"):
        pass
    with open(go) as file:  # A named pipe: until somebody writes.
        return file.read()


async def until_exists(path: Path) -> None:
    while not await trio.Path(path).exists():  # noqa: ASYNC110 - nothing else tells of it
        await trio.sleep(0.01)


async def test_a_cancelled_call_ends_with_its_function_or_stops_it(
    world: World, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    values: list[str] = []

    async def call(cluster: Any, begun: Path, **options: Any) -> None:
        value = await cluster.run_sync(touch_and_wait, str(begun), str(pipe), **options)
        values.append(value)

    async with opened(world, cpus=1) as cluster:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(call, cluster, tmp_path / "1", kill_on_cancel=True)
            )
            await until_exists(tmp_path / "1")
            nursery.cancel_scope.cancel()
        assert not values
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, cluster, tmp_path / "2")
            await until_exists(tmp_path / "2")
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(pipe.write_text, "went on")
        assert values == ["went on"]


async def test_the_limiter_follows_the_slots(world: World) -> None:
    async with opened(world, cpus=3) as cluster:
        await cluster.run_sync(add, 1)
        assert cluster.limiter.total_tokens == 3
        (node,) = cluster.status().nodes
        assert await cluster.set_node_cpus(node, 2) == 2
        assert cluster.limiter.total_tokens == 2
        await cluster.deallocate_node(node)
        assert cluster.limiter.total_tokens == 1
        await cluster.allocate_node(node.address)
        assert cluster.limiter.total_tokens == 2
        assert cluster.limiter.borrowed_tokens == 0


@pytest.mark.parametrize("way", ["limit", "limiter", "cluster"])
async def test_calls_are_bounded(world: World, tmp_path: Path, way: str) -> None:
    own = trio.CapacityLimiter(1)
    options: dict[str, Any] = {"limit": {"limit": 1}, "limiter": {"limiter": own}}.get(way, {})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    function = functools.partial(touch_and_wait, str(tmp_path / "begun"), str(pipe))
    async with opened(world, cpus=1 if way == "cluster" else 2) as cluster:
        await cluster.run_sync(add, 1)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                call = functools.partial(cluster.run_sync, function, kill_on_cancel=True, **options)
                nursery.start_soon(call)
            await until_exists(tmp_path / "begun")
            assert cluster.status().jobs_pending == 1
            nursery.cancel_scope.cancel()


# --- programs of trio-parallel -----------------------------------------------------------------------
README = """
import functools
import multiprocessing
import trio
import dispy_trio as trio_parallel

def loop(n):
    for _ in range(n):
        pass
    print("Loops completed:", n)

async def amain():
    async with trio.open_nursery() as nursery:
        for i in [2, 3, 4] * 4:
            nursery.start_soon(trio_parallel.run_sync, loop, 10 ** i)
        await trio_parallel.run_sync(loop, 7)
        nursery.start_soon(
            functools.partial(trio_parallel.run_sync, loop, 10 ** 20, kill_on_cancel=True)
        )
        while trio_parallel_calls() > 1:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    print("over")

def trio_parallel_calls():
    return len(trio.lowlevel.current_task().child_nurseries[0].child_tasks)

if __name__ == "__main__":
    multiprocessing.freeze_support()
    trio.run(amain)
    trio.run(trio_parallel.run_sync, loop, 8)
"""


def test_a_program_of_trio_parallel_moves_by_one_import(world: World, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(README)
    lines = run(world, tmp_path / "main.py").splitlines()
    told = sorted(line.rpartition("] ")[2] for line in lines)
    loops = [10**i for i in (2, 3, 4)] * 4 + [7, 8]
    assert told == sorted(["over", *(f"Loops completed: {n}" for n in loops)])
