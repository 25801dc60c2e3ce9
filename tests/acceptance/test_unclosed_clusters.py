"""Programs that do not close their clusters: by not caring, by an error, by losing them."""

from __future__ import annotations

import sys

import pytest

from .conftest import LIMIT, World

PRELUDE = """
import gc, os, sys, threading, time, weakref
import dispy_trio
from dispy_trio import DispyJob, JobCluster

def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)

def engines():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("dispy_trio abs", "dispy_trio touch")]

def touch(path, seconds):
    import time
    time.sleep(seconds)
    open(path, "w").close()

HERE = os.path.dirname(__file__)
"""


def test_after_an_uncaught_error_jobs_run_on_at_nodes_of_their_own(world: World) -> None:
    node = world.start_node("127.0.0.2", "--cpus", "2")
    script = (
        PRELUDE
        + f"""
def compute(n):
    import os, time
    while n < 2 and not os.path.exists({str(world.tmp_path / "go")!r}):
        time.sleep(0.01)
    open({str(world.tmp_path)!r} + f"/done{{n}}", "w").close()

cluster = JobCluster(compute, nodes=[{node.address!r}])
jobs = [cluster.submit(n) for n in range(5)]
wait_for(lambda: all(job.status == DispyJob.Running for job in jobs[:2]))
raise ValueError("mine")
"""
    )
    program = world.start(sys.executable, world.write("program.py", script))
    _, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 1
    *traceback, last = err.splitlines()
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "ValueError: mine"
    assert last == (
        f"cluster compute was not closed: 2 jobs run on at the nodes: 2 at {node.address},"
        " and 3 that wait here will not be run"
    )
    world.write("go", "")
    # One slot after the other gets free, and what ran has run.
    script = PRELUDE + f"with JobCluster(abs, nodes=[{node.address!r}]) as c: c.submit(1)()\n"
    script += f"wait_for(lambda: all(os.path.exists({str(world.tmp_path)!r} + f'/done{{n}}')"
    script += " for n in range(2)))"
    world.run(script, name="other.py")
    assert not (world.tmp_path / "done2").exists()


def test_after_an_uncaught_error_jobs_of_an_embedded_node_are_ended(world: World) -> None:
    script = PRELUDE + "cluster = JobCluster(time.sleep, cpus=1)\njob = cluster.submit(60)\n1 / 0\n"
    program = world.start(sys.executable, world.write("program.py", script))
    _, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 1
    assert err.splitlines()[-1].startswith("ZeroDivisionError")
    world.wait_until_gone()


def test_files_and_choices_of_nodes_reach_jobs_of_a_program_that_has_ended(world: World) -> None:
    """They take threads, and on Python 3.12 none can be started then."""
    data = world.write("data.txt", "what they need")
    script = (
        PRELUDE
        + f"""
def compute(n):
    import time
    time.sleep(0.2)
    open({str(world.tmp_path)!r} + f"/done{{n}}", "w").write(open("data.txt").read())

class Slow(dispy_trio.NodeAllocate):
    def allocate(self, *args, **kwargs):
        wait_for(lambda: not threading.main_thread().is_alive())
        return 1

cluster = JobCluster(compute, nodes=[Slow("127.0.0.2", port=int(sys.argv[1]))])
jobs = [cluster.submit(n, dispy_job_depends=[{str(data)!r}]) for n in range(3)]
"""
    )
    node = world.start_node("127.0.0.2", "--cpus", "1")
    port = node.address.rpartition(":")[2]
    program = world.start(sys.executable, world.write("program.py", script), port)
    _, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, err) == (0, "")
    for n in range(3):
        assert (world.tmp_path / f"done{n}").read_text() == "what they need"


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "del cluster"])
def test_a_program_that_ends_normally_waits_for_its_jobs(world: World, end: str) -> None:
    script = (
        PRELUDE
        + f"""
try:
    raise ValueError("caught")
except ValueError:
    pass
cluster = JobCluster(touch, cpus=1)
cluster.submit(HERE + "/done", 0.5)
{end}
"""
    )
    world.run(script)
    assert (world.tmp_path / "done").exists()
    world.wait_until_gone()


def test_a_cluster_nobody_refers_to_ends_its_jobs_and_goes(world: World) -> None:
    script = (
        PRELUDE
        + """
print(JobCluster(abs, cpus=1).submit(-1)())
print(list(JobCluster(abs, cpus=1).map([-1, -2])))

cluster = JobCluster(touch, cpus=1)
node = cluster._thread.embedded.pid
machine = weakref.ref(cluster._thread.engine.machine)
jobs = [cluster.submit(f"{HERE}/{n}", 0.1) for n in range(3)]
gone = weakref.ref(cluster)
held = jobs[-1]
del cluster, jobs
gc.collect()
print(gone())
held()
print(held.status.name, sorted(name for name in os.listdir(HERE) if name.isdecimal()))
wait_for(lambda: not engines())
wait_for(lambda: not os.path.exists(f"/proc/{node}"))
gc.collect()
print(machine(), [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{n}") and int(n) > 2])
"""
    )
    lines = world.run(script).splitlines()
    assert lines[:4] == ["1", "[1, 2]", "None", "Finished ['0', '1', '2']"]
    assert lines[4].startswith("None ")
    assert "socket" not in lines[4]


def test_clusters_nobody_refers_to_do_not_pile_up(world: World) -> None:
    script = (
        PRELUDE
        + """
most = 0
for n in range(12):
    cluster = JobCluster(abs, cpus=1)
    assert cluster.submit(-n)() == n
    most = max(most, len(engines()))
print(most <= 5)
told = []
for n in range(3):
    JobCluster(abs, cpus=1, job_status=lambda job: told.append(job.result)).submit(-n)
del cluster
wait_for(lambda: not engines())
wait_for(lambda: sorted(told) == [0, 1, 2])
"""
    )
    assert world.run(script) == "True\n"
    world.wait_until_gone()


def test_allocate_is_given_a_cluster_though_nobody_refers_to_it(world: World) -> None:
    node = world.start_node("127.0.0.2", "--cpus", "1")
    script = (
        PRELUDE
        + f"""
asked = []

class Slow(dispy_trio.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=""):
        wait_for(lambda: gone and gone[0]() is None)
        asked.append((cluster.name, cluster.status().jobs_pending))
        return cpus

gone = []
cluster = JobCluster(abs, nodes=[Slow({node.address!r})])
job = cluster.submit(-5)
gone.append(weakref.ref(cluster))
del cluster
gc.collect()
print(job(), asked)
"""
    )
    assert world.run(script) == "5 [('abs', 1)]\n"


@pytest.mark.parametrize("state", ["dead", "failed", "stopped", "closing"])
def test_the_interpreter_ends_whatever_became_of_its_cluster(world: World, state: str) -> None:
    script = (
        PRELUDE
        + """
import signal

state = sys.argv[1]
cluster = JobCluster(time.sleep, cpus=1)
cluster.submit(0)()

def node():
    return cluster._thread.engine.keeper.node.pid

if state == "dead":
    os.kill(node(), signal.SIGKILL)
elif state == "failed":
    for _ in range(3):
        dead = node()
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: node() != dead or cluster._thread.gone)
elif state == "stopped":
    os.kill(node(), signal.SIGSTOP)
    cluster.submit(60)
    1 / 0
else:
    cluster.submit(0.2)
    threading.Thread(target=cluster.close, daemon=True).start()
"""
    )
    program = world.start(sys.executable, world.write("program.py", script), state)
    program.communicate(timeout=LIMIT)
    assert program.returncode == (1 if state == "stopped" else 0)
    world.wait_until_gone()


@pytest.mark.parametrize("what", ["interrupt", "error"])
def test_a_program_ends_whose_cluster_has_not_started(world: World, what: str) -> None:
    """What starts it may itself be slow: then the program comes to its end before it has."""
    script = (
        PRELUDE
        + """
import signal
from dispy_trio.client.thread import ClusterThread

start = ClusterThread._run
begun = threading.Event()

def start_late(self):
    begun.set()
    if sys.argv[1] == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    wait_for(lambda: not threading.main_thread().is_alive())
    start(self)

ClusterThread._run = start_late
if sys.argv[1] == "interrupt":
    JobCluster(abs)
threading.Thread(target=lambda: JobCluster(abs, nodes=["127.0.0.1:1"]), daemon=True).start()
begun.wait()
raise ValueError("mine")
"""
    )
    program = world.start(sys.executable, world.write("program.py", script), what)
    _, err = program.communicate(timeout=LIMIT)
    assert err.count("Traceback") == 1
    last = {"interrupt": "KeyboardInterrupt", "error": "ValueError: mine"}[what]
    assert err.endswith(f"\n{last}\n")
    world.wait_until_gone()
