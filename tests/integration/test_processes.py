"""Template and worker processes, as they really are."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from attrs import define, field

from dispy_trio import seams
from dispy_trio.compute import packaging
from dispy_trio.compute.packaging import Parts
from dispy_trio.compute.processes import ProcessSpawner
from dispy_trio.errors import JobFailed
from dispy_trio.models import Outcome
from dispy_trio.seams import TemplateSettings, WorkerJob, WorkerResult

from . import process_jobs as jobs

E = TypeVar("E")

PATIENCE = 30.0
"""Seconds before a test that waits gives up; all of them are over in a fraction of one."""


@define(eq=False)
class Bench:
    """A template, and all it has told."""

    directory: Path
    events: list[seams.TemplateEvent] = field(factory=list)
    results: dict[int, dict[int, WorkerResult]] = field(factory=dict)
    """Worker to sequence to result."""
    sent: dict[int, int] = field(factory=dict)
    """Worker to the last sequence."""
    told: trio.Event = field(factory=trio.Event)
    template: seams.Template = field(init=False)

    def on_event(self, event: seams.TemplateEvent) -> None:
        self.events.append(event)
        if isinstance(event, seams.WorkerResults):
            known = self.results.setdefault(event.worker, {})
            for result in event.results:
                assert result.sequence not in known, "told twice"
                assert not known or result.sequence > max(known), "told out of order"
                known[result.sequence] = result
        self.told.set()
        self.told = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.told.wait()

    async def next(self, kind: type[E], worker: int | None = None) -> E:
        """The first such event, past or to come; it is taken."""
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind) and worker in (None, getattr(event, "worker", None)):
                    del self.events[index]
                    return event
            await self.told.wait()

    async def start(self, worker: int = 1) -> int:
        self.template.start_worker(worker)
        return (await self.next(seams.WorkerStarted, worker)).pid

    def send_raw(self, payload: bytes, worker: int = 1) -> int:
        sequence = self.sent[worker] = self.sent.get(worker, 0) + 1
        self.template.send_jobs(worker, [WorkerJob(sequence, payload)])
        return sequence

    def send(self, function: Callable[..., Any], *args: Any, worker: int = 1, **kwargs: Any) -> int:
        packed = packaging.pack_arguments((function, *args), kwargs)
        if isinstance(packed, bytes):
            return self.send_raw(packed, worker)
        sequence = self.sent[worker] = self.sent.get(worker, 0) + 1
        segment = packaging.write_segment(packed.buffers)
        self.template.send_jobs(worker, [WorkerJob(sequence, None, segment, packed.sizes)])
        os.close(segment)
        return sequence

    def send_many(self, payloads: list[bytes], worker: int = 1) -> range:
        first = self.sent.get(worker, 0) + 1
        self.sent[worker] = first + len(payloads) - 1
        batch = [WorkerJob(first + index, payload) for index, payload in enumerate(payloads)]
        self.template.send_jobs(worker, batch)
        return range(first, first + len(payloads))

    async def result(self, sequence: int, worker: int = 1) -> WorkerResult:
        await self.until(lambda: sequence in self.results.get(worker, {}))
        return self.results[worker][sequence]

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> WorkerResult:
        return await self.result(self.send(function, *args, **kwargs))

    async def value(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return returned(await self.run(function, *args, **kwargs))


def returned(result: WorkerResult) -> Any:
    assert result.outcome == Outcome.RETURNED, result
    if result.segment is None:
        return packaging.unpack_result(result.payload)
    memory = packaging.map_private(result.segment)
    os.close(result.segment)
    return packaging.unpack_result(packaging.split_parts(memory, result.sizes)[:-2])


def written(ended: WorkerResult | seams.WorkerDied) -> tuple[bytes, bytes]:
    if ended.segment is None:
        return ended.stdout, ended.stderr
    memory = packaging.map_private(ended.segment)
    os.close(ended.segment)
    out, err = packaging.split_parts(memory, ended.sizes)[-2:]
    return bytes(out), bytes(err)


@asynccontextmanager
async def open_bench(
    directory: Path, computation: Callable[..., Any] = jobs.run, **settings: Any
) -> AsyncIterator[Bench]:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            bench = Bench(directory)
            bench.template = await ProcessSpawner().open_template(
                packaging.pack_computation(computation).data,
                TemplateSettings(str(directory), **settings),
                bench.on_event,
                nursery,
            )
            try:
                yield bench
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                    await bench.template.aclose()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        yield bench


async def until_true(condition: Callable[[], bool]) -> None:
    """For what other processes do, of which no event tells."""
    while not condition():  # noqa: ASYNC110 - see above
        await trio.sleep(0.001)


async def until_gone(pid: int) -> None:
    await until_true(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- jobs that end as jobs should --------------------------------------------------------------
async def test_returns_what_the_job_returned(bench: Bench) -> None:
    before = time.time()
    result = await bench.run(jobs.echo, 1, two="three")
    assert returned(result) == ((1,), {"two": "three"})
    assert before <= result.start <= result.end <= time.time()
    assert (result.stdout, result.stderr) == (b"", b"")


async def test_a_worker_is_a_process_of_its_own_in_the_computations_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPY_TRIO_SECRET", "hidden")
    async with open_bench(tmp_path, environment={"GIVEN": "yes"}) as bench:
        await bench.next(seams.TemplateReady)
        pid = await bench.start()
        here = await bench.value(jobs.where)
    assert here["pid"] == here["group"] == pid
    assert here["directory"] == here["path"] == str(tmp_path)
    assert here["stdin"] == b""
    assert here["secrets"] == []
    assert here["given"] == "yes"
    assert here["oom"] >= 500
    assert here["descriptors"] < 15


async def test_programs_that_jobs_start_inherit_nothing_of_ours(bench: Bench) -> None:
    assert await bench.value(jobs.inherited_by_programs) == []


async def test_globals_live_as_long_as_their_worker(bench: Bench) -> None:
    await bench.start(2)
    assert await bench.value(jobs.remember, "k") == 1
    assert await bench.value(jobs.remember, "k") == 2
    other = bench.send(jobs.remember, "k", worker=2)
    assert returned(await bench.result(other, 2)) == 1


async def test_tells_an_exception_with_its_traceback_and_notes(bench: Bench) -> None:
    result = await bench.run(jobs.fail)
    assert result.outcome == Outcome.RAISED
    exc, text = packaging.unpack_exception(result.payload)
    assert isinstance(exc, jobs.Unlucky)
    assert exc.code == 13
    assert exc.__notes__ == ["mind the gap"]
    assert text.count("fail(depth - 1)") == 2
    assert text.endswith("Unlucky: 13\nmind the gap\n")
    # The user is not shown our own frames.
    assert "worker.py" not in text


@pytest.mark.parametrize("exc", [GeneratorExit("g"), KeyboardInterrupt("nobody cancelled")])
async def test_tells_what_is_no_exception_of_the_usual_kind(
    bench: Bench, exc: BaseException
) -> None:
    result = await bench.run(jobs.raise_this, exc)
    assert result.outcome == Outcome.RAISED
    told, text = packaging.unpack_exception(result.payload)
    # Raised here as it is, it would end whoever waits for the job.
    assert isinstance(told, JobFailed)
    assert str(told).startswith(type(exc).__name__)
    assert text.strip().endswith(repr(exc).partition("(")[0] + f": {exc}")
    assert await bench.value(jobs.echo, 1) == 1


async def test_tells_sys_exit(bench: Bench) -> None:
    result = await bench.run(jobs.leave_quietly, 3)
    assert result.outcome == Outcome.EXITED
    assert result.payload.startswith(b"the job called sys.exit(3)\nTraceback")
    assert await bench.value(jobs.echo, 1) == 1


@pytest.mark.parametrize("how", ["raises", "exits", "recurses"])
async def test_tells_a_result_that_cannot_be_pickled(bench: Bench, how: str) -> None:
    result = await bench.run(jobs.Stubborn, how)
    assert result.outcome == Outcome.UNPICKLABLE
    assert result.payload.startswith(b"result of type Stubborn cannot be pickled: ")
    assert await bench.value(jobs.echo, 1) == 1


async def test_refuses_arguments_that_cannot_be_unpickled_there(bench: Bench) -> None:
    result = await bench.run(jobs.echo, jobs.Trap(os.getpid()))
    assert result.outcome == Outcome.REFUSED
    assert b"'elsewhere'" in result.payload
    assert b"depends=" in result.payload
    nonsense = await bench.result(bench.send_raw(b"nonsense"))
    assert nonsense.outcome == Outcome.REFUSED
    assert await bench.value(jobs.echo, 1) == 1


async def test_text_that_is_no_unicode_hurts_nobody(bench: Bench) -> None:
    for exc in (ValueError("\udcff"), SystemExit("\udcff")):
        result = await bench.run(jobs.raise_this, exc)
        assert result.outcome in (Outcome.RAISED, Outcome.EXITED)
        assert b"\\udcff" in result.payload or isinstance(exc, ValueError)


async def test_processes_that_jobs_spawn_find_the_users_modules(bench: Bench) -> None:
    assert await bench.value(jobs.multiply_elsewhere, [1, 2, 3]) == [2, 4, 6]


# --- what jobs write ---------------------------------------------------------------------------
async def test_catches_what_python_and_child_programs_write_in_order(bench: Bench) -> None:
    result = await bench.run(jobs.chat)
    assert returned(result) == "chatted"
    assert result.stdout == b"from python\nfrom a shell\nwithout an end"
    assert result.stderr == b"in its stderr\nand from python again\n"
    quiet = await bench.run(jobs.echo, 1)
    assert (quiet.stdout, quiet.stderr) == (b"", b"")


async def test_cuts_the_middle_out_of_long_output(tmp_path: Path) -> None:
    async with open_bench(tmp_path, output_limit=1000) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        result = await bench.run(jobs.flood, 50_000)
    assert result.stdout.startswith(b"begin")
    assert result.stdout.endswith(b"end\n")
    assert b"[... 49009 bytes cut out: max_output is 1000 ...]" in result.stdout
    assert len(result.stdout) < 1100


async def test_output_larger_than_the_ring_arrives(bench: Bench) -> None:
    result = await bench.run(jobs.flood, 1_000_000)
    assert len(written(result)[0]) == 1_000_009


@pytest.mark.parametrize("how", [jobs.redirect, jobs.close_descriptors])
async def test_what_a_job_does_to_its_output_does_not_last(
    bench: Bench, how: Callable[[], None]
) -> None:
    assert await bench.value(how) is None
    assert (await bench.run(jobs.chat)).stdout.startswith(b"from python\nfrom a shell\n")


# --- large ones --------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [60_000, 70_000, 300_000, 8 << 20])
async def test_large_arguments_and_results(bench: Bench, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert await bench.value(jobs.echo, data) == data


async def test_results_of_all_sizes_come_in_order(bench: Bench) -> None:
    draw = random.Random(7)
    sizes = [draw.choice([10, 1000, 60_000, 100_000, 400_000]) for _ in range(200)]
    for size in sizes:
        bench.send(bytes, size)
    await bench.result(len(sizes))
    values = [returned(bench.results[1][sequence]) for sequence in range(1, len(sizes) + 1)]
    assert [len(value) for value in values] == sizes


async def test_a_worker_that_nobody_looks_at_waits_with_its_results(bench: Bench) -> None:
    """More than the ring and the socket hold, completed while the supervisor sleeps."""
    payload = packaging.pack_arguments((bytes, 60_000), {})
    assert isinstance(payload, bytes)
    sequences = bench.send_many([payload] * 100)
    time.sleep(0.3)  # noqa: ASYNC251 - the supervisor is not to come round
    await bench.result(sequences[-1])
    assert [len(returned(r)) for r in bench.results[1].values()] == [60_000] * 100


# --- deaths ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "args", "how", "last_words"),
    [
        (jobs.leave_at_once, (0,), "exit code 0 without a result", b"last words\n"),
        (jobs.leave_at_once, (3,), "exit code 3 without a result", b"last words\n"),
        (jobs.crash, (), "killed by SIGSEGV (11)", b"Fatal Python error: Segmentation fault"),
        (jobs.kill_self, (), "killed by SIGKILL (9)", b""),
    ],
)
async def test_tells_how_a_worker_died(
    bench: Bench, function: Callable[..., Any], args: tuple[Any, ...], how: str, last_words: bytes
) -> None:
    assert await bench.value(jobs.echo, 1) == 1
    before = time.time()
    sequence = bench.send(function, *args)
    died = await bench.next(seams.WorkerDied)
    assert died.how == how
    assert died.started == sequence
    assert died.stderr.startswith(last_words)
    assert before <= died.start <= died.end < before + 2
    # A new one takes its place.
    await bench.start(2)
    fresh = bench.send(jobs.echo, 5, worker=2)
    assert returned(await bench.result(fresh, 2)) == 5


async def test_results_completed_before_a_death_are_delivered(bench: Bench) -> None:
    noop = packaging.pack_arguments((jobs.echo, 1), {})
    large = packaging.pack_arguments((bytes, 100_000), {})
    fatal = packaging.pack_arguments((jobs.kill_self,), {})
    assert isinstance(noop, bytes)
    assert isinstance(large, bytes)
    assert isinstance(fatal, bytes)
    bench.send_many([*[noop] * 300, *[large] * 20, *[noop] * 30, fatal, *[noop] * 50])
    died = await bench.next(seams.WorkerDied)
    assert died.started == 351
    assert sorted(bench.results[1]) == list(range(1, 351))
    for result in bench.results[1].values():
        returned(result)


async def test_kill_takes_the_whole_group(bench: Bench) -> None:
    child = await bench.value(jobs.spawn, 60, leave_group=False)
    bench.send(jobs.sleep, 60)
    bench.template.kill(1)
    died = await bench.next(seams.WorkerDied)
    assert died.how == "killed by SIGKILL (9)"
    await until_gone(child)


async def test_what_a_dead_worker_leaves_running_is_killed(bench: Bench) -> None:
    child = await bench.value(jobs.spawn, 60, leave_group=False)
    bench.send(jobs.leave_at_once, 1)
    await bench.next(seams.WorkerDied)
    await until_gone(child)


async def test_an_idle_worker_stops_when_asked(bench: Bench) -> None:
    assert await bench.value(jobs.echo, 1) == 1
    bench.template.stop_worker(1)
    died = await bench.next(seams.WorkerDied)
    assert died.how == "stopped"
    assert died.started == 1


@pytest.mark.parametrize("function", [jobs.scribble, jobs.ask_nonsense])
async def test_a_job_that_breaks_its_worker_breaks_nothing_else(
    bench: Bench, function: Callable[[], None]
) -> None:
    await bench.start(2)
    bench.send(function)
    while not any(isinstance(event, seams.WorkerDied) for event in bench.events):
        bench.template.poll(1)
        await trio.sleep(0.002)
    died = await bench.next(seams.WorkerDied)
    assert "its job broke the worker" in died.how
    fine = bench.send(jobs.echo, 5, worker=2)
    assert returned(await bench.result(fine, 2)) == 5


# --- cancels -----------------------------------------------------------------------------------
async def test_an_interrupted_job_may_catch_it_and_return(bench: Bench, tmp_path: Path) -> None:
    sequence = bench.send(jobs.heed, str(tmp_path / "started"))
    await until_true((tmp_path / "started").exists)
    bench.template.interrupt(1, sequence)
    assert returned(await bench.result(sequence)) == "heeded"


async def test_an_interrupted_job_that_does_not_is_cancelled(bench: Bench, tmp_path: Path) -> None:
    sequence = bench.send(jobs.sleep, 60, str(tmp_path / "started"))
    await until_true((tmp_path / "started").exists)
    bench.template.interrupt(1, sequence)
    result = await bench.result(sequence)
    assert result.outcome == Outcome.CANCELLED
    assert result.payload == b"cancelled while it ran"
    assert await bench.value(jobs.echo, 1) == 1


async def test_an_interrupt_reaches_the_programs_a_job_waits_for(
    bench: Bench, tmp_path: Path
) -> None:
    # A shell's parent ignores SIGINT while it waits: only the group's signal ends this.
    sequence = bench.send(os.system, f"touch {tmp_path}/started; exec sleep 60")
    await until_true((tmp_path / "started").exists)
    bench.template.interrupt(1, sequence)
    result = await bench.result(sequence)
    assert result.outcome in (Outcome.RETURNED, Outcome.CANCELLED)


async def test_a_job_is_cancelled_before_it_starts(bench: Bench) -> None:
    first = bench.send(jobs.sleep, 0.05)
    second = bench.send(jobs.sleep, 60)
    bench.template.interrupt(1, second)
    assert returned(await bench.result(first)) == "slept"
    assert (await bench.result(second)).outcome == Outcome.CANCELLED


async def test_a_late_interrupt_hits_nobody(bench: Bench) -> None:
    await bench.run(jobs.echo, 1)
    sequence = bench.send(jobs.sleep, 0.1)
    for stale in range(sequence):
        bench.template.interrupt(1, stale)
        bench.template.terminate(1, stale)
    assert returned(await bench.result(sequence)) == "slept"


async def test_terminate_ends_a_job_that_ignores_interrupts(bench: Bench, tmp_path: Path) -> None:
    sequence = bench.send(jobs.ignore_interrupts, str(tmp_path / "started"))
    await until_true((tmp_path / "started").exists)
    bench.template.interrupt(1, sequence)
    await until_true((tmp_path / "started.interrupted").exists)
    bench.template.terminate(1, sequence)
    died = await bench.next(seams.WorkerDied)
    assert died.how == "killed by SIGTERM (15)"
    assert died.started == sequence


async def test_cancels_at_any_moment_hit_the_job_they_mean(bench: Bench) -> None:
    draw = random.Random(11)
    payloads = [
        packaging.pack_arguments((jobs.echo, "x"), {}),
        packaging.pack_arguments((sum, range(2000)), {}),
        packaging.pack_arguments((jobs.raise_this, ValueError("v")), {}),
        packaging.pack_arguments((functools.partial(print, "p"),), {}),
    ]
    cancelled = 0
    for _ in range(2000):
        before = len(bench.results.get(1, {}))
        chosen = [draw.choice(payloads) for _ in range(draw.randint(1, 4))]
        sequences = bench.send_many([payload for payload in chosen if isinstance(payload, bytes)])
        victim = draw.choice(sequences)
        until = time.perf_counter() + draw.random() * 150e-6
        while time.perf_counter() < until:
            pass
        bench.template.interrupt(1, victim)
        await bench.result(sequences[-1])
        assert len(bench.results[1]) == before + len(sequences)
        for sequence in sequences:
            outcome = bench.results[1][sequence].outcome
            if outcome == Outcome.CANCELLED:
                assert sequence == victim
                cancelled += 1
    assert not any(isinstance(event, seams.WorkerDied) for event in bench.events)
    assert cancelled > 20, "the moments are not well chosen"


# --- recalls -----------------------------------------------------------------------------------
@pytest.mark.parametrize("long", [jobs.sleep, jobs.block_in_c])
async def test_recall_takes_back_what_waits_behind_a_long_job(
    bench: Bench, tmp_path: Path, long: Callable[..., str]
) -> None:
    first = [bench.send(jobs.mark, str(tmp_path), number) for number in range(50)]
    blocker = bench.send(long, 0.5, str(tmp_path / "started"))
    behind = [bench.send(jobs.mark, str(tmp_path), 100 + number) for number in range(50)]
    await until_true((tmp_path / "started").exists)
    bench.template.recall(1)
    recalled = await bench.next(seams.WorkerRecalled)
    assert recalled.started == blocker
    assert set(bench.results[1]) == set(first), "told at once, not when the long job ends"
    again = [bench.send(jobs.mark, str(tmp_path), 100 + number) for number in range(50)]
    await bench.result(again[-1])
    assert set(bench.results[1]) == {*first, blocker, *again}
    assert all(returned(bench.results[1][sequence]) >= 100 for sequence in again)
    assert not set(behind) & set(bench.results[1])


async def test_recalls_at_any_moment_lose_nothing_and_double_nothing(bench: Bench) -> None:
    draw = random.Random(5)
    noop = packaging.pack_arguments((jobs.echo, 1), {})
    assert isinstance(noop, bytes)
    returned_back: set[int] = set()
    for _ in range(500):
        bench.send_many([noop] * draw.randint(1, 40))
        until = time.perf_counter() + draw.random() * 200e-6
        while time.perf_counter() < until:
            pass
        bench.template.recall(1)
        recalled = await bench.next(seams.WorkerRecalled)
        taken = range(recalled.started + 1, bench.sent[1] + 1)
        returned_back |= set(taken) - returned_back
        await bench.result(recalled.started) if recalled.started else None
    last = bench.send_raw(noop)
    await bench.result(last)
    ran = set(bench.results[1])
    assert ran | returned_back == set(range(1, last + 1))
    assert not ran & returned_back
    # How many of each says only how busy the machine was.
    assert len(ran) > 1
    assert returned_back


# --- what jobs ask -----------------------------------------------------------------------------
async def test_a_job_asks_its_node(bench: Bench) -> None:
    sequence = bench.send(jobs.ask, "question", {"deep": ["thought"]})
    call = await bench.next(seams.WorkerCall)
    assert (call.kind, call.body) == ("question", {"deep": ["thought"]})
    bench.template.answer(1, call.call, {"answer": 42})
    assert returned(await bench.result(sequence)) == {"answer": 42}


async def test_a_refusal_or_an_answer_too_long_is_an_error_in_the_job(bench: Bench) -> None:
    for body in ({"error": "not today"}, {"long": "x" * 100_000}):
        sequence = bench.send(jobs.ask, "question", {})
        call = await bench.next(seams.WorkerCall)
        bench.template.answer(1, call.call, body)
        exc, _ = packaging.unpack_exception((await bench.result(sequence)).payload)
        assert type(exc) is OSError
    result = await bench.run(jobs.ask, "question", {"long": "x" * 100_000})
    assert "too long" in str(packaging.unpack_exception(result.payload)[0])


async def test_an_answer_to_a_call_that_was_cut_short_is_dropped(bench: Bench) -> None:
    first = bench.send(jobs.ask, "first", {})
    call = await bench.next(seams.WorkerCall)
    bench.template.interrupt(1, first)
    assert (await bench.result(first)).outcome == Outcome.CANCELLED
    second = bench.send(jobs.ask, "second", {})
    again = await bench.next(seams.WorkerCall)
    bench.template.answer(1, call.call, {"to": "first"})
    bench.template.answer(1, again.call, {"to": "second"})
    assert returned(await bench.result(second)) == {"to": "second"}


# --- templates ---------------------------------------------------------------------------------
class Broken:
    """Can't be loaded."""

    def __reduce__(self) -> Any:
        return jobs.raise_this, (RuntimeError("not loadable \u4e2d"),)

    def __call__(self) -> None:
        raise AssertionError


class Deadly(Broken):
    """Kills who loads it."""

    def __reduce__(self) -> Any:
        return jobs.kill_self, ()


async def test_a_computation_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    async with open_bench(tmp_path, Broken()) as bench:
        failed = await bench.next(seams.TemplateFailed)
    assert "RuntimeError: not loadable \u4e2d" in failed.text


async def test_a_template_that_dies_says_how(tmp_path: Path) -> None:
    async with open_bench(tmp_path, Deadly()) as bench:
        died = await bench.next(seams.TemplateDied)
    assert died.text == "killed by SIGKILL"


async def test_workers_end_with_their_template(bench: Bench) -> None:
    pid = await bench.start(2)
    template = parent_of(pid)
    sequence = bench.send(jobs.echo, 1)
    await bench.result(sequence)
    bench.send(jobs.sleep, 60)
    os.kill(template, signal.SIGKILL)
    await bench.next(seams.TemplateDied)
    await until_gone(pid)


async def test_a_prepared_process_is_used_once(tmp_path: Path) -> None:
    spawner = ProcessSpawner()
    spawner.prepare()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            benches = [Bench(tmp_path), Bench(tmp_path)]
            for bench in benches:
                bench.template = await spawner.open_template(
                    packaging.pack_computation(jobs.run).data,
                    TemplateSettings(str(tmp_path)),
                    bench.on_event,
                    nursery,
                )
            for bench in benches:
                await bench.next(seams.TemplateReady)
                await bench.template.aclose()
    spawner.prepare()
    spawner.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants() -> set[int]:
    """Live processes below this one, and those it or init was left with."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_nothing_stays(tmp_path: Path, how: str) -> None:
    gc.collect()
    descriptors = set(os.listdir("/proc/self/fd"))
    children = descendants()
    pids: list[int] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            bench = Bench(tmp_path)
            bench.template = await ProcessSpawner().open_template(
                packaging.pack_computation(jobs.run).data,
                TemplateSettings(str(tmp_path)),
                bench.on_event,
                nursery,
            )
            await bench.next(seams.TemplateReady)
            for worker in range(1, 5):
                pids.append(await bench.start(worker))
            for leave_group in (False, True):
                pids.append(await bench.value(jobs.spawn, 60, leave_group=leave_group))
            assert await bench.value(jobs.echo, bytes(3_000_000)) == bytes(3_000_000)
            big = packaging.pack_arguments((jobs.sleep, 60, bytes(300_000)), {})
            assert isinstance(big, Parts)
            segment = packaging.write_segment(big.buffers)
            bench.send(jobs.sleep, 60)
            # More than the socket takes: some wait on our side with their segments.
            waiting = [WorkerJob(10 + n, None, segment, big.sizes) for n in range(2000)]
            bench.template.send_jobs(1, waiting)
            os.close(segment)
            bench.template.start_worker(9)  # Still on its way when it all ends.
            if how == "close":
                await bench.template.aclose()
                assert not any(is_alive(pid) for pid in pids)
            nursery.cancel_scope.cancel()
    assert not any(is_alive(pid) for pid in pids)
    assert descendants() == children
    del bench
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == descriptors


async def test_many_jobs_over_two_workers(bench: Bench) -> None:
    await bench.start(2)
    noop = packaging.pack_arguments((jobs.echo, 1), {})
    assert isinstance(noop, bytes)
    total = 20_000
    began = time.perf_counter()
    while sum(bench.sent.values()) < total:
        for worker in (1, 2):
            done = len(bench.results.get(worker, {}))
            if bench.sent.get(worker, 0) - done < 500:
                bench.send_many([noop] * 500, worker)
            bench.template.poll(worker)
        await trio.lowlevel.checkpoint()
    for worker in (1, 2):
        await bench.result(bench.sent[worker], worker)
    took = time.perf_counter() - began
    done = sum(len(results) for results in bench.results.values())
    assert done == sum(bench.sent.values())
    sys.stderr.write(f"{1e6 * took / done:.1f} µs per no-op job, two workers\n")
    assert {
        pickle.loads(r.payload) for results in bench.results.values() for r in results.values()
    } == {1}
