"""What goes wrong in a node's own code while it works for one client is nothing to the others."""

from __future__ import annotations

import errno
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from dispy_trio import messages, seams
from dispy_trio.client.engine import Doors, Engine, open_engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.config import NodeSettings
from dispy_trio.models import JobStatus
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import Outside
from dispy_trio.testing import MemoryNetwork, deterministic_run, seeded_tokens

from .kit import (
    PORT,
    SECRET,
    NoDirectories,
    ScriptedSpawner,
    ScriptedTemplate,
    read_status,
)


class Faulty(ScriptedTemplate):
    """One of its methods raises."""

    method = ""

    def start_worker(self, worker: int) -> None:
        self.trip("start_worker")
        super().start_worker(worker)

    def send_jobs(self, worker: int, jobs: Sequence[seams.WorkerJob]) -> None:
        self.trip("send_jobs")
        super().send_jobs(worker, jobs)

    def poll(self, worker: int) -> tuple[int, float]:
        self.trip("poll")
        return super().poll(worker)

    def trip(self, method: str) -> None:
        if method == self.method:
            raise ZeroDivisionError("of our own making")


class FaultySpawner(ScriptedSpawner):
    """What it starts for a computation of the bundle ``bad`` is faulty."""

    method = ""
    shortages = 0
    """Times that there is no room for that."""

    async def open_template(
        self, bundle: Any, settings: Any, on_event: Any, nursery: trio.Nursery
    ) -> ScriptedTemplate:
        if bytes(bundle) != b"bad":
            return await super().open_template(bundle, settings, on_event, nursery)
        template = Faulty(self, on_event, nursery)
        template.method = self.method
        await trio.lowlevel.checkpoint()
        template.trip("open_template")
        if self.shortages:
            self.shortages -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        nursery.start_soon(self._ready, template)
        return template


@pytest.mark.parametrize("method", ["open_template", "start_worker", "send_jobs", "poll"])
def test_a_fault_of_the_node_ends_the_computation_it_was_doing_something_for(method: str) -> None:
    jobs = run_two_clients(method)
    assert [job.status for job in jobs[b"good"]] == [JobStatus.Finished] * 30
    hurt = [job for job in jobs[b"bad"] if job.status is not JobStatus.Finished]
    assert hurt
    for job in hurt:
        assert job.status is JobStatus.Terminated
        assert "of our own making" in str(job.exception), job.exception


@pytest.mark.parametrize(("method", "shortages"), [("open_template", 0), ("", 99)])
def test_nothing_stays_of_a_computation_that_could_not_be_started(
    method: str, shortages: int
) -> None:
    jobs = run_two_clients(method, shortages)
    assert [job.status for job in jobs[b"bad"]] == [JobStatus.Terminated] * 30


def test_a_computation_waits_for_the_descriptors_that_its_process_needs() -> None:
    jobs = run_two_clients("", shortages=3)
    for given in jobs.values():
        assert [job.status for job in given] == [JobStatus.Finished] * 30


def run_two_clients(method: str, shortages: int = 0) -> dict[bytes, list[SubmittedJob[int]]]:
    """Run thirty jobs of each of two clients on one node, which is faulty for the ``bad`` one."""
    network = MemoryNetwork(seed=1)
    spawner = FaultySpawner(random.Random(1), [])
    spawner.method = method
    spawner.shortages = shortages
    jobs: dict[bytes, list[SubmittedJob[int]]] = {}

    async def run_client(name: str, bundle: bytes) -> None:
        doors = Doors(network.host(name), SECRET, seeded_tokens(1, name))
        settings = ClusterSettings(choose_nodes([f"10.0.0.9:{PORT}"]), pulse_interval=1.0)
        work = Work(messages.OpenComputation(1, "double", "00", bundle, 0))
        async with open_engine(work, settings, Listener(), doors=doors) as engine:
            submit(engine, bundle)
            await engine.wait_drained()

    def submit(engine: Engine, bundle: bytes) -> None:
        jobs[bundle] = [SubmittedJob(n, pickle.dumps(((n,), {})), id=n) for n in range(1, 31)]
        engine.queue.extend(jobs[bundle])
        engine.wake()

    async def main() -> None:
        outside = Outside(
            net=network.host("10.0.0.9"),
            spawner=spawner,
            store=NoDirectories(Path("/nowhere")),
            secret=SECRET,
            processors=4,
            most_workers=100,
            draw_token=seeded_tokens(1, "node"),
            read_status=read_status,
        )
        settings = NodeSettings(host="10.0.0.9", port=PORT, pulse_interval=1.0)
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                control = await nursery.start(run_node, settings, outside)
                async with trio.open_nursery() as clients:
                    clients.start_soon(run_client, "10.0.0.1", b"good")
                    clients.start_soon(run_client, "10.0.0.2", b"bad")
                await trio.sleep(1)
                report = control.report()
                assert (report.clients, report.computations) == ([], []), "all has been closed"
                nursery.cancel_scope.cancel()

    deterministic_run(main, seed=1)
    return jobs
