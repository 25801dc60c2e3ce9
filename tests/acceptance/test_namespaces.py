"""Two machines, as network namespaces joined by a cable, and processes that see no others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import ROOT, SHELL, read_transcript, script_of, steps

from .conftest import LIMIT, World
from .machines import AS_ROOT, Machine, open_pair, processes_apart
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
    assert told == "the node has ended (SIGTERM)\n"


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


SSH = """#!{python}
import os, subprocess, sys
host, *words = sys.argv[1:]
assert host == "other"
environment = dict(os.environ, HOME="{other}", PATH=os.defpath)
session = subprocess.Popen(
    ["sh", "-c", " ".join(words)], cwd="{other}", env=environment, start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
)
out, _ = session.communicate()  # It is over when nobody can write to it any more.
sys.stdout.buffer.write(out)
sys.exit(session.returncode)
"""
SCP = """#!/bin/sh
cp "$1" "{other}/${{2#other:}}"
"""
MARK = "=== step"


def write_command(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def install_here(environment: Path) -> None:
    """What ``pip install .`` would have made: an environment with this library, as tested."""
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (packages / "tested.pth").write_text("\n".join(dict.fromkeys(paths)))
    command = f'#!/bin/sh\nexec "{environment}/bin/python" -m dispy_trio "$@"\n'
    write_command(environment / "bin" / "dispy-trio", command)


def test_the_readme_s_lines_for_a_shell(world: World, tmp_path: Path) -> None:
    """Those that install something are for ``nox -s newcomer``, in which ssh is real, too."""
    clone, here, other = (tmp_path / name for name in ("clone", "here", "other"))
    for folder in ("src", "examples"):
        shutil.copytree(ROOT / folder, clone / folder)
    shutil.copy(ROOT / "README.md", clone)
    here.mkdir()
    install_here(clone / ".venv")
    install_here(other / "dispy")
    write_command(tmp_path / "bin" / "ssh", SSH.format(python=sys.executable, other=other))
    write_command(tmp_path / "bin" / "scp", SCP.format(other=other))

    chosen = [step for step in steps() if step.language == SHELL and not step.needs_an_index]
    script = world.write("readme.sh", script_of(chosen, mark=MARK))
    names = world.write("hosts", "127.0.0.1 localhost\n127.0.0.2 other\n")
    prepare = f"""
        mount --bind {names} /etc/hosts && ip link set lo up || exit
        cd {clone}
        unset XDG_CONFIG_HOME
        HOME={here} PATH={tmp_path}/bin:$PATH exec sh {script}
    """
    process = world.start("unshare", *AS_ROOT, "--net", "--mount", "sh", "-c", prepare)
    out, err = process.communicate(timeout=len(chosen) * LIMIT)
    taken = read_transcript(chosen, out, mark=MARK)
    assert [(each.step.text, each.fault, each.printed) for each in taken if each.fault] == [], err
    assert len(taken) == len(chosen), out + err
