"""What a supervisor does when the kernel refuses, and when processes die at the worst moment."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dispy_trio import seams
from dispy_trio.compute import processes

from . import process_jobs as jobs
from .test_processes import (
    Bench,
    bench,  # noqa: F401 - a fixture
    is_alive,
    open_bench,
    parent_of,
    returned,
    until_gone,
    until_true,
)

ERRORS = [errno.EMFILE, errno.ENOMEM, errno.EAGAIN, errno.EBADF]


def descriptors() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


# --- starting a worker -------------------------------------------------------------------------
CALLS: list[tuple[Any, str]] = [
    (socket, "socketpair"),
    (os, "memfd_create"),
    (os, "ftruncate"),
    (mmap, "mmap"),
    (os, "dup"),
    (socket, "send_fds"),
]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
async def test_whichever_call_fails_a_worker_is_refused_and_nothing_stays(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    await bench.value(jobs.echo, 0)
    before = descriptors()
    refused = 0
    for module, name in CALLS:
        if name == "send_fds" and error == errno.EAGAIN:
            continue  # The socket is full, and it is sent later.
        for nth in range(1, 20):
            with monkeypatch.context() as patch:
                calls = fail_at(patch, module, name, nth, error)
                worker = 100 + refused
                bench.template.start_worker(worker)
            if calls() < nth:
                await bench.next(seams.WorkerStarted, worker)
                bench.template.stop_worker(worker)
                await bench.next(seams.WorkerDied, worker)
                break
            event = await bench.next(seams.WorkerRefused, worker)
            assert os.strerror(error) in event.text
            assert descriptors() == before, (name, nth)
            refused += 1
    assert refused >= 12
    assert await bench.value(jobs.echo, 1) == 1
    assert await bench.start(2)


def fail_at(
    patch: pytest.MonkeyPatch, module: Any, name: str, nth: int, error: int
) -> Callable[[], int]:
    """Have the n-th call of a function fail; returns how many there have been."""
    real = getattr(module, name)
    count = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    patch.setattr(module, name, failing)
    return lambda: count


@contextmanager
def limited(room: int) -> Iterator[None]:
    """This process may have that many descriptors more than it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    held = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    while held[-1] < highest:  # Those between are taken first.
        held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest, held[-1]) + 1 + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


async def test_workers_without_descriptors_for_them_are_refused(bench: Bench) -> None:  # noqa: F811
    before = descriptors()
    for room in range(30):
        with limited(room):
            bench.template.start_worker(10 + room)
            await bench.until(
                lambda worker=10 + room: any(
                    isinstance(event, (seams.WorkerStarted, seams.WorkerRefused))
                    and event.worker == worker
                    for event in bench.events
                )
            )
        if isinstance(bench.events[-1], seams.WorkerStarted):
            break
        assert isinstance(bench.events[-1], seams.WorkerRefused)
        assert "Too many open files" in bench.events[-1].text
        assert descriptors() == before
    else:
        raise AssertionError("30 descriptors are enough")
    assert room > 6
    assert await bench.value(jobs.echo, 1) == 1


async def test_a_worker_whose_descriptor_was_lost_is_ended(bench: Bench) -> None:  # noqa: F811
    before = descriptors()
    bench.template.start_worker(2)
    # It is forked meanwhile; what comes with the news finds no room.
    with limited(0):
        refused = await bench.next(seams.WorkerRefused, 2)
    assert "Too many open files" in refused.text
    assert descriptors() == before
    assert await bench.value(jobs.echo, 1) == 1


async def test_a_template_short_of_descriptors_refuses_workers_and_says_why(
    bench: Bench,  # noqa: F811
) -> None:
    template = parent_of(await bench.start(2))
    taken = {int(name) for name in os.listdir(f"/proc/{template}/fd")}
    free = [number for number in range(100) if number not in taken]
    before = descriptors()
    # Too few for the ends of a worker; enough for those, and not for its pidfd.
    for worker, room in enumerate((1, 3, 6, 7), 10):
        resource.prlimit(template, resource.RLIMIT_NOFILE, (free[room], 20_000))
        bench.template.start_worker(worker)
        with trio.fail_after(5):
            await bench.until(lambda: bool(bench.events))
        event = bench.events.pop()
        if isinstance(event, seams.WorkerRefused):
            assert "Too many open files" in event.text
            assert descriptors() == before
        else:
            assert isinstance(event, seams.WorkerStarted)
            assert room > 6
    resource.prlimit(template, resource.RLIMIT_NOFILE, (1024, 20_000))
    await bench.start(20)
    assert await bench.value(jobs.echo, 1) == 1


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
async def test_a_template_that_cannot_be_started_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    before = descriptors()
    calls: list[tuple[Any, str]] = [
        (socket, "socketpair"),
        (processes.os, "pidfd_open"),
        (os, "memfd_create"),
        (os, "pwrite"),
        (os, "dup"),
        (socket, "send_fds"),
    ]
    for module, name in calls:
        if name == "send_fds" and error == errno.EAGAIN:
            continue  # As above.
        with monkeypatch.context() as patch:
            fail_at(patch, module, name, 1, error)
            async with trio.open_nursery() as nursery:
                with pytest.raises(OSError, match=os.strerror(error)):
                    await processes.ProcessSpawner().open_template(
                        b"bundle", seams.TemplateSettings(str(tmp_path)), print, nursery
                    )
        assert descriptors() == before, name


# --- deaths at the worst moment ----------------------------------------------------------------
async def test_a_worker_that_dies_before_its_readers_start_ends_alone(bench: Bench) -> None:  # noqa: F811
    template: Any = bench.template
    os.kill(await bench.start(2), signal.SIGSTOP)
    for worker in range(10, 20):
        bench.template.start_worker(worker)
        # Both the news of its birth and that of its death are read in one go: the loop is busy.
        await until_true(lambda worker=worker: template._workers[worker].pid > 0)
        os.kill(template._workers[worker].pid, signal.SIGKILL)
        until_zombie(template._workers[worker].pid)
        await bench.next(seams.WorkerDied, worker)
    assert await bench.value(jobs.echo, 1) == 1


def until_zombie(pid: int) -> None:
    """Wait without giving others a turn."""
    while is_alive(pid):
        pass


async def test_what_is_asked_of_a_dead_template_is_not_done(bench: Bench) -> None:  # noqa: F811
    pid = await bench.start(2)
    asked: list[seams.TemplateEvent] = []

    def ask_at_once(event: seams.TemplateEvent) -> None:
        asked.append(event)
        bench.template.start_worker(30)
        bench.template.send_jobs(2, [seams.WorkerJob(1, b"")])
        bench.template.stop_worker(2)
        bench.template.kill(2)
        Bench.on_event(bench, event)

    object.__setattr__(bench.template, "_report", ask_at_once)
    os.kill(parent_of(pid), signal.SIGKILL)
    died = await bench.next(seams.TemplateDied)
    assert died.text == "killed by SIGKILL"
    assert sorted(death.worker for death in died.workers) == [1, 2]
    bench.template.start_worker(31)
    assert [type(event) for event in asked] == [seams.TemplateDied]


async def test_what_jobs_completed_before_their_template_died_is_delivered(bench: Bench) -> None:  # noqa: F811
    pid = await bench.start(2)
    template = parent_of(pid)
    first = bench.send(jobs.echo, 1)
    running = bench.send(jobs.sleep, 60)
    bench.send(jobs.sleep, 60)
    await until_true(lambda: bench.template.poll(1)[0] == running)
    os.kill(template, signal.SIGKILL)
    died = await bench.next(seams.TemplateDied)
    assert returned(bench.results[1][first]) == 1
    assert {death.worker: death.started for death in died.workers} == {1: running, 2: 0}


async def test_a_template_that_is_given_up_says_why(bench: Bench) -> None:  # noqa: F811
    pid = await bench.start(2)
    bench.template.give_up("of no use any more")
    died = await bench.next(seams.TemplateDied)
    assert died.text == "of no use any more"
    await until_gone(pid)


async def test_an_error_in_reading_a_worker_ends_its_computation_only(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    template: Any = bench.template

    def fail(*_: object, **__: object) -> bool:
        raise ZeroDivisionError("of our own making")

    (tmp_path / "other").mkdir()
    async with open_bench(tmp_path / "other") as other:
        await other.next(seams.TemplateReady)
        await other.start()
        monkeypatch.setattr(type(template), "_on_message", fail)
        bench.template.start_worker(2)
        died = await bench.next(seams.TemplateDied)
        assert died.text == "ZeroDivisionError: of our own making"
        assert await other.value(jobs.echo, 1) == 1


# --- whatever is below a template --------------------------------------------------------------
async def test_a_killed_template_leaves_nobody_behind(bench: Bench) -> None:  # noqa: F811
    pids = [await bench.value(jobs.spawn, 60, leave_group=leave) for leave in (False, True)]
    pids.append(await bench.value(jobs.daemonize))
    os.kill(parent_of(await bench.start(2)), signal.SIGKILL)
    await bench.next(seams.TemplateDied)
    assert not any(is_alive(pid) for pid in pids)


async def test_daemons_of_jobs_end_with_their_computation(bench: Bench) -> None:  # noqa: F811
    daemon = await bench.value(jobs.daemonize)
    assert is_alive(daemon)
    await bench.template.aclose()
    assert not is_alive(daemon)


class Deaf:
    """Loads for ever, and has started a program before."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return jobs.load_for_ever, (str(self.mark),)

    def __call__(self) -> None:
        raise AssertionError


async def test_a_template_deaf_in_the_users_code_is_ended_with_its_programs(tmp_path: Path) -> None:
    mark = tmp_path / "program"
    async with open_bench(tmp_path, Deaf(mark)) as bench:  # noqa: F811
        await until_true(mark.exists)
        program = int(mark.read_text())
        assert is_alive(program)
        await bench.template.aclose()
        assert not is_alive(program)


async def test_a_worker_whose_output_finds_no_thread_is_told_of_without_it(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    await bench.start(2)
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    running = bench.send(jobs.flood_and_die, 200_000, worker=2)
    died = await bench.next(seams.WorkerDied, 2)
    assert died.started == running
    assert died.stderr == b"what it wrote can't be kept: can't start new thread\n"
    assert await bench.value(jobs.echo, 1) == 1


async def test_a_worker_that_can_not_be_buried_ends_its_computation(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("of our own making")

    pid = await bench.start(2)
    monkeypatch.setattr(processes, "cut", fail)
    os.kill(pid, signal.SIGKILL)
    died = await bench.next(seams.TemplateDied)
    assert died.text == "ZeroDivisionError: of our own making"
