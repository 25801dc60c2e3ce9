"""Jobs whose ends are long: what they return, raise, write, and die of, and the jobs beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy_trio as dispy
from dispy_trio.client import link
from dispy_trio.runtime import segments

from .conftest import World

LIMIT = 60.0
MIB = 1 << 20

Make = Callable[..., Any]


def _offer_nonsense(token: bytes) -> int:
    return segments.offer(bytes(len(token)))


@pytest.fixture(params=["segments", "blobs"])
def make(
    request: pytest.FixtureRequest,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Make]:
    """Makes clusters on one node, which takes us for a neighbour or for somebody far away."""
    node = world.start_node("127.0.0.2", "--cpus", "2")
    if request.param == "blobs":
        monkeypatch.setattr(link, "offer", _offer_nonsense)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made: list[Any] = []

    def make(computation: Any, **options: Any) -> Any:
        cluster: Any = dispy.JobCluster(
            computation, nodes=[node.address], secret_file=world.secret_file, **options
        )
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close(terminate=True)


def work(kind: str, size: int, result: int = 0) -> Any:
    import os
    import signal
    import sys

    class Loud(Exception):
        pass

    if kind == "raise":
        raise ValueError("v" * size)
    if kind == "raise one's own":
        raise Loud("v" * size)
    if kind == "exit":
        sys.exit("e" * size)
    if kind == "unpicklable":
        # Its repr is long, too.
        return type("Odd", (), {"__reduce__": lambda self: 1 / 0})()
    sys.stdout.write("o" * size + "\n")
    sys.stderr.write("f" * size + "\n")
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leave":
        os._exit(3)
    if kind == "raise beside":
        raise ValueError("v" * size)
    return b"r" * result


def wait(jobs: list[Any]) -> None:
    for job in jobs:
        assert job.wait(LIMIT), job


def check(job: Any, kind: str, size: int, result: int) -> None:
    text = job.exception
    if kind in ("write", "unpicklable"):
        assert job.status == (job.Finished if kind == "write" else job.Terminated), text
    else:
        assert job.status == job.Terminated
    if kind.startswith("raise"):
        assert text.rstrip().endswith(": " + "v" * size)
        assert str(job.reason()).endswith("v" * size)
    elif kind == "exit":
        assert "e" * size in text
    elif kind == "die":
        assert text.startswith("killed by SIGKILL (9), on node ")
    elif kind == "leave":
        assert text.startswith("exit code 3 without a result, on node ")
    elif kind == "write":
        assert job.result == b"r" * result
    if kind in ("write", "die", "leave", "raise beside"):
        assert job.stdout == "o" * size + "\n"
        assert job.stderr == "f" * size + "\n"
    else:
        assert (job.stdout, job.stderr) == ("", "")


KINDS = ["write", "raise", "raise one's own", "exit", "die", "leave", "raise beside", "unpicklable"]


def test_ends_of_every_kind_arrive_whole_and_hurt_nothing_behind_them(make: Make) -> None:
    cluster = make(work)
    sizes = [30_000, 70_000, 10 * MIB]
    cases = [(kind, size, 1024) for kind in KINDS for size in sizes]
    jobs = []
    for kind, size, result in cases:
        jobs.append(cluster.submit(kind, size, result))
        jobs.append(cluster.submit("write", 3, 4))
    wait(jobs)
    for case, job, behind in zip(cases, jobs[::2], jobs[1::2], strict=True):
        check(job, *case)
        check(behind, "write", 3, 4)


def test_much_output_beside_a_small_and_a_large_result(make: Make) -> None:
    cluster = make(work)
    cases = [(50 * MIB, 1024), (10 * MIB, 10 * MIB), (100, 10 * MIB)]
    jobs = [cluster.submit("write", *case) for case in cases]
    wait(jobs)
    for case, job in zip(cases, jobs, strict=True):
        check(job, "write", *case)


def test_many_ends_just_below_every_limit(make: Make) -> None:
    """Batches of them are cut before a frame is full."""
    cluster = make(work)
    cases = [
        (kind, size) for kind in ("raise", "write", "exit") for size in (15_000, 31_000, 65_000)
    ]
    jobs = [cluster.submit(*cases[n % len(cases)]) for n in range(180)]
    wait(jobs)
    for n, job in enumerate(jobs):
        check(job, *cases[n % len(cases)], 0)


def test_a_calls_exception_inside_of_a_map_is_whole(make: Make) -> None:
    cluster = make(work)
    with pytest.raises(ValueError) as caught:
        list(cluster.map(["write", "raise"], [1, 5 * MIB], chunksize=2))
    assert str(caught.value) == "v" * (5 * MIB)


def test_isolated_jobs_have_long_ends_too(make: Make) -> None:
    cluster = make(work).options(isolation="job")
    jobs = [cluster.submit(kind, 5 * MIB, 9) for kind in ("write", "raise", "die", "write")]
    wait(jobs)
    for kind, job in zip(("write", "raise", "die", "write"), jobs, strict=True):
        check(job, kind, 5 * MIB, 9)


def test_a_programs_output_is_its_result(make: Make) -> None:
    Path("prog.py").write_text(
        "import sys\n"
        "for n in range(400_000):\n"
        "    print('line', n)\n"
        "print('x' * 3_000_000, file=sys.stderr)\n"
    )
    job = make("prog.py").submit()
    assert job() == 0
    assert job.stdout == b"".join(b"line %d\n" % n for n in range(400_000))
    assert job.stderr == b"x" * 3_000_000 + b"\n"


def test_a_limit_is_kept_and_told(make: Make) -> None:
    cluster = make(work, max_output="100K")
    job = cluster.submit("write", 10 * MIB)
    short = cluster.submit("write", 50_000)
    died = cluster.submit("die", 10 * MIB)
    wait([job, short, died])
    mark = f"\n[... {10 * MIB + 1 - 102400} bytes cut out: max_output is 102400 ...]\n"
    assert job.stdout == "o" * 51200 + mark + "o" * 51199 + "\n"
    assert job.stderr == "f" * 51200 + mark + "f" * 51199 + "\n"
    assert died.stdout == job.stdout
    check(short, "write", 50_000, 0)


@pytest.mark.parametrize("limit", [0, -1, "much", 1.5])
def test_a_limit_is_a_number_of_bytes(limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_output"):
        dispy.JobCluster(work, nodes=["127.0.0.1:1"], max_output=limit)


def test_live_output_skips_nothing(world: World) -> None:
    node = world.start_node("127.0.0.3")
    script = """
import dispy_trio as dispy, sys

def talk(path):
    import os, time
    for n in range(100_000):
        print("line", n)
    while not os.path.exists(path):
        time.sleep(0.01)
    print("last")

cluster = dispy.JobCluster(talk, nodes=[sys.argv[1]], live_output=True)
job = cluster.submit_job_id("live", sys.argv[2])
job()
cluster.close()
"""
    goes_on = world.tmp_path / "goes on"
    program = world.start(sys.executable, world.write("live.py", script), node.address, goes_on)
    before = f"[live@{node.address}] "
    assert world.read_line(program) == before + "line 0\n"
    goes_on.touch()
    # Not `communicate`: it does not know of what was read together with the first line.
    assert program.stdout is not None
    assert program.stderr is not None
    out, err = program.stdout.read(), program.stderr.read()
    assert out == "".join(f"{before}line {n}\n" for n in range(1, 100_000)) + before + "last\n"
    assert not err
    assert program.wait(LIMIT) == 0


def test_jobs_go_on_when_live_output_cannot_be_written(world: World) -> None:
    """Characters that an encoding lacks are shown by escapes; that nobody reads is no failure."""
    script = """
import dispy_trio as dispy, os, sys

def talk(n):
    print("\u20ac", n)
    return n

with dispy.JobCluster(talk, live_output=True) as cluster:
    cluster.submit(0)()
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    jobs = [cluster.submit(n) for n in range(9)]
    print([job() for job in jobs], {len(job.stdout) for job in jobs}, file=sys.stderr)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""
    program = world.write("live.py", script)
    process = world.start("env", "PYTHONIOENCODING=ascii", sys.executable, program)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert out.endswith("] \\u20ac 0\n")
    assert err == "[0, 1, 2, 3, 4, 5, 6, 7, 8] {4}\n"
    world.wait_until_gone()
