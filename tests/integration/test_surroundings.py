"""What one job sets of its process, the next one does not find."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from dispy_trio import seams
from dispy_trio.compute import packaging
from dispy_trio.compute.processes import ProcessSpawner
from dispy_trio.models import Outcome
from dispy_trio.seams import TemplateSettings, WorkerJob

from . import surroundings_jobs as jobs
from .test_processes import PATIENCE, Bench, open_bench, returned, until_true


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            bench = Bench(tmp_path)
            bench.template = await ProcessSpawner().open_template(
                packaging.pack_computation(jobs.run, setup=jobs.setup).data,
                TemplateSettings(str(tmp_path)),
                bench.on_event,
                nursery,
            )
            await bench.next(seams.TemplateReady)
            await bench.start()
            yield bench
            await bench.template.aclose()


CHANGES = [
    jobs.ring_soon,
    jobs.ring_when_it_works,
    jobs.dump_later,
    jobs.handle_alarms,
    jobs.ignore_interrupts,
    jobs.block_signals,
    jobs.go_elsewhere,
    jobs.go_elsewhere_by_descriptor,
    jobs.hide_files,
    jobs.change_environment,
    jobs.clear_environment,
    jobs.change_path,
    jobs.replace_path,
    jobs.lower_limits,
    jobs.change_interpreter,
    jobs.change_tracing,
    jobs.change_collector,
    jobs.change_precision,
    jobs.replace_precision,
    jobs.change_locale,
    jobs.silence_faults,
    jobs.pin,
]


async def test_what_a_job_sets_of_its_process_is_put_back(bench: Bench) -> None:
    before = await bench.value(jobs.look)
    assert before["precision"] == 40
    assert before["environment"]["FROM_SETUP"] == "yes"
    assert before["umask"] == 0o027
    for change in CHANGES:
        assert await bench.value(change) is None
        assert await bench.value(jobs.look) == before, change.__name__
        failed = await bench.run(jobs.fail_and_leave, change)
        assert failed.outcome == Outcome.RAISED
        assert await bench.value(jobs.look) == before, f"{change.__name__}, and failed"


async def test_a_job_may_profile_itself(bench: Bench) -> None:
    before = await bench.value(jobs.look)
    assert await bench.value(jobs.profile_itself) == 10
    assert await bench.value(jobs.look) == before


async def test_no_clock_that_a_job_set_rings_in_another(bench: Bench) -> None:
    for change in (jobs.ring_sooner, jobs.handle_alarms, jobs.ring_when_it_works, jobs.dump_later):
        assert await bench.value(change) is None
    assert await bench.value(jobs.dawdle, 0.3) == "slept"


async def test_a_job_can_be_cancelled_after_one_that_ignored_interrupts(
    bench: Bench, tmp_path: Path
) -> None:
    for number, change in enumerate((jobs.ignore_interrupts, jobs.block_signals)):
        started = tmp_path / f"started{number}"
        await bench.run(change)
        sequence = bench.send(jobs.sleep, 60, str(started))
        await until_true(started.exists)
        bench.template.interrupt(1, sequence)
        assert (await bench.result(sequence)).outcome == Outcome.CANCELLED


async def test_a_job_with_settings_finds_them_and_the_next_one_does_not(bench: Bench) -> None:
    before = await bench.value(jobs.look)
    directory = str(bench.directory / "own")
    os.mkdir(directory)
    packed = packaging.pack_arguments((jobs.look,), {})
    assert isinstance(packed, bytes)
    sequence = bench.sent[1] = bench.sent[1] + 1
    settings: dict[str, Any] = {
        "environment": {"GIVEN": "yes", "FROM_SETUP": "no"},
        "memory": 1 << 40,
        "directory": directory,
    }
    bench.template.send_jobs(1, [WorkerJob(sequence, packed, settings=settings)])
    within = returned(await bench.result(sequence))
    assert within["directory"] == within["path"][0] == directory
    assert within["environment"]["GIVEN"] == "yes"
    assert within["environment"]["FROM_SETUP"] == "no"
    assert (1 << 40) in [soft for soft, _ in within["limits"]]
    assert await bench.value(jobs.look) == before


async def test_a_removed_directory_is_gone_back_to(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    async with open_bench(inner, jobs.run) as bench:
        await bench.next(seams.TemplateReady)
        pid = await bench.start()
        await bench.run(jobs.go_elsewhere)
        shutil.rmtree(inner)
        await bench.run(jobs.go_elsewhere)
        assert await bench.value(jobs.pid) == pid


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_worker_that_cannot_be_put_back_ends_after_that_job(
    bench: Bench, size: int
) -> None:
    """Its result is told, and nothing that waits behind it is started there."""
    first = packaging.pack_arguments((jobs.spoil, size), {})
    noop = packaging.pack_arguments((jobs.pid,), {})
    assert isinstance(first, bytes)
    assert isinstance(noop, bytes)
    bench.send_many([first, *[noop] * 50])
    for _ in range(20):
        bench.send(len, bytes(1 << 20))
    died = await bench.next(seams.WorkerDied)
    assert died.started == 1
    assert sorted(bench.results[1]) == [1]
    assert returned(bench.results[1][1]) == bytes(size)


async def test_globals_of_modules_stay(bench: Bench) -> None:
    assert await bench.value(jobs.remember, 1) == [1]
    assert await bench.value(jobs.remember, 2) == [1, 2]
