"""Bars on a terminal: what stderr shows there, and that stdout stays what it is."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define

from .conftest import LIMIT, World

FUNCTIONS = """
def square(text):
    print("heard", text)
    if text == "x":
        raise ValueError("no number")
    return int(text) ** 2

def wait(fifo):
    print("runs", flush=True)
    with open(fifo) as file:
        return file.read()
"""


@define(eq=False)
class Screen:
    """A process whose stderr is a terminal of 100 columns, and whose stdout is a pipe."""

    process: subprocess.Popen[str]
    ours: int
    shown: str = ""

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"{text!r} did not come: {self.shown!r}"

    def finish(self) -> tuple[int, str]:
        """Its status, and its stdout; all that it has shown is in `shown`."""
        while self._read():
            pass
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        return self.process.wait(LIMIT), out

    def _read(self) -> bool:
        ready, _, _ = select.select([self.ours], [], [], LIMIT)
        assert ready, f"nothing came in time: {self.shown!r}"
        try:
            data = os.read(self.ours, 65536)
        except OSError:
            return False  # Nobody has the terminal any more.
        self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode())
        return bool(data)


@contextmanager
def show(world: World, *command: str | Path) -> Iterator[Screen]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    try:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            env={**world.environment, "TERM": "xterm", "COLUMNS": "100"},
            cwd=world.tmp_path,
        )
        world.processes.append(process)
    finally:
        os.close(theirs)
    try:
        yield Screen(process, ours)
    finally:
        os.close(ours)


COMMAND = (sys.executable, "-m", "dispy_trio")


def test_run_shows_how_far_it_is_and_where_it_runs(world: World) -> None:
    functions = world.write("functions.py", FUNCTIONS)
    node = world.start_node("127.0.0.2", "--cpus", "2")
    words = ("run", "-n", node.address, f"{functions}:square", "1", "x", "3")
    with show(world, *COMMAND, *words) as screen:
        assert screen.finish() == (1, "1\n9\n")
    last = screen.shown.rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"square ━+ 3/3, 1 failed 0:00:\d\d 2 slots on this machine *", last.rpartition("\r")[2]
    )
    assert f"[1@{node.address}] heard 1" in screen.shown
    assert "job 2 (x): Terminated: " in screen.shown


def test_ctrl_c_tells_how_many_jobs_had_ended(world: World) -> None:
    functions = world.write("functions.py", FUNCTIONS)
    os.mkfifo(world.tmp_path / "fifo")
    words = ("run", f"{functions}:wait", str(world.tmp_path / "fifo"))
    with show(world, *COMMAND, *words) as screen:
        screen.read_until("runs")
        screen.process.send_signal(signal.SIGINT)
        assert screen.finish() == (130, "")
    assert "interrupted: 0 of 1 jobs had ended" in screen.shown
    assert "Traceback" not in screen.shown
    world.wait_until_gone()


def test_mapreduce_shows_how_far_it_is_and_where_it_runs(world: World) -> None:
    program = world.write("count.py", "def mapper(line):\n    yield line, 1\n\nreducer = sum\n")
    text = world.write("text.txt", "one\ntwo\none\n")
    with show(world, *COMMAND, "mapreduce", program, text) as screen:
        assert screen.finish() == (0, "one\t2\ntwo\t1\n")
    assert re.search(r"map ━+ 1/1 0:00:\d\d \d+ slots? on this machine", screen.shown)


BLOCKING = """
import sys
import dispy_trio as dispy

def half(n):
    return n / 2

with dispy.JobCluster(half, cpus=2) as cluster:
    print(list(cluster.map(range(5), progress=True)), file=sys.stderr)
    jobs = [cluster.submit(n) for n in range(6)]
    print(sorted(job.result for job in cluster.as_completed(jobs, progress=True)))
    jobs += [cluster.submit(n) for n in range(7)]
    print(cluster.wait(progress=True))
    with cluster.progress():
        jobs = [cluster.submit(n) for n in (*range(7), None)]
        print([job() for job in jobs])
        jobs[-1].exception
"""
IN_TRIO = """
import sys
import dispy_trio as dispy
import trio

def half(n):
    return n / 2

async def main():
    async with dispy.open_cluster(half, cpus=2) as cluster:
        print([n async for n in cluster.map(range(5), progress=True)], file=sys.stderr)
        jobs = [cluster.submit(n) for n in range(6)]
        print(sorted([job.result async for job in cluster.as_completed(jobs, progress=True)]))
        jobs += [cluster.submit(n) for n in range(7)]
        await cluster.wait(progress=True)
        print(True)
        with cluster.progress():
            jobs = [cluster.submit(n) for n in (*range(7), None)]
            for job in jobs:
                await job.wait_ended()
            print([job.result for job in jobs])

trio.run(main)
"""


@pytest.mark.parametrize("script", [BLOCKING, IN_TRIO], ids=["JobCluster", "open_cluster"])
def test_a_program_shows_a_bar_where_it_asks_for_one(world: World, script: str) -> None:
    path = world.write("program.py", script)
    with show(world, sys.executable, path) as screen:
        status, out = screen.finish()
    assert status == 0, screen.shown
    assert out == (
        "[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]\nTrue\n[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, None]\n"
    )
    bars = re.findall(r"half ━+ (\d+/\d+(?:, 1 failed)?) 0:00:\d\d 2 slots on this", screen.shown)
    for last in ("5/5", "6/6", "8/8, 1 failed"):
        assert last in bars
    # One each for map, as_completed, wait and the block; each stays when it is done.
    assert len(re.findall(r"half ━[^\r\n]*\r\n", screen.shown)) == 4


@pytest.mark.parametrize("script", [BLOCKING, IN_TRIO], ids=["JobCluster", "open_cluster"])
def test_on_a_pipe_there_is_no_bar(world: World, script: str) -> None:
    program = world.start(sys.executable, world.write("program.py", script))
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    assert "━" not in out + err
