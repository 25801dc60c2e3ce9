"""Bad input and bad luck get a clear text, early."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from pathlib import Path

from .conftest import LIMIT, World


def test_a_port_that_is_taken_is_named_within_a_second(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        node = world.start(sys.executable, "-m", "dispy_trio", "node", "--port", str(port))
        with open(os.pidfd_open(node.pid)) as end:
            assert select.select([end], [], [], LIMIT)[0]
        took = time.monotonic() - began
        # It is not reaped yet; the second number is how long others had the processors.
        took -= int(Path(f"/proc/{node.pid}/schedstat").read_text().split()[1]) / 1e9
        _, err = node.communicate(timeout=LIMIT)
        assert node.returncode == 2
        assert f"port {port} is taken" in err
        assert "Traceback" not in err
        assert took < 2  # Its interpreter starts up in this, too.


def test_a_node_that_can_t_be_reached_is_told_of_and_retried(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    script = f"""
import time, threading, subprocess, sys
import dispy_trio as dispy
began = time.monotonic()
try:
    dispy.JobCluster(abs, nodes=["127.0.0.1:{port}"], connect_timeout=0.5)
except dispy.ConnectError as exc:
    print(exc)
print(time.monotonic() - began < 3)
print("---", file=sys.stderr, flush=True)
cluster = dispy.JobCluster(abs, nodes=["127.0.0.1:{port}"])
job = cluster.submit(-1)
node = subprocess.Popen([sys.executable, "-m", "dispy_trio", "node", "--port", "{port}"])
print(job())
cluster.close()
node.terminate()
node.wait()
"""
    path = world.write("program.py", script)
    program = world.start(sys.executable, path)
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    lines = out.splitlines()
    assert f"127.0.0.1:{port}" in lines[0]
    assert "refused" in lines[0]
    assert lines[1] == "True"
    assert lines[-1] == "1"
    _, _, err = err.partition("---")
    told = [line for line in err.splitlines() if "is not usable" in line]
    assert len(told) == 1
    assert "refused" in told[0]


def test_another_secret_is_refused_with_a_word_on_both_sides(world: World) -> None:
    secret = world.write("other-secret", "another secret of some length\n")
    secret.chmod(0o600)
    node = world.start_node("127.0.0.2", "--secret-file", str(secret))
    script = f"""
import dispy_trio as dispy
try:
    dispy.JobCluster(abs, nodes=["{node.address}"], connect_timeout=60)
except dispy.ConnectError as exc:
    print(exc)
with dispy.JobCluster(abs, nodes=["{node.address}"]) as cluster:
    early = cluster.submit(-1)
    early.wait()
    late = cluster.submit(-1)
    late.wait()
    print(early.status.name, early.exception)
    print(late.status.name, late.exception)
"""
    told, *ended = world.run(script).splitlines()
    assert f"{node.address} does not accept our secret" in told
    assert ended == [f"Terminated {told}"] * 2
    node.process.terminate()
    _, err = node.process.communicate(timeout=LIMIT)
    assert "does not know our secret" in err


def test_silent_and_noisy_strangers_keep_nobody_out(world: World) -> None:
    node = world.start_node("127.0.0.2")
    host, _, port = node.address.rpartition(":")
    strangers = [socket.create_connection((host, int(port))) for _ in range(300)]
    try:
        for number, stranger in enumerate(strangers):
            if number % 2:
                stranger.send(bytes(range(256)) * 2)
        script = f"""
import dispy_trio as dispy
with dispy.JobCluster(abs, nodes=["{node.address}"], connect_timeout=2) as cluster:
    print(cluster.submit(-7)())
"""
        assert world.run(script) == "7\n"
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_secret_that_others_can_read_is_refused(world: World) -> None:
    secret = world.write("open-secret", "a secret of some length here\n")
    secret.chmod(0o644)
    node = world.start(
        sys.executable, "-m", "dispy_trio", "node", "--secret-file", secret, "--port", "0"
    )
    _, err = node.communicate(timeout=LIMIT)
    assert node.returncode == 2
    assert f"chmod 600 {secret}" in err


def test_what_can_t_be_pickled_is_named_at_once(world: World) -> None:
    script = """
import functools, threading
import dispy_trio as dispy
lock = threading.Lock()
try:
    dispy.JobCluster(functools.partial(print, lock))
except dispy.PickleArgumentError as exc:
    print(exc)
with dispy.JobCluster(print) as cluster:
    for call in (lambda: cluster.submit(1, lock), lambda: cluster.submit(x=lock)):
        try:
            call()
        except dispy.PickleArgumentError as exc:
            print(exc)
    assert cluster.status().jobs_pending == 0
try:
    cluster.submit(1)
except dispy.ClusterClosed as exc:
    print(exc)
"""
    out = world.run(script).splitlines()
    assert "computation 'print' cannot be pickled: argument 1, a lock" in out[0]
    assert "argument 2" in out[1]
    assert "argument 'x'" in out[2]
    assert "closed" in out[3]


def test_a_module_that_is_missing_on_the_node_is_named(world: World) -> None:
    world.write("elsewhere/gone.py", "def f(n):\n    return n\n")
    script = f"""
import sys
sys.path.insert(0, {str(world.tmp_path / "elsewhere")!r})
import gone
import dispy_trio as dispy
def compute(n):
    return gone.f(n)
with dispy.JobCluster(compute) as cluster:
    job = cluster.submit(1)
    print(job(), job.status.name, job.exception)
"""
    out = world.run(script, name="work/program.py")
    assert out.startswith("None Terminated")
    assert "No module named 'gone'" in out
