"""What nodes leave on a disk, and what they remove from it: their own, and nothing else."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from .conftest import LIMIT, World

NODE = (sys.executable, "-m", "dispy_trio", "node", "--host", "127.0.0.3")
LONG = "l" * 240
LONGEST = "\N{SNOWMAN}" * 85
"""255 bytes."""


def wait_until_only(folder: Path, *names: str) -> None:
    """Removal is not announced."""
    until = time.monotonic() + LIMIT
    while left := set(os.listdir(folder)) - set(names):
        assert time.monotonic() < until, left
        time.sleep(0.02)


def test_a_node_leaves_nothing_of_one_that_was_killed(world: World) -> None:
    killed = world.start_node("127.0.0.2", "--dest-path-prefix", "prefix")
    prefix = world.tmp_path / "prefix"
    program = """
import sys
import dispy_trio as dispy

def wait():
    import dispy_trio.job, os, time
    os.makedirs("deep/down")
    open("result", "w").close()
    dispy_trio.job.keep_file("result")
    open("result", "w").close()
    dispy_trio.job.provisional_result(1)
    time.sleep(1000)

def say(job):
    if job.status == dispy.DispyJob.ProvisionalResult:
        print("running", flush=True)

fresh = dispy.JobCluster(wait, nodes=[sys.argv[1]], job_status=say)
lasting = dispy.JobCluster(wait, nodes=[sys.argv[1]], job_status=say, dest_path="mine")
for cluster in fresh, lasting:
    cluster.submit(dispy_job_depends=["program.py"])
cluster.wait()
"""
    client = world.start(sys.executable, world.write("program.py", program), killed.address)
    for _ in range(2):
        assert world.read_line(client) == "running\n"
    assert len(list(prefix.rglob("program.py"))) == 2
    killed.process.kill()
    client.kill()
    killed.process.wait()
    client.wait()
    assert len(os.listdir(prefix)) == 3  # Fresh ones, lasting ones, and the lock of its port.
    port = world.start_node("127.0.0.3", "--dest-path-prefix", "prefix").address.rpartition(":")[2]
    wait_until_only(prefix, "clients", f"node-127.0.0.3-{port}.lock")
    assert [path.name for path in (prefix / "clients").rglob("*") if path.is_file()] == [
        ".dispy-trio-node"
    ]


@pytest.mark.parametrize("options", [["--clean", "--serve", "0"], ["--serve", "0"], []], ids=str)
def test_what_no_node_has_made_is_left_alone(world: World, options: list[str]) -> None:
    own = ("clients/smith/contract.pdf", "node-1-of-mine/file", "node-x.lock", "thesis.tex")
    for name in own:
        world.write(f"prefix/{name}", "precious")
    prefix = world.tmp_path / "prefix"
    prefix.chmod(0o1777)
    command = [*NODE, "--port", "0", "--dest-path-prefix", "prefix", *options]
    node = world.start(*command)
    if not options:
        world.read_line(node)
        node.terminate()
    assert node.wait(LIMIT) == (0 if options else 128 + signal.SIGTERM)
    assert all((prefix / name).read_text() == "precious" for name in own)
    assert stat.S_IMODE(prefix.stat().st_mode) == 0o1777


@pytest.mark.parametrize("name", [LONG, LONGEST], ids=["240", "255"])
def test_files_of_the_longest_names_travel(world: World, name: str) -> None:
    node = world.start_node("127.0.0.2")
    world.write(name, "content")
    program = """
import os, sys
import dispy_trio as dispy

def change(name):
    import dispy_trio.job
    with open(name) as file:
        text = file.read()
    with open("new", "w") as file:
        file.write(text.upper())
    import os
    os.rename("new", name)
    dispy_trio.job.send_file(name)
    return text

address, name = sys.argv[1:]
for depends, of_job in ([name], []), ([], [name]):
    with dispy.JobCluster(change, nodes=[address], depends=depends) as cluster:
        print(cluster.submit(name, dispy_job_depends=of_job)())
"""
    assert world.run(program, node.address, name) == "content\nCONTENT\n"
    assert (world.tmp_path / name).read_text() == "CONTENT"


def test_programs_that_share_a_file_come_and_go(world: World) -> None:
    """One takes the file from another's directory, which goes with its cluster."""
    node = world.start_node("127.0.0.2", "--cpus", "2")
    program = """
import sys
import dispy_trio as dispy

def size():
    import os
    return os.path.getsize("shared")

for _ in range(3):
    with dispy.JobCluster(size, nodes=[sys.argv[1]], depends=["shared"]) as cluster:
        assert cluster.submit()() == 8_000_000
"""
    world.write("shared", "x" * 8_000_000)
    path = world.write("program.py", program)
    programs = [world.start(sys.executable, path, node.address) for _ in range(3)]
    for process in programs:
        assert process.communicate(timeout=LIMIT)[1] == ""
        assert process.returncode == 0


def test_whatever_a_job_makes_of_its_directory_goes_and_hurts_nobody(world: World) -> None:
    node = world.start_node("127.0.0.2", "--cpus", "2")
    program = """
import os, sys
import dispy_trio as dispy

def make():
    import os
    directory = os.getcwd()
    os.mkdir("closed", 0)
    for number in range(500):
        os.mknod(str(number))
    for _ in range(1200):
        os.mkdir("deep")
        os.chdir("deep")
    return directory

def no_op():
    pass

with dispy.JobCluster(make, nodes=[sys.argv[1]]) as wicked, \\
        dispy.JobCluster(no_op, nodes=[sys.argv[1]]) as honest:
    assert honest.submit()() is None
    directory = wicked.submit(dispy_job_depends=["program.py"])()
    while os.path.exists(directory):
        job = honest.submit()
        job()
        assert job.status == dispy.DispyJob.Finished, job.exception
"""
    assert world.run(program, node.address) == ""
    assert node.process.poll() is None
