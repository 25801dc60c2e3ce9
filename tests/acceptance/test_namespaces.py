"""Two machines, as network namespaces joined by a cable, and processes that see no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from .conftest import LIMIT, World
from .machines import Machine, open_pair, processes_apart
from .test_jobs import LARGE

HERE, THERE = "10.77.0.1", "10.77.0.2"


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with open_pair(HERE, THERE) as pair:
        yield pair


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


def test_a_second_machine_is_used_over_tls(world: World, machines: tuple[Machine, Machine]) -> None:
    here, there = machines
    node = world.start_node("0.0.0.0", prefix=there.on)
    port = node.address.rpartition(":")[2]
    program = world.start(
        *here.on, sys.executable, world.write("program.py", PROGRAM), f"{THERE}:{port}"
    )
    out, err = program.communicate(timeout=LIMIT)
    assert (out, err) == ("ok\n", "")
    node.process.terminate()
    _, told = node.process.communicate(timeout=LIMIT)
    assert told == ""


def test_a_client_without_the_secret_is_refused_over_tls(
    world: World, machines: tuple[Machine, Machine]
) -> None:
    here, there = machines
    secret = world.write("other-secret", "another secret of some length\n")
    secret.chmod(0o600)
    node = world.start_node("0.0.0.0", "--secret-file", str(secret), prefix=there.on)
    port = node.address.rpartition(":")[2]
    script = f"""
import dispy_trio as dispy
try:
    dispy.JobCluster(abs, nodes=["{THERE}:{port}"], connect_timeout=2)
except dispy.ConnectError as exc:
    print(exc)
"""
    program = world.start(*here.on, sys.executable, world.write("program.py", script))
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    assert "does not accept our secret" in out


def test_a_cable_that_is_pulled_and_put_back_loses_no_job(
    world: World, machines: tuple[Machine, Machine]
) -> None:
    here, there = machines
    node = world.start_node("0.0.0.0", "--cpus", "2", prefix=there.on)
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
    program = world.start(*here.on, sys.executable, world.write("program.py", script))
    assert world.read_line(program) == "running\n"
    here.ip("link", "set", "eth", "down")
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(1.5)
    here.ip("link", "set", "eth", "up")
    out, err = program.communicate(timeout=LIMIT)
    assert out == "ok\n", err


def test_large_arguments_and_results_travel_to_a_machine_apart(world: World) -> None:
    node = world.start_node("127.0.0.2", prefix=processes_apart())
    assert world.run(LARGE, node.address) == "ok\n"
