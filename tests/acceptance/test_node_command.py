"""The command `dispy-trio node`: its files, its signals, its console and its neighbours."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from attrs import define, field

from .conftest import LIMIT, World

NODE = (sys.executable, "-m", "dispy_trio", "node")
ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end; its status and what it complained of."""
    _, err = process.communicate(timeout=LIMIT)
    return process.returncode, err


@define(eq=False)
class Terminal:
    """A process in the foreground of a terminal of its own."""

    process: subprocess.Popen[str]
    ours: int
    seen: str = ""
    _read: int = field(default=0)

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def read_until(self, text: str) -> str:
        """What came since the last call, up to this text."""
        until = time.monotonic() + LIMIT
        while (found := self.seen.find(text, self._read)) < 0:
            ready, _, _ = select.select([self.ours], [], [], until - time.monotonic())
            assert ready, f"{text!r} did not come: {self.seen[self._read :]!r}"
            self.seen += os.read(self.ours, 4096).decode()
        came, self._read = self.seen[self._read : found + len(text)], found + len(text)
        return came

    def ask(self, line: str, last: str) -> str:
        """Type a line; what is answered, up to this text."""
        self.type(f"{line}\n")
        self.read_until(f"{line}\r\n")  # The terminal's echo.
        return self.read_until(last)


StartOnTerminal = Callable[..., Terminal]


@pytest.fixture
def start_on_terminal(world: World) -> Iterator[StartOnTerminal]:
    terminals: list[Terminal] = []

    def start(*options: str) -> Terminal:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", ON_A_TERMINAL, *NODE, "--port", "0", *options]
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            text=True,
            env=world.environment,
            cwd=world.tmp_path,
        )
        os.close(theirs)
        world.processes.append(process)
        terminals.append(Terminal(process, ours))
        return terminals[-1]

    yield start
    world.end()
    for terminal in terminals:
        os.close(terminal.ours)


# --- options ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--zombie_interval", "0.5"], "--zombie-interval: must be 0, or at least 1 minute"),
        (["--service_start", "9:00"], "--service-start: needs --service-stop or --service-end"),
        (["--config", "gone.toml"], "can't read the configuration gone.toml"),
        (["--max-file-size", "1q"], "--max-file-size: must be a number of bytes"),
    ],
)
def test_a_bad_option_is_told_in_one_line(world: World, options: list[str], said: str) -> None:
    status, err = finish(world.start(*NODE, *options))
    assert status == 2
    assert err.startswith(f"dispy-trio: {said}")
    assert err.count("\n") == 1


def test_a_saved_configuration_starts_the_same_node(world: World) -> None:
    config = world.tmp_path / "node.toml"
    options = ("-i", "127.0.0.3", "--port", "0", "--msg_timeout", "7", "-s", "some secret words")
    status, err = finish(world.start(*NODE, *options, "--save_config", config))
    assert status == 0, err
    assert "has no secret in it" in err
    assert "words" not in config.read_text()
    process = world.start(*NODE, "--config", config)
    assert world.read_line(process).startswith("listening on 127.0.0.3:")


def test_the_port_file_is_there_while_the_node_is(world: World) -> None:
    port_file = world.tmp_path / "port"
    node = world.start_node("127.0.0.2", "--port-file", str(port_file))
    assert node.address == f"127.0.0.2:{int(port_file.read_text())}"
    node.process.terminate()
    assert finish(node.process)[0] == 128 + signal.SIGTERM
    assert not port_file.exists()


# --- neighbours ------------------------------------------------------------------------------
def start_on(world: World, port: int, *options: str | Path) -> subprocess.Popen[str]:
    return world.start(*NODE, "--port", str(port), "--dest-path-prefix", "prefix", *options)


def test_a_second_node_on_a_port_is_refused_with_the_process_of_the_first(world: World) -> None:
    port = free_port()
    first = start_on(world, port)
    world.read_line(first)
    status, err = finish(start_on(world, port))
    assert status == 2
    assert f"port {port} has a node already, process {first.pid}; --clean ends it" in err
    assert first.poll() is None


def test_a_port_that_something_else_has_is_told_in_one_line(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, err = finish(start_on(world, port))
    assert status == 2
    (line,) = err.splitlines()
    assert f"port {port} is taken" in line


def test_clean_ends_the_node_before_and_removes_what_it_left(world: World) -> None:
    port = free_port()
    first = start_on(world, port)
    world.read_line(first)
    world.write("prefix/clients/127.0.0.1/file", "")
    world.write("prefix/clients/.dispy-trio-node", "")
    second = start_on(world, port, "--clean")
    assert world.read_line(second) == f"listening on 127.0.0.1:{port}\n"
    assert finish(first)[0] == 128 + signal.SIGTERM
    assert not (world.tmp_path / "prefix" / "clients").exists()
    assert (
        world.tmp_path / "prefix" / f"node-127.0.0.1-{port}.lock"
    ).read_text() == f"{second.pid} dispy-trio node\n"


def test_clean_finds_a_node_whose_port_the_system_chose(world: World) -> None:
    first = world.start_node("127.0.0.1", "--dest-path-prefix", "prefix")
    port = int(first.address.rpartition(":")[2])
    lock = world.tmp_path / "prefix" / f"node-127.0.0.1-{port}.lock"
    assert lock.read_text() == f"{first.process.pid} dispy-trio node\n"
    status, err = finish(start_on(world, port))
    assert status == 2
    assert f"port {port} has a node already, process {first.process.pid}; --clean ends it" in err
    second = start_on(world, port, "--clean")
    assert world.read_line(second) == f"listening on 127.0.0.1:{port}\n"
    assert finish(first.process)[0] == 128 + signal.SIGTERM
    assert lock.read_text() == f"{second.pid} dispy-trio node\n"


def test_a_killed_node_is_not_in_the_way_of_the_next(world: World) -> None:
    port = free_port()
    first = start_on(world, port)
    world.read_line(first)
    first.kill()
    finish(first)
    assert (world.tmp_path / "prefix" / f"node-127.0.0.1-{port}.lock").exists()
    world.read_line(start_on(world, port))


def test_serve_0_only_cleans(world: World) -> None:
    living = world.start_node("127.0.0.2", "--dest-path-prefix", "prefix")
    world.write("prefix/node-1-dead/.dispy-trio-node", "")
    status, err = finish(start_on(world, 0, "--serve", "0"))
    assert status == 0, err
    assert not (world.tmp_path / "prefix" / "node-1-dead").exists()
    assert living.process.poll() is None


# --- signals ---------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_an_idle_node_ends_at_the_first_signal_says_so_and_has_its_status(
    world: World, number: signal.Signals
) -> None:
    node = world.start_node("127.0.0.2")
    node.process.send_signal(number)
    assert finish(node.process) == (128 + number, f"the node has ended ({number.name})\n")
    world.wait_until_gone()


def test_a_signal_that_is_ignored_from_the_start_stays_so(world: World) -> None:
    node = world.start_node("127.0.0.2", prefix=("sh", "-c", 'trap "" HUP; exec "$@"', "sh"))
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    assert ignored & 1 << (signal.SIGHUP - 1)


WAITING = """
import sys
import dispy_trio as dispy

def wait(fifo):
    print("runs", flush=True)
    with open(fifo) as file:
        return file.read()

with dispy.JobCluster(wait, nodes=[sys.argv[1]], connect_timeout=20) as cluster:
    job = cluster.submit(sys.argv[2])
    while job.status != dispy.DispyJob.Running:
        job.wait(0.01)
    print("running", flush=True)
    job.wait()
    print(job.status.name, job.result, flush=True)
"""


@define(eq=False)
class Client:
    """A program whose one job ends when it is told to."""

    process: subprocess.Popen[str]
    fifo: Path

    def end_job(self, result: str) -> None:
        self.fifo.write_text(result)

    def outcome(self) -> str:
        out, err = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, err
        return out.strip()


def start_client(world: World, address: str) -> Client:
    """Start it, and wait until its job runs."""
    fifo = world.tmp_path / "fifo"
    os.mkfifo(fifo)
    process = world.start(sys.executable, world.write("waiting.py", WAITING), address, fifo)
    assert world.read_line(process) == "running\n"
    return Client(process, fifo)


def read_complaint(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], LIMIT)
    assert ready, "nothing was said in time"
    return process.stderr.readline()


def test_a_node_that_is_terminated_delivers_what_runs(world: World) -> None:
    node = world.start_node("127.0.0.2")
    client = start_client(world, node.address)
    node.process.terminate()
    assert "the node ends when the job that runs ends" in read_complaint(node.process)
    client.end_job("done")
    assert client.outcome() == "Finished done"
    assert finish(node.process)[0] == 128 + signal.SIGTERM


def test_ctrl_c_waits_until_the_computation_is_closed(world: World) -> None:
    node = world.start_node("127.0.0.2")
    client = start_client(world, node.address)
    node.process.send_signal(signal.SIGINT)
    assert "the node ends when all is closed (wait)" in read_complaint(node.process)
    client.end_job("done")
    assert client.outcome() == "Finished done"
    assert finish(node.process)[0] == 128 + signal.SIGINT


def test_a_second_ctrl_c_ends_the_node_with_what_runs(world: World) -> None:
    node = world.start_node("127.0.0.2")
    client = start_client(world, node.address)
    node.process.send_signal(signal.SIGINT)
    read_complaint(node.process)
    node.process.send_signal(signal.SIGINT)
    assert finish(node.process)[0] == 128 + signal.SIGINT
    assert client.outcome() == "Abandoned None"
    world.wait_until_gone()


def test_a_node_serves_as_many_clients_as_it_is_told_to(world: World) -> None:
    node = world.start_node("127.0.0.2", "--serve", "1")
    client = start_client(world, node.address)
    client.end_job("done")
    assert client.outcome() == "Finished done"
    assert finish(node.process) == (0, "the node has ended\n")


def test_a_node_tells_scripts_what_happens(world: World) -> None:
    process = world.start(*NODE, "--port", "0", "--cpus", "2", "--name", "alpha", "--jsonl")
    listening = json.loads(world.read_line(process))
    assert listening == {
        "event": "listening",
        "address": listening["address"],
        "name": "alpha",
        "slots": 2,
        "process": process.pid,
    }
    client = start_client(world, listening["address"])
    process.terminate()
    assert json.loads(world.read_line(process)) == {
        "event": "ending",
        "signal": "SIGTERM",
        "jobs": 1,
        "computations": ["wait"],
    }
    client.end_job("done")
    out, _ = process.communicate(timeout=LIMIT)
    assert json.loads(out) == {"event": "ended", "status": 143}


# --- the console -----------------------------------------------------------------------------
def test_the_console_answers_what_is_typed(start_on_terminal: StartOnTerminal) -> None:
    node = start_on_terminal("--cpus", "3", "--name", "alpha", "--host", "127.0.0.2")
    node.read_until('type "help"')
    assert "alpha on 127.0.0.2:" in node.ask("status", "computations: none")
    assert "release" in node.ask("help", "Ctrl-D")
    node.ask("cpus", "cpus: 3 (of 3)")
    node.ask("cpus 2", "cpus: 2\r\n")
    node.ask("stop", "cpus: 0;")
    node.ask("start", "cpus: 2\r\n")
    node.ask("cpus x", "cpus takes a whole number")
    node.ask("release", "forgot 0 clients")
    node.ask("quit", "the node ends now")
    assert node.process.wait(LIMIT) == 0


def test_a_node_that_is_stopped_keeps_its_jobs_for_later(
    world: World, start_on_terminal: StartOnTerminal
) -> None:
    node = start_on_terminal("--host", "127.0.0.2", "--cpus", "1")
    address = node.read_until('type "help"').partition("listening on ")[2].split()[0]
    fifo = world.tmp_path / "fifo"
    os.mkfifo(fifo)
    script = """
import sys
import dispy_trio as dispy
with dispy.JobCluster(abs, nodes=[sys.argv[1]]) as cluster:
    print(cluster.submit(-1)(), flush=True)
    open(sys.argv[2]).read()
    job = cluster.submit(-7)
    print(job.wait(0.1), flush=True)
    print(job(), flush=True)
"""
    client = world.start(sys.executable, world.write("program.py", script), address, fifo)
    assert world.read_line(client) == "1\n"
    assert "1 job done" in node.ask("status", "computations: abs")
    node.ask("stop", "cpus: 0;")
    fifo.write_text("go on")
    assert world.read_line(client) == "False\n"
    node.ask("start", "cpus: 1\r\n")
    assert world.read_line(client) == "7\n"
    node.ask("exit", "the node ends when its computations are closed")
    assert node.process.wait(LIMIT) == 0


def test_slots_that_a_dead_client_left_taken_are_shown_and_can_be_freed(
    world: World, start_on_terminal: StartOnTerminal
) -> None:
    node = start_on_terminal("--host", "127.0.0.2", "--cpus", "1")
    address = node.read_until('type "help"').partition("listening on ")[2].split()[0]
    script = """
import contextlib, io, sys, time
import dispy_trio as dispy
def work(seconds):
    print("runs", flush=True)
    time.sleep(seconds)
with dispy.JobCluster(work, nodes=[sys.argv[1]], pulse_interval=1, live_output=True) as cluster:
    job = cluster.submit(float(sys.argv[2]))
    shown = False
    while not job.wait(0.1):
        if not shown and any(node.slot_holders for node in cluster.status().nodes):
            with contextlib.redirect_stdout(io.StringIO()) as table:
                cluster.print_status()
            shown = [line for line in table.getvalue().splitlines() if "held" in line]
            print(*shown, flush=True)
"""
    program = world.write("program.py", script)
    first = world.start(sys.executable, program, address, "1000")
    assert "runs" in world.read_line(first)
    first.kill()
    first.wait()

    second = world.start(sys.executable, program, address, "0")
    assert second.stderr is not None
    said = second.stderr.readline()
    assert f"node {address}: jobs wait, because all its slots are held by jobs of" in said
    client = re.search(r"(127\.0\.0\.\d:\d+) \(1 slot, away for ", said)
    assert client is not None
    assert f"'release {client[1]}'" in said
    held = f"Slots of {address} held by others: {client[1]} (1 slot, away for "
    assert held in world.read_line(second)

    shown = node.ask("status", f"release {client[1]}\r\n")
    assert f"jobs run on for {client[1]} (1 slot, away for " in shown
    assert "jobs run on" in node.ask("release", f"release {client[1]}\r\n")
    node.ask(f"release {client[1]}", "forgot 1 client")
    out, _ = second.communicate(timeout=LIMIT)
    assert "runs" in out
    node.ask("quit", "the node ends now")
    assert node.process.wait(LIMIT) == 0


def test_exit_on_the_console_ends_an_idle_node(start_on_terminal: StartOnTerminal) -> None:
    node = start_on_terminal()
    node.read_until('type "help"')
    node.type("exit\n")
    assert node.process.wait(LIMIT) == 0


def test_ctrl_d_leaves_the_console_and_ctrl_c_the_node(start_on_terminal: StartOnTerminal) -> None:
    node = start_on_terminal()
    node.read_until('type "help"')
    node.type("\x04")
    node.read_until("the console ends; the node goes on")
    assert node.process.poll() is None
    node.type("\x03")
    node.read_until("the node has ended (SIGINT)")
    assert node.process.wait(LIMIT) == 130


def test_a_daemon_has_no_console(start_on_terminal: StartOnTerminal) -> None:
    node = start_on_terminal("--daemon")
    node.read_until("listening on")
    node.type("quit\n\x03")
    assert node.process.wait(LIMIT) == 130
    assert "help" not in node.seen


def test_out_of_its_hours_a_node_has_no_slots(start_on_terminal: StartOnTerminal) -> None:
    now = datetime.now()
    start, stop = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (2, 4))
    node = start_on_terminal("--service-start", start, "--service-end", stop, "--cpus", "2")
    node.read_until('type "help"')
    assert "cpus: 0 (of 2)" in node.ask("status", f"service: ended until {start}")
