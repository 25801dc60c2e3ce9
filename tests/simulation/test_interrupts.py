"""Ctrl-C at any moment of a cluster's life: the main task gets it, and nothing is left on any node.

The moment is a call of a Python function: the interrupt comes there, whichever task runs, as the
kernel's would.
"""

from __future__ import annotations

import dis
import random
import signal
import sys
from collections.abc import Callable
from contextlib import aclosing
from functools import cache
from types import CodeType, FrameType
from typing import Any

import pytest
import trio
from attrs import define, field

from dispy_trio.client.blocks import AsyncBlock
from dispy_trio.client.handles import JobHandle
from dispy_trio.testing import deterministic_run

from .kit import Simulation

SEEDS = range(40)
SECONDS = 1.0
"""That it may take until the program has left its block, in virtual time."""
OFTEN = 200
"""Calls in the same task and function that are counted: nothing new comes after so many."""


@cache
def first_step(code: CodeType) -> int:
    """Where a function begins."""
    return next(step.offset for step in dis.get_instructions(code) if step.opname == "RESUME")


@define(eq=False)
class Interrupter:
    """Counts calls in the client's tasks, and interrupts the program at one of them."""

    at: int | None
    nodes: trio.Nursery
    calls: int = 0
    when: float | None = None
    where: str = ""
    _ours: dict[trio.lowlevel.Task, bool] = field(factory=dict)
    _often: dict[Any, int] = field(factory=dict)

    def is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        """Is it a task of the client, and not of a node?"""
        if task is None:
            return True
        if task not in self._ours:
            nursery = task.parent_nursery
            self._ours[task] = nursery is not self.nodes and (
                nursery is None or self.is_ours(nursery.parent_task)
            )
        return self._ours[task]

    def profile(self, frame: FrameType, event: str, _arg: object) -> None:
        if event != "call":
            return
        try:
            task = trio.lowlevel.current_task()
        except RuntimeError:
            return  # Trio's own loop.
        if not self.is_ours(task) or frame.f_lasti > first_step(frame.f_code):
            return  # Where a coroutine goes on after an await, Python looks for no signals.
        kind = (task, frame.f_code)
        self._often[kind] = self._often.get(kind, 0) + 1
        if self._often[kind] > OFTEN:
            return
        self.calls += 1
        if self.calls == self.at:
            self.interrupt(f"{task.name}: {frame.f_code.co_qualname}")

    def interrupt(self, where: str) -> None:
        self.when = trio.current_time()
        self.where = where
        signal.raise_signal(signal.SIGINT)


def run(seed: int, at: int | None) -> Interrupter:
    """A user's program that is interrupted at that call; never for None."""
    simulation = Simulation(seed, durations=(0.0001, 0.01, 0.5))
    jobs: list[JobHandle[int]] = []
    interrupters: list[Interrupter] = []

    async def use(interrupter: Interrupter) -> None:
        sys.setprofile(interrupter.profile)
        try:
            async with AsyncBlock(simulation.open_cluster(), "") as cluster:
                jobs.extend(cluster.submit(n) for n in range(20))
                assert await cluster.run(4) == 8
                jobs[0].cancel()
                async with aclosing(cluster.map(range(20))) as values:
                    assert [value async for value in values] == [2 * n for n in range(20)]
                await cluster.wait()
                jobs.extend(cluster.submit(n) for n in range(20))
            if at is not None and interrupter.when is None:
                # A second run calls less: it finds more in caches.
                interrupter.interrupt("after the block")
            await trio.lowlevel.checkpoint()  # It may have come in the last step.
        finally:
            sys.setprofile(None)

    async def main() -> None:
        with trio.fail_after(600):
            async with trio.open_nursery() as nodes:
                for name in simulation.node_names:
                    await nodes.start(simulation.run_node, name)
                interrupter = Interrupter(at, nodes)
                interrupters.append(interrupter)
                if at is None:
                    await use(interrupter)
                else:
                    with pytest.raises(KeyboardInterrupt):
                        await use(interrupter)
                    assert interrupter.when is not None
                    assert trio.current_time() - interrupter.when <= SECONDS, interrupter.where
                assert all(job.ended for job in jobs), interrupter.where
                await trio.sleep(0.1)  # Nodes say that it is closed, and close.
                for name in simulation.node_names:
                    assert not simulation.left_on(name), interrupter.where
                nodes.cancel_scope.cancel()

    deterministic_run(main, seed=seed)
    return interrupters[0]


@pytest.fixture(scope="module")
def calls() -> Callable[[], int]:
    counted: list[int] = []

    def count() -> int:
        if not counted:
            counted.append(run(0, None).calls)
        return counted[0]

    return count


@pytest.mark.parametrize("seed", SEEDS)
def test_the_main_task_is_interrupted_and_nothing_is_left(
    seed: int, calls: Callable[[], int]
) -> None:
    interrupter = run(0, random.Random(seed).randint(1, calls()))
    assert interrupter.where
