"""Two clients on one node: what becomes of the one is nothing to the other."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from .conftest import World


def limit_files(count: int) -> tuple[str, ...]:
    """In front of a command: it may have that many files open, and never more."""
    return ("sh", "-c", f'ulimit -n {count} && exec "$@"', "sh")


MANY_CLIENTS = """
import sys, time
import dispy_trio as dispy

def square(number):
    import time
    time.sleep(0.05)
    return number * number

jobs = int(sys.argv[2])
clusters = [dispy.JobCluster(square, nodes=[sys.argv[1]]) for _ in range(4)]
right = [number * number for number in range(jobs)]
for cluster in clusters:
    # One after the other: the idle workers of the first are in the way of the last.
    given = [cluster.submit(number) for number in range(jobs)]
    assert [job() for job in given] == right, [job.exception for job in given]
together = [[cluster.submit(number) for number in range(jobs)] for cluster in clusters]
for given in together:
    assert [job() for job in given] == right, [job.exception for job in given]
for cluster in clusters:
    cluster.close()
print("all right")
"""


@pytest.mark.parametrize(("files", "cpus"), [(192, 12), (1024, 64)])
def test_few_descriptors_do_for_as_many_clients_as_there_are(
    world: World, files: int, cpus: int
) -> None:
    node = world.start_node("127.0.0.1", "--cpus", str(cpus), prefix=limit_files(files))
    path = world.write("program.py", MANY_CLIENTS)
    program = world.start(sys.executable, path, node.address, str(cpus))
    out, err = program.communicate(timeout=30)
    assert program.returncode == 0, err
    assert out == "all right\n"
    assert node.process.poll() is None


def test_a_node_says_that_its_descriptors_limit_its_slots(world: World) -> None:
    node = world.start_node("127.0.0.1", "--cpus", "64", prefix=limit_files(64))
    assert world.run(MANY_CLIENTS, node.address, "12") == "all right\n"
    node.process.send_signal(signal.SIGHUP)
    _, err = node.process.communicate(timeout=10)
    assert "no more than 4 jobs at a time" in err
    assert "ulimit" in err


LIMITS = """
import sys
import dispy_trio as dispy

def limits():
    import resource
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

for _ in range(2):
    cluster = dispy.JobCluster(limits, nodes=sys.argv[1:] or None)
    print(cluster.submit()(), limits() > 300)
    cluster.close()
"""


@pytest.mark.parametrize("embedded", [True, False])
def test_jobs_have_the_limit_of_files_that_programs_are_used_to(
    world: World, embedded: bool
) -> None:
    lowered = ("sh", "-c", 'ulimit -Sn 300 && exec "$@"', "sh")
    path = world.write("program.py", LIMITS)
    nodes = [] if embedded else [world.start_node("127.0.0.1", prefix=lowered).address]
    program = world.start(*lowered, sys.executable, path, *nodes)
    out, err = program.communicate(timeout=30)
    assert out == "300 True\n" * 2, err


KILLER = """
import sys, threading
import dispy_trio as dispy

def work(number):
    import os, time
    if number == 20:
        os.kill(os.getppid(), 9)
        time.sleep(60)
    time.sleep(0.02)
    return number

def honest(number):
    import os, time
    with open(sys_argv_2, "ab") as file:
        file.write(b"%d\\n" % number)
    time.sleep(0.01)
    return number

innocent = dispy.JobCluster(honest, nodes=[sys.argv[1]], depends=[])
unlucky = dispy.JobCluster(work, nodes=[sys.argv[1]])
theirs = [innocent.submit(number) for number in range(100)]
ours = [unlucky.submit(number) for number in range(100)]
assert [job() for job in theirs] == list(range(100))
for job in ours:
    job()
lost = [job for job in ours if job.status != dispy.DispyJob.Finished]
assert ours[20] in lost and len(lost) <= 4, lost
assert all("killed by SIGKILL" in job.exception for job in lost), ours[20].exception
assert all(job.result == number for number, job in enumerate(ours) if job not in lost)
innocent.close()
unlucky.close()
print("unhurt")
"""


def test_a_job_that_kills_its_parent_ends_what_ran_beside_it_and_nothing_else(
    world: World,
) -> None:
    node = world.start_node("127.0.0.1", "--cpus", "4")
    trace = world.tmp_path / "trace"
    script = KILLER.replace("sys_argv_2", repr(str(trace)))
    assert world.run(script, node.address) == "unhurt\n"
    assert node.process.poll() is None
    assert sorted(map(int, trace.read_text().split())) == list(range(100)), "each of them once"


PROGRAMS = """
import sys
import dispy_trio as dispy

def start_programs(directory):
    import os, subprocess, time
    if MOMENT == "cleanup":
        return
    from pathlib import Path
    subprocess.Popen(["sleep", "300"])
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    if not os.fork():
        os.setsid()
        subprocess.Popen(["sleep", "300"])
        os._exit(0)
    Path(directory, str(os.getpid())).touch()
    time.sleep(300)

def set_up():
    if MOMENT == "setup":
        start_programs_and_hang("setup")
    return 0

def clean_up():
    if MOMENT == "cleanup":
        start_programs_and_hang("cleanup")

def start_programs_and_hang(which):
    import signal, subprocess
    from pathlib import Path
    subprocess.Popen(["sleep", "300"])
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    Path(MARKS, which).touch()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    while True:
        sum(range(1000000))

cluster = dispy.JobCluster(
    start_programs, nodes=[sys.argv[1]], depends=[start_programs_and_hang],
    setup=set_up, cleanup=clean_up,
)
if MOMENT == "cleanup":
    cluster.submit("")()
    cluster.close()
else:
    jobs = [cluster.submit(MARKS) for _ in range(2)]
    cluster.wait()
"""


def program_for(world: World, marks: Path, moment: str) -> Path:
    script = PROGRAMS.replace("MARKS", repr(str(marks))).replace("MOMENT", repr(moment))
    return world.write("program.py", script)


@pytest.mark.parametrize("moment", ["jobs", "setup", "cleanup"])
def test_nothing_of_a_killed_node_runs_on(world: World, moment: str) -> None:
    node = world.start_node("127.0.0.1", "--cpus", "2")
    marks = world.tmp_path / "marks"
    marks.mkdir()
    client = world.start(sys.executable, program_for(world, marks, moment), node.address)
    until = time.monotonic() + 20
    while len(list(marks.iterdir())) < (2 if moment == "jobs" else 1):
        assert time.monotonic() < until
        time.sleep(0.01)  # Other processes' files: nothing tells of them.
    started = [pid for pid in world.marked() if "sleep" in command_of(pid)]
    assert len(started) >= (4 if moment == "jobs" else 2)
    others = {client.pid}
    below = [pid for pid in world.marked() if pid not in (*others, node.process.pid)]
    node.process.kill()
    node.process.wait()
    until = time.monotonic() + 1.0
    while left := [command_of(pid) for pid in below if pid in world.marked()]:
        assert time.monotonic() < until, left
        time.sleep(0.01)
    client.kill()
    client.wait()


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_what_a_job_started_ends_when_node_and_template_are_killed_together(
    world: World,
) -> None:
    node = world.start_node("127.0.0.1", "--cpus", "1")
    marks = world.tmp_path / "marks"
    marks.mkdir()
    client = world.start(sys.executable, program_for(world, marks, "jobs"), node.address)
    while not list(marks.iterdir()):
        assert client.poll() is None
        time.sleep(0.01)
    worker = int(next(marks.iterdir()).name)
    template = parent_of(worker)
    os.kill(node.process.pid, signal.SIGSTOP)
    for pid in (template, node.process.pid):
        os.kill(pid, signal.SIGKILL)
    world.wait_until_gone(but=(client.pid,))
    client.kill()
    client.wait()


def test_what_jobs_started_ends_when_their_warden_is_killed(world: World) -> None:
    # What the node was left with by who started it is not its own to end.
    prefix = ("sh", "-c", 'sleep 301 >/dev/null 2>&1 & exec "$@"', "sh")
    node = world.start_node("127.0.0.1", "--cpus", "1", prefix=prefix)
    marks = world.tmp_path / "marks"
    marks.mkdir()
    client = world.start(sys.executable, program_for(world, marks, "jobs"), node.address)
    while not list(marks.iterdir()):
        assert client.poll() is None
        time.sleep(0.01)
    template = parent_of(int(next(marks.iterdir()).name))
    warden = parent_of(template)
    assert parent_of(warden) == node.process.pid
    programs = [pid for pid in world.marked() if command_of(pid) == "sleep\x00300\x00"]
    assert len(programs) >= 2
    client.kill()
    client.wait()
    os.kill(warden, signal.SIGKILL)
    until = time.monotonic() + 5.0
    while left := [pid for pid in (template, *programs) if command_of(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.01)  # Other processes' ends: nothing tells of them.
    assert node.process.poll() is None
    (kept,) = [pid for pid in world.marked() if command_of(pid) == "sleep\x00301\x00"]
    os.kill(kept, signal.SIGKILL)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
