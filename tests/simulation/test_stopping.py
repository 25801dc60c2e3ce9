"""A wait that is cancelled lasts until its job has ended, or for as long as a node may take at most."""

from __future__ import annotations

import inspect
import logging
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from dispy_trio import messages
from dispy_trio.client.cluster import Cluster, OptionedCluster
from dispy_trio.client.engine import Doors, open_engine
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.options import make_options
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.client.stopping import ANSWER_SECONDS, stop, why
from dispy_trio.core.slots import DUE_SLACK
from dispy_trio.errors import JobAbandoned, JobCancelled
from dispy_trio.models import GRACE, KILL_SECONDS, OPTIONS_OF_MOST, JobStatus
from dispy_trio.testing import deterministic_run, seeded_tokens

from .kit import PORT, SECRET, History, Simulation

NODE = "10.0.0.2"
CLIENT = "10.0.0.1"
FOR_EVER = 100_000.0

AnyCluster = Cluster[[int], int]
Scenario = Callable[[AnyCluster, Simulation], Awaitable[None]]


def run(
    scenario: Scenario,
    *,
    seconds: float,
    grace: float = GRACE,
    pulse: float = 1.0,
    slots: int = 2,
    seed: int = 0,
) -> Simulation:
    """Run a scenario on one node, whose jobs take that many seconds."""
    simulation = Simulation(seed=seed, slots=slots, durations=(seconds,))
    settings = ClusterSettings(choose_nodes([f"{NODE}:{PORT}"]), pulse_interval=pulse)
    options = messages.ComputationOptions(grace=grace)
    work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0, options))
    doors = Doors(simulation.network.host(CLIENT), SECRET, seeded_tokens(seed, "client"))

    async def main() -> None:
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            stack.callback(nursery.cancel_scope.cancel)
            await nursery.start(simulation.run_node, NODE)
            engine = await stack.enter_async_context(
                open_engine(work, settings, History(simulation), doors=doors)
            )
            await engine.usable.wait()
            await scenario(Cluster(engine), simulation)
            engine.abandon()

    deterministic_run(main, seed=seed)
    return simulation


def interrupts(simulation: Simulation) -> list[float]:
    return [when for when, what, _ in simulation.history if what == "interrupt"]


async def cancel_after(seconds: float, wait: Callable[[], Awaitable[Any]]) -> float:
    """Cancel a wait; how long it lasted after that."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, seconds)
            scope.deadline = cancelled_at = trio.current_time() + seconds
            await wait()
            nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
    return trio.current_time() - cancelled_at


# --- run ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(10))
def test_a_cancelled_run_lasts_until_its_job_has_ended(seed: int) -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        lasted = await cancel_after(0.5, lambda: cluster.run(1))
        assert simulation.ends == {1: ["Terminated"]}
        assert 0.4 < lasted < 0.6  # These jobs heed an interrupt at their end.

    run(scenario, seconds=1.0, seed=seed)


def test_a_cancelled_run_whose_job_waits_ends_at_once() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        first = cluster.submit(1)
        lasted = await cancel_after(0.5, lambda: cluster.run(2))
        assert simulation.ends == {2: ["Cancelled"]}
        assert lasted == 0.0
        assert await first.wait() == 2

    run(scenario, seconds=1.0, slots=1)


@pytest.mark.parametrize(("grace", "of_job"), [(GRACE, None), (0.5, None), (GRACE, 1.0)])
def test_a_deaf_job_is_killed_after_its_grace_and_run_lasts_as_long(
    grace: float, of_job: float | None
) -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        used: Any = cluster
        if of_job is not None:
            used = OptionedCluster(cluster, make_options(OPTIONS_OF_MOST, grace=of_job))
        lasted = await cancel_after(0.5, lambda: used.run(1))
        assert simulation.ends == {1: ["Terminated"]}
        most = (grace if of_job is None else of_job) + KILL_SECONDS
        assert most <= lasted < most + 0.1

    run(scenario, seconds=FOR_EVER, grace=grace)


@pytest.mark.parametrize("grace", [GRACE, 0.0])
def test_the_job_of_a_node_that_does_not_answer_is_given_up_in_time(grace: float) -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        await trio.sleep(0.5)
        simulation.network.isolate(NODE)
        lasted = await cancel_after(0.5, job.wait)
        assert lasted == pytest.approx(grace + KILL_SECONDS + ANSWER_SECONDS)
        assert job.status is JobStatus.Abandoned
        with pytest.raises(JobAbandoned, match=r"did not tell within \d+ s .* which was cancelled"):
            await job.wait()
        assert cluster.status().jobs_pending == 0
        simulation.network.rejoin(NODE)
        await trio.sleep(30)
        assert interrupts(simulation), "the node hears of it when it is back"
        assert job.status is JobStatus.Abandoned

    run(scenario, seconds=FOR_EVER, grace=grace, pulse=500.0)


def test_ctrl_c_stops_the_job_that_the_main_task_waits_for() -> None:
    @trio.lowlevel.enable_ki_protection
    async def press() -> None:
        await trio.sleep(0.5)
        signal.raise_signal(signal.SIGINT)

    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press)
            with pytest.raises(KeyboardInterrupt):
                await job.wait()
        assert job.ended
        with pytest.raises(JobCancelled, match="KeyboardInterrupt"):
            await job.wait()

    run(scenario, seconds=1.0)


def test_a_run_that_is_cancelled_already_submits_nothing() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await cluster.run(1)
        assert scope.cancelled_caught
        assert cluster.status().jobs_pending == 0
        await trio.sleep(5)
        assert not [what for _, what, _ in simulation.history if what == "run"]

    run(scenario, seconds=1.0)


# --- several that wait for one job -------------------------------------------------------------
async def wait_for_result(job: JobHandle[int], results: list[int]) -> None:
    results.append(await job.wait())


def test_a_job_goes_on_while_anybody_else_waits_for_it() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        results: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_result, job, results)
            await trio.sleep(0.1)
            assert await cancel_after(0.1, job.wait) == 0.0
        assert results == [2]
        assert not interrupts(simulation)

    run(scenario, seconds=1.0)


def test_a_job_is_stopped_when_the_last_of_those_that_wait_is_cancelled() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        results: list[int] = []
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait_for_result, job, results)
        assert job.ended
        assert len(interrupts(simulation)) == 1
        with pytest.raises(JobCancelled):
            await job.wait()

    run(scenario, seconds=1.0)


def test_a_cancelled_wait_ended_leaves_the_job_alone() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        assert await cancel_after(0.5, job.wait_ended) == 0.0
        assert await job.wait() == 2

    run(scenario, seconds=1.0)


@pytest.mark.parametrize("method", ["wait_ended", "wait"])
def test_cancelled_waits_leave_nothing_behind(method: str) -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        kept: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_result, job, kept)
            await trio.sleep(0.1)
            for _ in range(20):
                with trio.move_on_after(0.01):
                    await getattr(job, method)()
            assert job.waiters is not None
            assert len(job.waiters) == 1

    run(scenario, seconds=1.0)


# --- threads -----------------------------------------------------------------------------------
def test_waits_in_another_thread_are_refused_and_leave_nothing_behind() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        waits: dict[str, list[Callable[[], Awaitable[Any]]]] = {
            "job.wait": [job.wait, job.wait_ended],
            "cluster.submit": [lambda: cluster.run(1)],
            "cluster.wait": [cluster.wait],
        }
        with ThreadPoolExecutor() as pool:
            for method, calls in waits.items():
                for call in calls:
                    with pytest.raises(RuntimeError, match=rf"from_thread.run\w*\({method}, "):
                        pool.submit(trio.run, call).result(timeout=10)
        assert job.waiters is None
        assert cluster.status().jobs_pending == 1
        assert await job.wait() == 2

    run(scenario, seconds=1.0)


# --- deadlines ---------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("deadline", [None, 0.7])
def test_a_deadline_round_run_is_a_cancel_to_the_program(
    seed: int, waits: bool, deadline: float | None
) -> None:
    """And no JobTerminated of the job's own deadline, whichever is first by the last bit."""

    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        if waits:
            for number in (11, 12):
                cluster.submit(number)
        used: Any = cluster
        if deadline is not None:
            used = OptionedCluster(cluster, make_options(OPTIONS_OF_MOST, timeout=50))
        with trio.move_on_after(deadline or 1.0) as scope:
            await used.run(1)
        assert scope.cancelled_caught

    run(scenario, seconds=1.5, seed=seed)


@pytest.mark.parametrize("kind", ["run", "map"])
def test_the_job_of_a_client_that_is_cut_off_ends_on_its_node_in_time(kind: str) -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        await trio.sleep(1.0)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_off, simulation)
            with trio.move_on_after(5.0, shield=True):
                if kind == "run":
                    await cluster.run(1)
                else:
                    async for _ in cluster.map([1]):
                        raise AssertionError("it takes for ever")
        await trio.sleep(1.0)
        (when,) = interrupts(simulation)
        assert began + 5.0 + DUE_SLACK <= when <= began + 5.1 + DUE_SLACK

    run(scenario, seconds=FOR_EVER, pulse=500.0)


async def cut_off(simulation: Simulation) -> None:
    await trio.sleep(1.0)
    simulation.network.isolate(CLIENT)


def test_jobs_outside_of_any_deadline_travel_as_ever() -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        assert job.extras is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.run, 2)
            await trio.testing.wait_all_tasks_blocked()
            outstanding = cluster._engine.machine.nodes[f"{NODE}:{PORT}"].outstanding
            assert [job.extras for job in outstanding.values()] == [None, None]

    run(scenario, seconds=1.0)


# --- why ---------------------------------------------------------------------------------------
def test_the_reason_of_a_cancel_reaches_the_error_and_the_log_of_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        await trio.sleep(0.5)
        await stop(cluster._engine, job, "nobody needs it")
        with pytest.raises(JobCancelled, match="cancelled while it ran: nobody needs it"):
            await job.wait()

    caplog.set_level(logging.INFO)
    run(scenario, seconds=1.0)
    assert [m for m in caplog.messages if m.endswith("cancels job 1: nobody needs it")]


def test_the_reason_of_a_cancel_scope_is_taken() -> None:
    has_reasons = "reason" in inspect.signature(trio.CancelScope.cancel).parameters

    async def scenario(cluster: AnyCluster, simulation: Simulation) -> None:
        job = cluster.submit(1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job.wait)
                await trio.sleep(0.5)
                scope.cancel(**({"reason": "nobody needs it"} if has_reasons else {}))
        expected = ": nobody needs it$" if has_reasons else "cancelled while it ran$"
        with pytest.raises(JobCancelled, match=expected):
            await job.wait()

    run(scenario, seconds=1.0)


class Newer(Exception):
    """As `trio.Cancelled` is in newer Trio."""

    def __init__(self, source: str, reason: str | None) -> None:
        self.source = source
        self.reason = reason


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (Newer("explicit", "enough"), "enough"),
        (Newer("explicit", None), ""),
        (Newer("deadline", None), "a deadline has passed"),
        (Newer("deadline", "enough"), "enough"),
        (Exception(), ""),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_why_a_wait_was_given_up(exc: BaseException, expected: str) -> None:
    assert why(exc) == expected
