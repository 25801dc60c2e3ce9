"""What Trio programs do with a cluster, at random and repeatably by a seed, while nodes fail."""

from __future__ import annotations

import math
import random
from contextlib import aclosing

import trio
from attrs import define, field

from dispy_trio.client.cluster import Cluster
from dispy_trio.client.engine import CLOSE_GRACE, GOODBYE_GRACE
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.link import LAST_RETRY
from dispy_trio.errors import DispyError, JobAbandoned, JobCancelled, JobTerminated
from dispy_trio.testing import deterministic_run

from .kit import Simulation

CLIENT = "10.0.0.1"
EXPECTED = (JobAbandoned, JobCancelled, JobTerminated)
"""How jobs end that nodes, or other users, end."""
LEAVING_SECONDS = CLOSE_GRACE + GOODBYE_GRACE
"""That a block may take which is cancelled, or raises."""
WORKING_SECONDS = 300.0
"""That one may take which is left normally: what is left is run, however often nodes fail."""
BACK_SECONDS = LAST_RETRY + 5.0
"""After which a client has a session again with a node that answers."""
HEALING_SECONDS = 1.0
"""That nodes have to say that they have closed, and to do it."""


class Body(Exception):
    """What a block raises."""


@define(eq=False)
class Users:
    """One program: a cluster, and some tasks that use it until the block is left."""

    seed: int
    simulation: Simulation = field(init=False)
    rng: random.Random = field(init=False)
    jobs: list[JobHandle[int]] = field(factory=list)
    """All whose handle a user has."""
    troubled: set[str] = field(factory=set)
    """Nodes that did not answer all the time while the block was left."""
    left_at: float = math.inf
    """When the block began to be left."""
    _failing: set[str] = field(factory=set)
    """Nodes that something happens to."""
    _bad: set[str] = field(factory=set)
    """Nodes that do not answer now."""
    _next: int = 0

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(f"users {self.seed}")
        self.simulation = Simulation(
            self.seed,
            death_rate=self.rng.choice([0.0, 0.02]),
            reentrant=self.rng.random() < 0.5,
            durations=self.rng.choice([(0.0001, 0.01, 0.5), (0.5, 4.0)]),
        )

    # --- what users do -------------------------------------------------------------------------
    def number(self) -> int:
        self._next += 1
        return self._next

    async def use(self, cluster: Cluster[[int], int]) -> None:
        """One user: a few things after each other, some of them given up."""
        for _ in range(self.rng.randint(1, 6)):
            do = self.rng.choice(
                [
                    self.run,
                    self.submit,
                    self.submit,
                    self.map,
                    self.cancel,
                    self.as_completed,
                    self.wait,
                ]
            )
            patience = self.rng.choice([0.0, 0.01, 0.3, 3.0, math.inf])
            with trio.move_on_after(patience):
                await do(cluster)

    async def run(self, cluster: Cluster[[int], int]) -> None:
        number = self.number()
        try:
            assert await cluster.run(number) == 2 * number
        except EXPECTED:
            return

    async def submit(self, cluster: Cluster[[int], int]) -> None:
        """Some of which are waited for."""
        for _ in range(self.rng.randint(1, 30)):
            self.jobs.append(cluster.submit(self.number()))
        if self.rng.random() < 0.3:
            special = cluster.options(priority=self.rng.choice([-1, 1]), retries=1)
            self.jobs.append(special.submit(self.number()))
        await self.rng.choice(self.jobs).wait_ended()

    async def map(self, cluster: Cluster[[int], int]) -> None:
        numbers = [self.number() for _ in range(self.rng.randint(0, 60))]
        enough = self.rng.choice([1, 1000])
        seen: list[int] = []
        try:
            async with aclosing(cluster.map(numbers)) as values:
                async for value in values:
                    seen.append(value)
                    if len(seen) == enough:
                        break
        except EXPECTED:
            pass
        assert seen == [2 * number for number in numbers[: len(seen)]]

    async def cancel(self, cluster: Cluster[[int], int]) -> None:
        for job in self.rng.sample(self.jobs, min(len(self.jobs), 5)):
            job.cancel()
        await trio.lowlevel.checkpoint()

    async def as_completed(self, cluster: Cluster[[int], int]) -> None:
        given = set(self.rng.sample(self.jobs, min(len(self.jobs), 10)))
        async with aclosing(cluster.as_completed(given)) as ended:
            async for job in ended:
                assert job.ended
                given.remove(job)
        assert not given

    async def wait(self, cluster: Cluster[[int], int]) -> None:
        await cluster.wait()

    # --- what nodes do -------------------------------------------------------------------------
    async def fail_nodes(self, nursery: trio.Nursery) -> None:
        """Cuts, resets and crashes with restarts; then all is well again."""
        for _ in range(self.rng.randint(0, 6)):
            await trio.sleep(self.rng.uniform(0.0, 1.5))
            name = self.rng.choice(self.simulation.node_names)
            if name not in self._failing:
                nursery.start_soon(self.fail_node, nursery, name)

    async def fail_node(self, nursery: trio.Nursery, name: str) -> None:
        network = self.simulation.network
        fault = self.rng.choice(["isolate", "reset", "crash"])
        self._failing.add(name)
        if fault == "reset":
            # It answers, and whoever leaves at this moment has to come back to it.
            network.reset_after(name, CLIENT, self.rng.randrange(1, 4000))
            await trio.sleep(self.rng.choice([0.5, 5.0]))
            network.link(name, CLIENT).breaks_at = math.inf
        else:
            self._bad.add(name)
            self.note_troubles()
            if fault == "isolate":
                network.isolate(name)
                await trio.sleep(self.rng.choice([0.5, 2.0, 8.0]))
                network.rejoin(name)
            else:
                self.simulation.crash(name)
                await trio.sleep(self.rng.choice([0.2, 5.0]))
                network.host(name).revive()
                await nursery.start(self.simulation.run_node, name)
        await trio.sleep(BACK_SECONDS)
        self._failing.remove(name)
        self._bad.discard(name)

    def note_troubles(self) -> None:
        if trio.current_time() >= self.left_at:
            self.troubled |= self._bad

    def leave(self) -> None:
        """The block begins to be left."""
        self.left_at = trio.current_time()
        self.note_troubles()

    # --- the program ---------------------------------------------------------------------------
    async def block(self, how: str, outside: trio.Nursery) -> None:
        async with self.simulation.open_cluster() as cluster:
            with trio.CancelScope() as users:
                async with trio.open_nursery() as nursery:
                    for _ in range(self.rng.randint(1, 4)):
                        nursery.start_soon(self.use, cluster)
                    if self.rng.random() < 0.5:
                        await trio.sleep(self.rng.choice([0.0, 0.05, 1.0, 5.0]))
                        users.cancel()
            for job in self.jobs:
                outside.start_soon(job.wait_ended)
            self.leave()
            if how == "raise":
                raise Body
            if how == "cancel":
                outside.cancel_scope.cancel()
                await trio.sleep_forever()

    async def program(self, how: str) -> None:
        """Open, use, leave; the tasks outside of the block that wait for jobs end with it."""
        async with trio.open_nursery() as outside:
            try:
                await self.block(how, outside)
            except Body:
                assert how == "raise"
            took = trio.current_time() - self.left_at
            assert took <= (WORKING_SECONDS if how == "normally" else LEAVING_SECONDS), took
            self.check_ended()

    def check_ended(self) -> None:
        for job in self.jobs:
            assert job.ended, job
            if job.status is not JobHandle.Finished:
                assert isinstance(job.reason(), DispyError)

    async def check_nothing_is_left(self) -> None:
        await trio.sleep(HEALING_SECONDS)
        for name in self.simulation.node_names:
            if name not in self.troubled:
                assert not self.simulation.left_on(name), name

    def play(self) -> None:
        how = self.rng.choice(["cancel", "raise", "normally"])

        async def main() -> None:
            with trio.fail_after(3600):
                async with trio.open_nursery() as nursery:
                    for name in self.simulation.node_names:
                        await nursery.start(self.simulation.run_node, name)
                    nursery.start_soon(self.fail_nodes, nursery)
                    await self.program(how)
                    self.check_ended()
                    await self.check_nothing_is_left()
                    nursery.cancel_scope.cancel()

        deterministic_run(main, seed=self.seed)
