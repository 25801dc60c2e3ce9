"""What jobs write: all of it arrives, in its own job, whatever another one did before."""

from __future__ import annotations

import gc
import os
import pickle
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from dispy_trio import seams
from dispy_trio.child.program import Program
from dispy_trio.compute import packaging
from dispy_trio.models import Outcome

from . import output_jobs as jobs
from .test_processes import Bench, open_bench, until_true, written


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    # It would do a part of what is tested.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    async with open_bench(tmp_path, jobs.run) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        yield bench


@pytest.mark.parametrize(
    ("hurt", "args"),
    [
        (jobs.close, (1,)),
        (jobs.close, (2,)),
        (jobs.close, (1, 2)),
        (jobs.lead_into_a_file, ("data",)),
        (jobs.swap, ()),
        (jobs.lead_into_a_pipe, ()),
        (jobs.stop_appending, ()),
        (jobs.close_objects, ()),
        (jobs.replace_objects, ()),
        (jobs.close_by_a_wrapper, ()),
    ],
)
@pytest.mark.parametrize("isolated", [False, True])
async def test_what_a_job_does_to_its_descriptors_ends_with_it(
    bench: Bench, tmp_path: Path, hurt: Callable[..., Any], args: tuple[Any, ...], isolated: bool
) -> None:
    await bench.run(jobs.say, "before")
    payload = packaging.pack_arguments((hurt, *args), {})
    assert isinstance(payload, bytes)
    bench.sent[1] += 1
    settings = {"isolated": True} if isolated else None
    bench.template.send_jobs(1, [seams.WorkerJob(bench.sent[1], payload, settings=settings)])
    await bench.result(bench.sent[1])
    paths = [tmp_path / name for name in args if isinstance(name, str)]
    for _ in range(2):
        after = await bench.run(jobs.say, "after")
        assert written(after) == (b"after\n", b"after too\n")
        quiet = await bench.run(jobs.nothing)
        assert written(quiet) == (b"", b"")
    assert all(not os.stat(path).st_size for path in paths)


async def test_old_objects_write_into_the_job_that_runs(bench: Bench) -> None:
    await bench.run(jobs.keep_handler)
    for _ in range(2):
        result = await bench.run(jobs.by_old_objects)
        assert written(result) == (
            b"of import\nof a job before\n",
            b"of import, too\nof its handler\n",
        )


async def test_what_c_code_prints_is_in_its_own_job(bench: Bench) -> None:
    for text in ("one", "two"):
        result = await bench.run(jobs.by_c, text)
        assert written(result)[0] == text.encode() + b"a line\n."
        assert written(await bench.run(jobs.nothing)) == (b"", b"")


async def test_every_line_arrives_in_its_job(bench: Bench) -> None:
    """Of jobs that write in all ways at once, one right behind the other."""
    lines = 400
    await bench.start(2)
    ways = ("print", "write", "printf", "old", "thread", "shell")
    sent = [
        (worker, number, bench.send(jobs.by_everything, number, lines, worker=worker))
        for number in range(6)
        for worker in (1, 2)
    ]
    for worker, number, sequence in sent:
        result = await bench.result(sequence, worker)
        stdout, stderr = written(result)
        expected = Counter(f"{number} {way} {n}" for way in ways for n in range(lines))
        assert Counter(stdout.decode().splitlines()) == expected
        assert stderr == b""


async def test_lines_that_come_after_the_end_of_their_job_are_told_apart(
    bench: Bench, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = await bench.run(jobs.leave_a_writer, str(go), "late")
    assert written(first) == (b"", b"")
    go.touch()
    await until_true((tmp_path / "go.done").exists)
    sequence = bench.send(jobs.say, "second")
    call = await bench.next(seams.WorkerCall)
    assert (call.kind, call.body["text"]) == ("log", "wrote to stdout after its end: late\n")
    bench.template.answer(1, call.call, {})
    assert written(await bench.result(sequence)) == (b"second\n", b"second too\n")


async def test_a_file_that_a_program_emptied_goes_on(bench: Bench) -> None:
    """As shells do for `> /dev/stderr`: what was in it is gone, but nothing that comes after."""
    await bench.run(jobs.flood, 100_000)
    result = await bench.run(jobs.by_a_shell, "echo one > /dev/stderr; echo two >&2; echo out")
    assert written(result) == (b"out\n", b"one\ntwo\n")
    for text in ("a", "b" * 10_000):
        assert written(await bench.run(jobs.say, text))[1] == text.encode() + b" too\n"
    appended = await bench.run(jobs.by_a_shell, "echo 1; echo 2 >> /dev/stdout; echo 3 >&1")
    assert written(appended)[0] == b"1\n2\n3\n"


async def test_long_output_takes_no_room_once_it_was_taken(bench: Bench) -> None:
    for _ in range(3):
        result = await bench.run(jobs.flood, 20 << 20)
        assert len(written(result)[0]) == 20 << 20
    assert await bench.value(jobs.room_taken) < 1 << 20


async def test_output_lies_on_disk(bench: Bench, tmp_path: Path) -> None:
    places = await bench.value(jobs.where_output_lies)
    assert all(place.startswith(str(tmp_path)) for place in places)


async def test_a_worker_that_dies_leaves_all_that_its_job_wrote(bench: Bench) -> None:
    await bench.run(jobs.flood, 3 << 20)
    bench.send(jobs.leave_at_once, 5 << 20)
    died = await bench.next(seams.WorkerDied)
    assert died.how == "exit code 3 without a result"
    stdout, stderr = written(died)
    assert len(stdout) == 5 << 20
    assert stderr == b"last words\n"
    assert not died.stdout


async def test_a_template_that_ends_waits_for_what_its_jobs_wrote(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with open_bench(tmp_path, jobs.run) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        bench.send(jobs.leave_at_once, 30 << 20)
        await until_true(lambda: bench.template.poll(1)[0] == 1)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


# --- programs ----------------------------------------------------------------------------------
def program(directory: Path, script: str) -> Program:
    path = directory / "program.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return Program("program.sh", "java")


@pytest.mark.parametrize(
    ("script", "stdout", "stderr"),
    [
        ("echo one; echo two > /dev/stdout; echo three", b"one\ntwo\nthree\n", b""),
        ("echo one >&2; echo two > /dev/stderr; echo three >&2", b"", b"one\ntwo\nthree\n"),
        ("echo one; echo two | tee /dev/stderr", b"one\ntwo\n", b"two\n"),
        ("printf 'no end'", b"no end", b""),
        ("seq 1 300000", b"".join(b"%d\n" % n for n in range(1, 300_001)), b""),
    ],
)
async def test_nothing_that_a_program_writes_is_lost(
    tmp_path: Path, script: str, stdout: bytes, stderr: bytes
) -> None:
    async with open_bench(tmp_path, program(tmp_path, script)) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        for _ in range(2):
            assert written(await bench.result(send_bare(bench))) == (stdout, stderr)


async def test_what_a_program_leaves_running_can_still_write(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = (
        f"(until [ -e {go} ]; do sleep 0.01; done; seq 1 50000; touch {go}.done) &\n echo first"
    )
    async with open_bench(tmp_path, program(tmp_path, script)) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        assert written(await bench.result(send_bare(bench))) == (b"first\n", b"")
        go.touch()
        await until_true(Path(f"{go}.done").exists)


def send_bare(bench: Bench) -> int:
    return bench.send_raw(pickle.dumps(((), {})))


async def test_an_interrupt_at_any_moment_of_its_start_ends_a_program(tmp_path: Path) -> None:
    random = Random(7)
    async with open_bench(tmp_path, program(tmp_path, "exec sleep 60")) as bench:
        await bench.next(seams.TemplateReady)
        await bench.start()
        for _ in range(300):
            sequence = send_bare(bench)
            await trio.sleep(random.uniform(0, 0.008))
            bench.template.interrupt(1, sequence)
            assert (await bench.result(sequence)).outcome == Outcome.CANCELLED
