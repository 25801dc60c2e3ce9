"""Real processes on the addresses of loopback.

Rules: every process is started through a fixture that ends it; every wait is for an event (a line
of output, the end of a process) under a limit; processes are recognised by a mark in their
environment, so that "nothing is left" can be seen from outside.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field

LIMIT = 30.0
"""Seconds that anything may take before the test fails."""


@define(eq=False)
class World:
    """The environment of one test, and the processes started in it."""

    tmp_path: Path
    mark: str
    processes: list[subprocess.Popen[str]] = field(factory=list)

    @property
    def environment(self) -> dict[str, str]:
        config = self.tmp_path / "config"
        return {
            **os.environ,
            "XDG_CONFIG_HOME": str(config),
            "ACCEPTANCE_MARK": self.mark,
            "TMPDIR": str(self.tmp_path),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def secret_file(self) -> str:
        """Of the nodes of this test, for clusters made by the test itself."""
        return str(self.tmp_path / "config" / "dispy-trio" / "secret")

    def start(
        self, *command: str | Path, cwd: Path | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=cwd or self.tmp_path,
        )
        self.processes.append(process)
        return process

    def start_node(
        self, host: str = "127.0.0.1", *options: str, prefix: tuple[str, ...] = ()
    ) -> Node:
        """Start a node and wait until it says where it listens."""
        process = self.start(
            *prefix,
            sys.executable,
            "-m",
            "dispy_trio",
            "node",
            "--host",
            host,
            "--port",
            "0",
            *options,
        )
        line = self.read_line(process)
        assert line.startswith("listening on "), line
        return Node(process, line.removeprefix("listening on ").strip())

    def read_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        assert ready, "no line of output in time"
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"it ended: {process.communicate()[1]}")
        return line

    def write(self, name: str, text: str) -> Path:
        path = self.tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, script: str, *args: str, name: str = "program.py") -> str:
        """Run a program to its end; return what it printed."""
        path = self.write(name, script)
        process = self.start(sys.executable, path, *args)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
        return out

    def marked(self) -> list[int]:
        """Ids of the living processes of this test."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # It has ended meanwhile.
            if self.mark.encode() in environment and state != "Z":
                found.append(int(entry.name))
        return found

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what can only be looked at."""
        until = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.05)

    def wait_until_gone(self, but: tuple[int, ...] = ()) -> None:
        """Wait until no process of this test is left, but those given."""
        until = time.monotonic() + LIMIT
        while left := [pid for pid in self.marked() if pid not in but]:
            assert time.monotonic() < until, [
                Path(f"/proc/{pid}/cmdline").read_text() for pid in left
            ]
            time.sleep(0.05)  # Their end can't be waited for: they are not our children.

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                # A node drains by that; it is not to wait for what runs.
                process.send_signal(signal.SIGHUP)
        for process in self.processes:
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
        left = self.marked()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.communicate()  # Only now: what it has started may have held its pipes open.
        assert not left, f"processes were left: {left}"


@define
class Node:
    """A node process and its address."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, list[Node]]]:
    """Two nodes with different IP addresses for all tests of a module."""
    world = World(tmp_path_factory.mktemp("served"), uuid.uuid4().hex)
    try:
        hosts = ("127.0.0.2", "127.0.0.3")
        yield world, [world.start_node(host, "--cpus", "2") for host in hosts]
    finally:
        world.end()


@pytest.fixture
def nodes(served: tuple[World, list[Node]], monkeypatch: pytest.MonkeyPatch) -> World:
    """The world in which programs find two nodes."""
    world, started = served
    monkeypatch.setenv("DISPY_TRIO_NODES", ",".join(node.address for node in started))
    return world


@pytest.fixture
def two_nodes(world: World) -> list[str]:
    """Addresses of two nodes with different IP addresses, of two slots each."""
    hosts = ("127.0.0.2", "127.0.0.3")
    return [world.start_node(host, "--cpus", "2").address for host in hosts]


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Finds ports that nobody has now, on any address of loopback."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, uuid.uuid4().hex)
    yield world
    world.end()


StartNode = Callable[..., Node]
