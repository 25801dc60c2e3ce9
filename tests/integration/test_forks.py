"""Jobs that fork: what they make is no worker, and ends as any process does."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from dispy_trio import seams
from dispy_trio.compute import packaging
from dispy_trio.compute.processes import ProcessSpawner
from dispy_trio.models import Outcome
from dispy_trio.seams import TemplateSettings, WorkerResult

from . import fork_jobs as jobs
from .test_crashes import payload, send_isolated
from .test_processes import PATIENCE, Bench, open_bench, returned, until_gone, until_true


@pytest.fixture
async def forks(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path, jobs.run) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        yield bench


async def run_isolated(bench: Bench, function: Callable[..., Any], *args: Any) -> WorkerResult:
    return await bench.result(send_isolated(bench, payload(function, *args))[-1])


# --- what comes back ---------------------------------------------------------------------------
@pytest.mark.parametrize("isolated", [False, True])
async def test_a_forked_child_that_comes_back_ends_there(
    forks: Bench, tmp_path: Path, isolated: bool
) -> None:
    runs = str(tmp_path / "runs")
    payloads = [
        payload(jobs.note_run if number % 4 else jobs.fork_and_come_back, runs, number)
        for number in range(40 if isolated else 400)
    ]
    sequences = send_isolated(forks, *payloads) if isolated else forks.send_many(payloads)
    await forks.result(sequences[-1])
    assert [returned(forks.results[1][s]) for s in sequences] == list(range(len(payloads)))
    ran = Counter((tmp_path / "runs").read_text().split())
    assert set(ran.values()) == {1}
    assert len(ran) == len(payloads)
    assert not any(isinstance(event, seams.WorkerDied) for event in forks.events)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("returns", 0),
        ("raises", 1),
        ("exits", 7),
        ("complains", 1),
        ("in C", 0),
        ("in a generator", 0),
        ("with a terminal", 0),
    ],
)
async def test_what_a_job_forked_ends_as_a_program_does(
    forks: Bench, how: str, status: int
) -> None:
    result = await forks.run(jobs.fork_and_leave, how)
    assert returned(result) == status
    if how != "with a terminal":
        assert result.stdout == b"from below\n"
    assert (b"ValueError: from below" in result.stderr) == (how == "raises")
    assert (b"not here" in result.stderr) == (how == "complains")
    assert await forks.value(jobs.twice, 2) == 4


async def test_what_one_of_many_calls_forked_makes_none_of_the_others(
    forks: Bench, tmp_path: Path
) -> None:
    runs = str(tmp_path / "runs")
    calls = [(jobs.fork_and_come_back, runs, number) for number in range(5)]
    packed = packaging.pack_calls(calls)
    assert isinstance(packed, bytes)
    result = await forks.result(forks.send_raw(packed))
    assert packaging.unpack_calls(returned(result)) == (list(range(5)), None)
    assert (tmp_path / "runs").read_text().split() == ["0", "1", "2", "3", "4"]


async def test_a_fork_where_results_and_exceptions_are_made_ends_there_too(forks: Bench) -> None:
    assert await forks.value(jobs.fork_when, jobs.ForksWhenPickled) == 5
    result = await forks.run(jobs.fork_when, jobs.ForksWhenShown)
    assert result.outcome == Outcome.RAISED
    assert await forks.value(jobs.fork_in_a_thread) == 0
    for number in range(20):
        assert await forks.value(jobs.twice, number) == 2 * number


async def test_what_a_job_forked_keeps_none_of_our_sockets(forks: Bench) -> None:
    assert await forks.value(jobs.sockets_of_a_child) == []


@pytest.mark.parametrize("setup", [jobs.setup_forks, jobs.setup_forks_and_fails])
async def test_what_setup_forked_is_no_template(tmp_path: Path, setup: Callable[[], int]) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            bench = Bench(tmp_path)
            bench.template = await ProcessSpawner().open_template(
                packaging.pack_computation(jobs.run, setup=setup).data,
                TemplateSettings(str(tmp_path)),
                bench.on_event,
                nursery,
            )
            await bench.next(seams.TemplateReady)
            await bench.start()
            assert await bench.value(jobs.twice, 2) == 4
            ready = [e for e in bench.events if not isinstance(e, seams.WorkerResults)]
            assert ready == [], "told by two"
            await bench.template.aclose()


# --- signals -----------------------------------------------------------------------------------
@pytest.mark.parametrize("_part", range(4))
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (jobs.terminate_process, -15),
        (jobs.use_pool, [0, 2, 4]),
        (jobs.use_executor, [0, 2, 4]),
        (jobs.use_program, -15),
    ],
)
async def test_what_jobs_start_can_be_terminated(
    forks: Bench, function: Callable[[], Any], expected: Any, _part: int
) -> None:
    sequences = forks.send_many([payload(function)] * 25)
    await forks.result(sequences[-1])
    assert [returned(forks.results[1][s]) for s in sequences] == [expected] * 25


@pytest.mark.parametrize("function", [jobs.terminate_process, jobs.use_pool])
async def test_what_isolated_jobs_start_can_be_terminated(
    forks: Bench, function: Callable[[], Any]
) -> None:
    sequences = send_isolated(forks, *[payload(function)] * 5)
    await forks.result(sequences[-1])
    assert [forks.results[1][s].outcome for s in sequences] == [Outcome.RETURNED] * 5


async def test_signals_do_in_a_child_what_they_do_in_any_but_for_the_users_own(
    forks: Bench,
) -> None:
    expected = {"SIGINT": "default_int_handler", "SIGTERM": "Handlers.SIG_DFL", "blocked": "[]"}
    first = await forks.value(jobs.dispositions, False)
    assert first | {"SIGTERM": "Handlers.SIG_DFL"} == expected
    assert first["SIGTERM"] in ("Handlers.SIG_DFL", "0")
    own = await forks.value(jobs.dispositions, True)
    assert own == expected | {"SIGTERM": "_of_the_user"}


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_cancel_reaches_the_processes_a_job_has_forked(
    forks: Bench, tmp_path: Path, isolated: bool
) -> None:
    started = tmp_path / "started"
    job = payload(jobs.wait_with_children, str(started))
    sequence = send_isolated(forks, job)[0] if isolated else forks.send_raw(job)
    await until_true(lambda: started.exists() and started.read_text().count("\n") == 2)
    forks.template.interrupt(1, sequence)
    assert (await forks.result(sequence)).outcome == Outcome.CANCELLED
    for pid in started.read_text().split():
        await until_gone(int(pid))


async def test_an_isolated_job_may_have_threads_and_fork(forks: Bench) -> None:
    assert returned(await run_isolated(forks, jobs.threads_and_a_process)) == 0
