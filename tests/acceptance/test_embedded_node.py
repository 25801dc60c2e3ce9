"""The embedded node: it is the client's own, whatever lies about and however either of them ends."""

from __future__ import annotations

import os
import shlex
import signal
import sys

import pytest

from .conftest import LIMIT, World

PLANTED = """
import os
with open({trace!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
raise ImportError("this is none of Python's own")
"""


def test_files_called_like_modules_are_not_imported(world: World) -> None:
    trace = str(world.tmp_path / "trace")
    for name in ("json", "queue", "trio", "attrs", "dispy_trio"):
        world.write(f"here/{name}.py", PLANTED.format(trace=trace))
    # Where the program lies, too; one that it can do without itself.
    world.write("there/psutil.py", PLANTED.format(trace=trace))
    script = "from dispy_trio import JobCluster\nprint(JobCluster(abs, cpus=1).submit(-1)())\n"
    path = world.write("there/program.py", script)
    program = world.start(sys.executable, path, cwd=world.tmp_path / "here")
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, out, err) == (0, "1\n", "")
    assert not os.path.exists(trace)


def test_what_is_on_the_python_path_is_there_for_jobs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("library/mine_alone.py", "def double(n):\n    return 2 * n\n")
    monkeypatch.setenv("PYTHONPATH", str(world.tmp_path / "library"))
    script = """
from dispy_trio import JobCluster

def compute(n):
    import mine_alone
    return mine_alone.double(n)

print(JobCluster(compute, cpus=1).submit(4)())
"""
    assert world.run(script) == "8\n"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_end_of_its_client_makes_it_say_nothing(
    world: World, end: signal.Signals | None
) -> None:
    script = f"""
import os, signal, time
from dispy_trio import DispyJob, JobCluster
clusters = [JobCluster(time.sleep, cpus=1) for _ in range(2)]
for cluster in clusters:
    [job() for job in [cluster.submit(0) for _ in range(50)]]  # Short: many are sent ahead.
jobs = [cluster.submit(60) for cluster in clusters]
for cluster in clusters:
    for _ in range(20):
        cluster.submit(0)
while any(job.status != DispyJob.Running for job in jobs):
    time.sleep(0.01)
{"os._exit(0)" if end is None else f"os.kill(os.getpid(), {int(end)})"}
"""
    program = world.start(sys.executable, world.write("program.py", script))
    # Its nodes hold the other end of its stderr: this waits until they are gone, too.
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == (0 if end is None else -end)
    assert (out, err) == ("", "")
    world.wait_until_gone()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_the_usual_descriptors_has_its_jobs_run(
    world: World, closed: str
) -> None:
    told = world.tmp_path / "told"
    script = f"""
from dispy_trio import JobCluster

def talk(n):
    print("heard", n)
    return n

with JobCluster(talk, cpus=1) as cluster:
    job = cluster.submit(3)
    text = repr((job(), job.stdout, job.exception))
with open({str(told)!r}, "w") as file:
    file.write(text)
"""
    command = shlex.join([sys.executable, str(world.write("program.py", script))])
    program = world.start("sh", "-c", f"exec {command} {closed}")
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, out, err) == (0, "", "")
    assert told.read_text() == "(3, 'heard 3\\n', None)".replace("\n", "\\n")
    world.wait_until_gone()


@pytest.mark.parametrize("debug", ["by logging", "by loglevel", ""])
def test_one_that_can_not_start_says_why_in_a_line_and_its_traceback_when_debugging(
    world: World, debug: str
) -> None:
    script = f"""
import logging
import dispy_trio
if {debug!r} == "by logging":
    logging.basicConfig(level=logging.DEBUG)
level = dispy_trio.logger.DEBUG if {debug!r} == "by loglevel" else dispy_trio.logger.INFO
try:
    dispy_trio.JobCluster(abs, cpus=-100_000, connect_timeout=20, loglevel=level)
except dispy_trio.ClusterFailed as exc:
    print(exc)
"""
    program = world.start(sys.executable, world.write("program.py", script))
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    (line,) = out.splitlines()
    assert line.startswith("the cluster failed: the embedded node can't start: ")
    assert ("services/embedded.py" in err) is bool(debug)
    assert debug or err == ""
