"""Two machines, as network namespaces joined by a cable. Needs root and the command ``ip``."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from .conftest import LIMIT, World

HERE, THERE = "10.77.0.1", "10.77.0.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=LIMIT)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Names of two namespaces whose interfaces see each other and nothing else."""
    mark = uuid.uuid4().hex[:6]
    names = (f"here-{mark}", f"there-{mark}")
    for name in names:
        ip("netns", "add", name)
    try:
        ends = (f"h{mark}", f"t{mark}")
        ip(
            "link",
            "add",
            ends[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            ends[1],
            "netns",
            names[1],
        )
        for name, end, address in zip(names, ends, (HERE, THERE), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def on(machine: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", machine)


PROGRAM = """
import os, sys
import dispy_trio as dispy

def echo(data):
    return data

with dispy.JobCluster(echo, nodes=[sys.argv[1]]) as cluster:
    data = os.urandom(1_000_000)
    assert list(cluster.map(range(1000))) == list(range(1000))
    assert cluster.submit(data)() == data
print("ok")
"""


def test_a_second_machine_is_used_over_tls(world: World, machines: tuple[str, str]) -> None:
    here, there = machines
    node = world.start_node("0.0.0.0", prefix=on(there))
    port = node.address.rpartition(":")[2]
    program = world.start(
        *on(here), sys.executable, world.write("program.py", PROGRAM), f"{THERE}:{port}"
    )
    out, err = program.communicate(timeout=LIMIT)
    assert (out, err) == ("ok\n", "")
    node.process.terminate()
    _, told = node.process.communicate(timeout=LIMIT)
    assert told == ""


def test_a_client_without_the_secret_is_refused_over_tls(
    world: World, machines: tuple[str, str]
) -> None:
    here, there = machines
    secret = world.write("other-secret", "another secret of some length\n")
    secret.chmod(0o600)
    node = world.start_node("0.0.0.0", "--secret-file", str(secret), prefix=on(there))
    port = node.address.rpartition(":")[2]
    script = f"""
import dispy_trio as dispy
try:
    dispy.JobCluster(abs, nodes=["{THERE}:{port}"], connect_timeout=2)
except dispy.ConnectError as exc:
    print(exc)
"""
    program = world.start(*on(here), sys.executable, world.write("program.py", script))
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    assert "does not accept our secret" in out


def test_a_cable_that_is_pulled_and_put_back_loses_no_job(
    world: World, machines: tuple[str, str]
) -> None:
    here, there = machines
    node = world.start_node("0.0.0.0", "--cpus", "2", prefix=on(there))
    port = node.address.rpartition(":")[2]
    script = f"""
import time
import dispy_trio as dispy

def work(n):
    time.sleep(0.05)
    return n

with dispy.JobCluster(work, nodes=["{THERE}:{port}"]) as cluster:
    jobs = [cluster.submit(n) for n in range(100)]
    assert jobs[0]() == 0
    print("running", flush=True)
    assert [job() for job in jobs] == list(range(100))
print("ok")
"""
    program = world.start(*on(here), sys.executable, world.write("program.py", script))
    assert world.read_line(program) == "running\n"
    interface = f"h{here.removeprefix('here-')}"
    ip("-n", here, "link", "set", interface, "down")
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(1.5)
    ip("-n", here, "link", "set", interface, "up")
    out, err = program.communicate(timeout=LIMIT)
    assert out == "ok\n", err
