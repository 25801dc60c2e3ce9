"""No job stays behind in the queue, whenever it comes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from dispy_trio.client.engine import Engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.core.cluster import ClusterMachine
from dispy_trio.core.commands import ClusterCommand
from dispy_trio.models import Job, JobStatus

from . import kit
from .kit import History, Simulation


def test_who_submits_while_results_are_told_is_heard_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(seed=1, slots=1, durations=(0.5,))
    engines: list[Engine] = []
    heard: list[bool] = []

    class Eager(History):
        """As a thread that is woken by the end of its job, and has the next one ready."""

        def ended(self, jobs: Sequence[Job], again: bool) -> None:
            super().ended(jobs, again)
            (engine,) = engines
            if not engine.queue and len(simulation.jobs) < 30:
                heard.append(engine.wants_jobs)
                _submit(simulation, engine)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        engines.append(engine)
        await engine.usable.wait()
        await trio.sleep(1)
        # More than the nodes take: the last ones are taken when results come.
        for _ in range(20):
            _submit(simulation, engine)
        await trio.sleep(0.1)
        assert not engine.wants_jobs, "who submits behind those need not wake anybody"

    monkeypatch.setattr(kit, "History", Eager)
    simulation.run(scenario)
    assert heard
    assert all(heard)
    assert all(ends == ["Finished"] for ends in simulation.ends.values())


def test_who_appends_when_the_core_has_looked_and_asks_when_it_is_done_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(seed=1, durations=(0.5,))
    handle_in_core, handle = ClusterMachine.handle, Engine.handle
    heard: list[bool] = []
    has_appended = False

    def append_late(self: ClusterMachine, event: Any, *, now: float) -> list[ClusterCommand]:
        nonlocal has_appended
        commands = handle_in_core(self, event, now=now)
        (engine,) = engines
        if not engine.queue and simulation.jobs and len(simulation.jobs) < 20:
            has_appended = any(node.spare for node in self.nodes.values())
            if has_appended:
                _append(simulation, engine)
        return commands

    def ask_late(self: Engine, event: Any, *, now: float) -> list[ClusterCommand]:
        nonlocal has_appended
        has_appended = False
        commands = handle(self, event, now=now)
        if has_appended:
            heard.append(self.wants_jobs)
            _ask(self)
        return commands

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        engines.append(engine)
        await engine.usable.wait()
        await trio.sleep(1)
        monkeypatch.setattr(ClusterMachine, "handle", append_late)
        monkeypatch.setattr(Engine, "handle", ask_late)
        _submit(simulation, engine)
        await trio.sleep(30)

    engines: list[Engine] = []
    simulation.run(scenario)
    assert len(heard) > 5
    assert all(heard)
    assert all(ends == ["Finished"] for ends in simulation.ends.values())


def _submit(simulation: Simulation, engine: Engine) -> None:
    """As `JobCluster.submit`, which wakes nobody twice."""
    _append(simulation, engine)
    _ask(engine)


def _append(simulation: Simulation, engine: Engine) -> None:
    number = len(simulation.jobs) + 1
    job: SubmittedJob[int] = SubmittedJob(number, pickle.dumps(((number,), {})), id=number)
    simulation.jobs.append(job)
    engine.queue.append(job)


def _ask(engine: Engine) -> None:
    if engine.wants_jobs:
        engine.wants_jobs = False
        trio.lowlevel.current_trio_token().run_sync_soon(engine.wake)


def test_a_job_is_whole_before_it_is_seen_to_have_ended() -> None:
    simulation = Simulation(seed=1)
    seen: list[bool] = []

    class Watched(SubmittedJob[int]):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "state" and value == JobStatus.Finished:
                seen.append(bool(self.reply) and self.ended_at is not None)
            super().__setattr__(name, value)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        job = Watched(1, pickle.dumps(((1,), {})), id=1)
        simulation.jobs.append(job)
        engine.queue.append(job)
        engine.wake()
        await trio.lowlevel.checkpoint()

    simulation.run(scenario)
    assert seen == [True]
