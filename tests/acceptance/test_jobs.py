"""Programs, nodes and workers as users meet them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from .conftest import LIMIT, World

PRELUDE = """\
import json, os, sys, time
import dispy_trio as dispy
nodes = sys.argv[1:] or None
"""


def test_one_of_a_hundred_jobs_is_lost_with_its_worker(world: World) -> None:
    nodes = [world.start_node(f"127.0.0.{i}", "--cpus", "2").address for i in (2, 3, 4)]
    script = (
        PRELUDE
        + """
import signal

def compute(n, victim_file):
    import os, time
    if n == 50:
        with open(victim_file + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(victim_file + ".new", victim_file)
        time.sleep(60)
    time.sleep(0.01)
    return n

victim_file = os.path.abspath("victim")
with dispy.JobCluster(compute, nodes=nodes) as cluster:
    jobs = [cluster.submit(n, victim_file) for n in range(100)]
    while not os.path.exists(victim_file):
        time.sleep(0.01)
    os.kill(int(open(victim_file).read()), signal.SIGKILL)
    results = [job() for job in jobs]
    print(json.dumps({
        "finished": sum(job.status == dispy.DispyJob.Finished for job in jobs),
        "terminated": [job.exception for job in jobs if job.status == dispy.DispyJob.Terminated],
        "right": results == [None if n == 50 else n for n in range(100)],
        "nodes": len({job.ip_addr for job in jobs}),
    }))
"""
    )
    outcome = json.loads(world.run(script, *nodes))
    assert outcome["finished"] == 99
    assert len(outcome["terminated"]) == 1
    assert "SIGKILL" in outcome["terminated"][0]
    assert outcome["right"]
    assert outcome["nodes"] == 3


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded node", "node"])
def test_ctrl_c_ends_a_program_with_a_thousand_jobs(world: World, embedded: bool) -> None:
    node = None if embedded else world.start_node("127.0.0.2")
    script = (
        PRELUDE
        + """
def compute(n):
    import subprocess
    subprocess.run(["sleep", "60"])

cluster = dispy.JobCluster(compute, nodes=nodes)
jobs = [cluster.submit(n) for n in range(1000)]
while not any(job.status == dispy.DispyJob.Running for job in jobs):
    time.sleep(0.01)
print("running", flush=True)
for job in jobs:
    job()
"""
    )
    path = world.write("program.py", script)
    program = world.start(sys.executable, path, *([node.address] if node else []))
    world.read_line(program)
    began = time.monotonic()
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=LIMIT)
    world.wait_until_gone(but=_standing(node.process.pid) if node else ())
    assert time.monotonic() - began < 5
    assert "KeyboardInterrupt" in err
    assert "Exception Group" not in err


def _standing(node: int) -> tuple[int, ...]:
    """A node and its process that waits for the next computation."""
    children = Path(f"/proc/{node}/task/{node}/children").read_text().split()
    return (node, *map(int, children))


DEATHS = {
    "exit": ("import sys; sys.exit(3)", "sys.exit(3)"),
    "_exit": ("import os; os._exit(0)", "exit code 0 without a result"),
    "segfault": ("import faulthandler; faulthandler._sigsegv()", "SIGSEGV"),
    "kill": ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    "unpicklable": ("import threading; return threading.Lock()", "cannot be pickled"),
    "generator": ("raise GeneratorExit", "GeneratorExit"),
    "memory": (
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 28,) * 2); return len(bytes(1 << 30))",
        "MemoryError",
    ),
}


def test_whatever_a_job_dies_of_is_told_and_hurts_no_other(world: World) -> None:
    cases = {name: f"def job():\n    {body}\n" for name, (body, _) in DEATHS.items()}
    script = (
        PRELUDE
        + f"""
cases = {cases!r}

def run(source, n):
    import sys
    print("told", file=sys.stderr)
    if source is None:
        return n
    space = {{}}
    exec(source, space)
    return space["job"]()

with dispy.JobCluster(run, cpus=2) as cluster:
    good = [cluster.submit(None, n) for n in range(50)]
    bad = {{name: cluster.submit(source, 0) for name, source in cases.items()}}
    good += [cluster.submit(None, n) for n in range(50, 100)]
    assert [job() for job in good] == list(range(100))
    print(json.dumps({{
        name: [job(), job.status, job.exception, job.stderr] for name, job in bad.items()
    }}))
"""
    )
    ends = json.loads(world.run(script))
    for name, (_, word) in DEATHS.items():
        result, status, exception, stderr = ends[name]
        assert result is None
        assert status == 9, name
        assert word in exception, (name, exception)
        assert "told" in stderr, name
    assert "node" in ends["segfault"][2]
    assert "Segmentation fault" in ends["segfault"][3]


def test_what_jobs_and_their_child_programs_print_is_their_own(world: World) -> None:
    script = (
        PRELUDE
        + """
def talk(n):
    import os, subprocess, sys
    print("python", n)
    subprocess.run(["echo", f"child {n}"])
    os.write(2, f"raw {n}\\n".encode())

with dispy.JobCluster(talk) as cluster:
    jobs = [cluster.submit(n) for n in range(100)]
    for n, job in enumerate(jobs):
        job()
        assert job.stdout == f"python {n}\\nchild {n}\\n", job.stdout
        assert job.stderr == f"raw {n}\\n", job.stderr
print("ok")
"""
    )
    assert world.run(script) == "ok\n"


def test_what_the_user_wrote_travels_without_being_listed(world: World) -> None:
    node = world.start_node("127.0.0.2", "--dest-path-prefix", str(world.tmp_path / "elsewhere"))
    world.write("work/shapes/__init__.py", "from .round import Circle\n")
    world.write(
        "work/shapes/round.py",
        "class Circle:\n    def __init__(self, r):\n        self.r = r\n"
        "    def area(self):\n        import late\n        return late.PI * self.r ** 2\n",
    )
    world.write("work/late.py", "PI = 3\n")
    script = (
        PRELUDE
        + """
from shapes import Circle

class Scale:
    def __init__(self, factor):
        self.factor = factor
    def apply(self, circle):
        assert isinstance(circle, Circle)
        return Circle(circle.r * self.factor)

class Point:
    def __init__(self, x):
        self.x = x

def mirror(point):
    assert isinstance(point, Point)
    return Point(-point.x)

offset = 10
with dispy.JobCluster(Scale(2).apply, nodes=nodes) as cluster:
    circle = cluster.submit(Circle(3))()
    assert isinstance(circle, Circle) and circle.r == 6
with dispy.JobCluster(Circle.area, nodes=nodes) as cluster:
    assert cluster.submit(Circle(2))() == 12
with dispy.JobCluster(mirror, nodes=nodes) as cluster:
    point = cluster.submit(Point(1))()
    assert isinstance(point, Point) and point.x == -1
with dispy.JobCluster(lambda n: n + offset, nodes=nodes) as cluster:
    assert cluster.submit(1)() == 11
print("ok")
"""
    )
    assert world.run(script, node.address, name="work/program.py") == "ok\n"


LARGE = (
    PRELUDE
    + """
def echo(data, tail=b""):
    return data, len(tail)

with dispy.JobCluster(echo, nodes=nodes) as cluster:
    for size in (100_000, 300_000, 5_000_000):
        data = os.urandom(size)
        jobs = [cluster.submit(data, tail=data) for _ in range(4)]
        assert all(job() == (data, size) for job in jobs)
print("ok")
"""
)


def test_large_arguments_and_results_pass_in_memory_on_one_machine(world: World) -> None:
    assert world.run(LARGE, world.start_node().address) == "ok\n"


def test_clusters_in_threads_are_independent(world: World) -> None:
    script = (
        PRELUDE
        + """
import threading
results = {}

def work(factor):
    with dispy.JobCluster(lambda n: n * factor, cpus=1) as cluster:
        results[factor] = list(cluster.map(range(200)))

threads = [threading.Thread(target=work, args=(f,)) for f in (2, 3, 4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert results == {f: [n * f for n in range(200)] for f in (2, 3, 4)}

sys.setswitchinterval(1e-6)
with dispy.JobCluster(abs) as shared:
    def submit(start):
        results[start] = [shared.submit(-n) for n in range(start, start + 2000)]

    threads = [threading.Thread(target=submit, args=(s,)) for s in (10_000, 20_000, 30_000)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert shared.wait(20)
    for start in (10_000, 20_000, 30_000):
        assert [job.result for job in results[start]] == list(range(start, start + 2000))
print("ok")
"""
    )
    assert world.run(script) == "ok\n"


def test_an_uncaught_exception_in_the_with_block_is_raised_and_nothing_is_left(
    world: World,
) -> None:
    script = (
        PRELUDE
        + """
try:
    with dispy.JobCluster(time.sleep) as cluster:
        job = cluster.submit(60)
        raise ZeroDivisionError
except ZeroDivisionError:
    assert job.status in (dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated), job.status
    print("ok")
"""
    )
    assert world.run(script) == "ok\n"
    world.wait_until_gone()


def test_cancel_stops_running_and_waiting_jobs(world: World) -> None:
    script = (
        PRELUDE
        + """
def work(n, catch=False):
    import time
    try:
        time.sleep(60 if n else 0.5)
    except KeyboardInterrupt:
        if catch:
            return "caught"
        raise
    return n

with dispy.JobCluster(work, cpus=1) as cluster:
    caught = cluster.submit(1, catch=True)
    killed = cluster.submit(2)
    waiting = cluster.submit(3)
    fine = cluster.submit(0)
    while caught.status != dispy.DispyJob.Running:
        time.sleep(0.01)
    assert cluster.cancel(waiting) == 0
    assert cluster.cancel(caught) == 0
    assert caught() == "caught"
    while killed.status != dispy.DispyJob.Running:
        time.sleep(0.01)
    assert cluster.cancel(killed) == 0
    assert killed() is None
    assert fine() == 0
    assert cluster.cancel(fine) == -1
    print([job.status.name for job in (caught, killed, waiting, fine)])
"""
    )
    assert world.run(script) == "['Finished', 'Terminated', 'Cancelled', 'Finished']\n"


def test_leaving_a_trio_cluster_stops_the_processes(world: World) -> None:
    node = world.start_node("127.0.0.2")
    before = set(_standing(node.process.pid))
    script = (
        PRELUDE
        + """
import trio

def work(n):
    import subprocess
    subprocess.run(["sleep", "60"])

def fail(n):
    raise LookupError(n)

async def main():
    async with dispy.open_cluster(work, nodes=nodes) as cluster:
        with trio.move_on_after(0.5) as scope:
            await cluster.run(1)
        assert scope.cancelled_caught
        job = cluster.submit(2)
        with trio.move_on_after(0.3):
            await job.wait_ended()
        assert not job.ended
        job.cancel()
        await job.wait_ended()
        with trio.move_on_after(0.2):
            async with dispy.open_cluster(work, nodes=nodes) as other:
                await other.run(3)
    began = trio.current_time()
    with trio.move_on_after(0.3):
        async with dispy.open_cluster(work, nodes=nodes) as late:
            late.submit(4)  # Left behind: the block waits for it, and is cancelled waiting.
    assert trio.current_time() - began < 3, trio.current_time() - began
    async with dispy.open_cluster(fail, nodes=nodes) as cluster:
        try:
            await cluster.run(7)
        except LookupError as exc:
            assert exc.args == (7,)
            assert "in fail" in str(exc.__cause__)
            print("ok")

trio.run(main)
"""
    )
    assert world.run(script, node.address) == "ok\n"
    world.wait_until_gone(but=tuple(before | set(_standing(node.process.pid))))
    sleepers = [p for p in world.marked() if b"sleep" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert not sleepers


def test_an_embedded_node_ends_with_its_killed_client(world: World) -> None:
    script = (
        PRELUDE
        + """
def compute(n):
    import subprocess
    subprocess.run(["sleep", "60"])

cluster = dispy.JobCluster(compute)
jobs = [cluster.submit(n) for n in range(10)]
while not any(job.status == dispy.DispyJob.Running for job in jobs):
    time.sleep(0.01)
print("running", flush=True)
jobs[0]()
"""
    )
    program = world.start(sys.executable, world.write("program.py", script))
    world.read_line(program)
    program.kill()
    program.wait(timeout=LIMIT)
    world.wait_until_gone()


def test_a_node_lives_on_when_a_client_is_killed(world: World) -> None:
    node = world.start_node("127.0.0.2", "--cpus", "1")
    path = world.write(
        "program.py",
        PRELUDE
        + """
cluster = dispy.JobCluster(time.sleep, nodes=nodes)
job = cluster.submit(1)
while job.status != dispy.DispyJob.Running:
    time.sleep(0.01)
print("running", flush=True)
job()
""",
    )
    program = world.start(sys.executable, path, node.address)
    world.read_line(program)
    program.kill()
    program.wait(timeout=LIMIT)
    # The job that ran goes on, and the slot is free for others after it.
    script = PRELUDE + "print(dispy.JobCluster(abs, nodes=nodes).submit(-7)())"
    assert world.run(script, node.address, name="other.py") == "7\n"


def test_all_processes_of_a_killed_node_go_with_it(world: World) -> None:
    node = world.start_node("127.0.0.2", "--cpus", "1")
    script = (
        PRELUDE
        + """
cluster = dispy.JobCluster(time.sleep, nodes=nodes)
job = cluster.submit(60)
while job.status != dispy.DispyJob.Running:
    time.sleep(0.01)
print("running", flush=True)
job()
print(job.status.name, job.exception)
cluster.close(terminate=True)
"""
    )
    program = world.start(sys.executable, world.write("program.py", script), node.address)
    world.read_line(program)
    node.process.kill()
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    assert out.startswith("Abandoned"), out
    world.wait_until_gone()


def test_a_node_that_is_told_to_stop_leaves_nothing(world: World) -> None:
    node = world.start_node("127.0.0.2")
    script = (
        PRELUDE
        + """
cluster = dispy.JobCluster(time.sleep, nodes=nodes)
job = cluster.submit(60)
while job.status != dispy.DispyJob.Running:
    time.sleep(0.01)
print("running", flush=True)
job()
print(job.status.name, job.exception)
cluster.close(terminate=True)
"""
    )
    program = world.start(sys.executable, world.write("program.py", script), node.address)
    world.read_line(program)
    node.process.send_signal(signal.SIGHUP)
    assert node.process.wait(timeout=LIMIT) == 128 + signal.SIGHUP
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    assert out.startswith("Abandoned"), out
    assert node.address in out
    world.wait_until_gone()
    assert os.listdir(world.tmp_path / f"dispy-trio-{os.getuid()}") == []
