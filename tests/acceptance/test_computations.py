"""Programs, dependencies, setup and cleanup, files both ways, options of jobs."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import sys
import time
import zipapp
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy_trio as dispy

from .conftest import World

LIMIT = 30.0

Make = Callable[..., Any]


@pytest.fixture
def make(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Makes clusters on one node of two slots, in a directory of the test's own."""
    node = world.start_node("127.0.0.2", "--cpus", "2", "--resource", "licence=1", "--gpus", "2")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made: list[Any] = []

    def make(computation: Any, **options: Any) -> Any:
        options.setdefault("nodes", [node.address])
        cluster: Any = dispy.JobCluster(computation, secret_file=world.secret_file, **options)
        made.append(cluster)
        return cluster

    make.address = node.address  # type: ignore[attr-defined]
    yield make
    for cluster in made:
        cluster.close(terminate=True)


def wait_running(job: Any) -> None:
    until = time.monotonic() + LIMIT
    while job.status == job.Created:
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_for(path: Path) -> None:
    until = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


# --- programs ----------------------------------------------------------------------------------
def test_a_python_program_with_arguments_exit_status_and_variables(make: Make) -> None:
    Path("prog.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1:], os.environ['dispy_node_ip_addr'], os.environ['dispy_node_name'] != '')\n"
        "print(os.environ['dispy_job_path'] == os.getcwd(), file=sys.stderr)\n"
        "sys.exit(7)\n"
    )
    cluster = make("prog.py")
    job = cluster.submit("a b", 2)
    assert job() == 7
    assert job.status == dispy.DispyJob.Finished
    assert job.stdout == b"['a b', '2'] 127.0.0.2 True\n"
    assert job.stderr == b"True\n"
    assert cluster.name == "prog.py"
    with pytest.raises(TypeError, match="takes no keywords"):
        cluster.submit(x=1)


def test_a_program_from_the_path_and_one_that_is_cancelled(make: Make) -> None:
    cluster = make("sleep")
    assert cluster.submit("0.01")() == 0
    job = cluster.submit("60")
    wait_running(job)
    assert cluster.cancel(job) == 0
    assert job() is None
    assert job.status == dispy.DispyJob.Terminated
    assert (job.stdout, job.exception) == (b"", None)


def test_a_program_that_ends_in_order_when_it_is_interrupted(make: Make, tmp_path: Path) -> None:
    Path("trap.sh").write_text(
        "#!/bin/sh\ntrap 'echo bye; exit 3' INT\necho ready\ntouch \"$1\"\n"
        "while :; do sleep 0.05; done\n"
    )
    Path("trap.sh").chmod(0o755)
    cluster = make("trap.sh")
    job = cluster.submit(tmp_path / "trapped")
    wait_for(tmp_path / "trapped")
    cluster.cancel(job)
    assert job() == 3
    assert (job.status, job.stdout) == (dispy.DispyJob.Finished, b"ready\nbye\n")


@pytest.mark.parametrize(
    ("computation", "error", "text"),
    [
        ("no such program", ValueError, "neither a file nor a program on"),
        ("plain.txt", ValueError, "is not executable; type: chmod"),
        (".", ValueError, "is a directory"),
        (17, TypeError, "a computation is a function .* not int"),
    ],
)
def test_what_is_no_computation(
    make: Make, computation: Any, error: type[Exception], text: str
) -> None:
    Path("plain.txt").write_text("text")
    with pytest.raises(error, match=text):
        make(computation)


# --- dependencies ------------------------------------------------------------------------------
class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def helper(x: int) -> int:
    return x + 1


def test_functions_classes_partials_and_instances_are_found_by_name(make: Make) -> None:
    def compute(x: int) -> tuple[int, int, int]:
        names = globals()
        return names["helper"](x), names["Point"](x).x, names["shift"](x)

    def shift(x: int) -> int:
        return x * 10

    cluster = make(compute, depends=[helper, Point(0), functools.partial(shift)])
    assert cluster.submit(4)() == (5, 4, 40)


def test_bound_methods_and_partials_are_computations(make: Make) -> None:
    class Model:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def compute(self, x: int) -> int:
            return self.factor * x

    assert make(Model(3).compute).submit(5)() == 15
    assert make(functools.partial(pow, 2)).submit(5)() == 32


def test_modules_and_packages_travel_from_anywhere(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "away"
    (away / "shapes" / "round").mkdir(parents=True)
    (away / "shapes" / "__init__.py").write_text("NAME = 'shapes'\n")
    (away / "shapes" / "round" / "__init__.py").write_text("")
    (away / "shapes" / "round" / "ball.py").write_text("def size(): return 42\n")
    (away / "single_module.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(away)
    import shapes
    import single_module

    def compute() -> tuple[str, int, int]:
        import shapes
        import single_module
        from shapes.round import ball

        return shapes.NAME, ball.size(), single_module.VALUE

    assert make(compute, depends=[shapes, single_module]).submit()() == ("shapes", 42, 7)
    with pytest.raises(ValueError, match="'sys' has no Python source to send"):
        make(compute, depends=[sys])


def test_files_keep_their_place_and_are_sent_once(make: Make, tmp_path: Path, world: World) -> None:
    Path("data").mkdir()
    Path("data/in.txt").write_text("inside")
    outside = tmp_path / "out.txt"
    outside.write_text("outside")
    big = Path("big.bin")
    big.write_bytes(os.urandom(3_000_000))

    def read() -> tuple[str, str, int, str]:
        from pathlib import Path

        data = Path("big.bin")
        return (
            Path("data/in.txt").read_text(),
            Path("out.txt").read_text(),
            data.stat().st_size,
            dispy_job_path,  # type: ignore[name-defined]  # noqa: F821
        )

    files = ["data/in.txt", outside, "big.bin"]
    first = make(read, depends=files)
    inside, out, size, directory = first.submit()()
    assert (inside, out, size) == ("inside", "outside", 3_000_000)
    (node,) = first.status().nodes
    assert node.tx > 3_000_000
    second = make(read, depends=files)
    again = second.submit()()
    assert again[:3] == (inside, out, size)
    assert again[3] != directory, "each computation has a directory of its own"
    assert second.status().nodes[0].tx < 100_000, "the content was there already"
    first.close()
    second.close()
    # The node removes them when it is told; nobody waits for that.
    world.wait_until(lambda: not os.path.exists(directory) and not os.path.exists(again[3]))


@pytest.mark.parametrize(
    ("depends", "error", "text"),
    [
        (["no such file"], ValueError, "depends: 'no such file' is not a file"),
        (["."], ValueError, "is a directory, not a file"),
        ([17], TypeError, "17 is no dependency"),
        ("data", TypeError, "depends is a list"),
    ],
)
def test_what_is_no_dependency(make: Make, depends: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make(helper, depends=depends)


def test_dest_path_and_cleanup_false_leave_files_for_the_next_cluster(make: Make) -> None:
    Path("big.bin").write_bytes(os.urandom(2_000_000))

    def where() -> str:
        return str(dispy_job_path)  # type: ignore[name-defined]  # noqa: F821

    options: dict[str, Any] = {"depends": ["big.bin"], "dest_path": "kept", "cleanup": False}
    first = make(where, **options)
    directory = Path(first.submit()())
    first.close()
    assert (directory / "big.bin").stat().st_size == 2_000_000
    second = make(where, **options)
    assert Path(second.submit()()) == directory
    assert second.status().nodes[0].tx < 100_000
    second.close()
    third = make(where, dest_path="kept", cleanup=True)
    third.submit()()
    third.close()
    assert not directory.exists()
    with pytest.raises(ValueError, match=r"dest_path is '\.\./x'"):
        make(where, dest_path="../x")


def test_dependencies_of_one_job_are_there_for_it_and_gone_after_it(make: Make) -> None:
    Path("input.txt").write_text("for one job")
    Path("common.txt").write_text("for all")

    def call(name: str, *args: Any) -> Any:
        return globals()[name](*args)

    def look(path: str) -> tuple[str, str, str]:
        from pathlib import Path

        return Path(path).read_text(), Path("common.txt").read_text(), os.getcwd()

    def exists(path: str) -> bool:
        return os.path.exists(path)

    cluster = make(call, depends=["common.txt"])
    job = cluster.submit("look", "input.txt", dispy_job_depends=[look, "input.txt"])
    text, common, directory = job()
    assert (text, common) == ("for one job", "for all")
    assert directory != str(Path.cwd())
    # The node removes it off its loop, once the result is on its way.
    until = time.monotonic() + 30
    while cluster.submit("exists", directory, dispy_job_depends=[exists])():
        assert time.monotonic() < until, "it stays"
    unknown = cluster.submit("look", "input.txt")
    assert unknown() is None
    assert "KeyError" in unknown.exception


# --- setup and cleanup -------------------------------------------------------------------------
def test_setup_shares_memory_locks_and_values_and_cleanup_sees_them(
    make: Make, tmp_path: Path
) -> None:
    def setup(path: str, size: int) -> int:
        global data, lock, counter, target
        import multiprocessing

        data = bytearray(size)
        lock = multiprocessing.Lock()
        counter = multiprocessing.Value("i", 0)
        target = path
        return 0

    def cleanup(path: str, size: int) -> None:
        with open(path, "w") as file:
            file.write(f"{counter.value} {len(data)} {size} {dispy_node_ip_addr}")  # noqa: F821

    def compute() -> int:
        with lock:  # type: ignore[name-defined]
            counter.value += 1  # type: ignore[name-defined]
        return len(data)  # type: ignore[name-defined]

    told = tmp_path / "told"
    address = make.address  # type: ignore[attr-defined]
    nodes = [dispy.NodeAllocate(address, setup_args=(str(told), 1000))]
    cluster = make(compute, setup=setup, cleanup=cleanup, nodes=nodes)
    jobs = [cluster.submit() for _ in range(50)]
    assert {job() for job in jobs} == {1000}
    cluster.close()
    assert told.read_text() == "50 1000 1000 127.0.0.2"


@pytest.mark.parametrize("status", [0, 1, 2])
def test_setup_may_return_0_1_and_2(make: Make, status: int) -> None:
    def setup() -> int:
        global made
        made = "in setup"
        return status

    def compute() -> str:
        return str(made)  # type: ignore[name-defined]

    assert make(compute, setup=setup).submit()() == "in setup"


@pytest.mark.parametrize(("returned", "text"), [(3, "failed with 3"), (None, "failed with None")])
def test_setup_that_returns_anything_else_has_failed(make: Make, returned: Any, text: str) -> None:
    job = make(helper, setup=lambda: returned).submit(1)
    assert job() is None
    assert text in job.exception


def test_setup_timeout(make: Make) -> None:
    job = make(helper, setup=lambda: time.sleep(60), setup_timeout=0.2).submit(1)
    assert job() is None
    assert '"setup" did not end within 0.2 s' in job.exception


def test_init_depends_is_called_before_setup(make: Make) -> None:
    def init_depends() -> None:
        global first
        first = 1

    def setup() -> int:
        global second
        second = first + 1  # type: ignore[name-defined]
        return 0

    def compute() -> int:
        return second  # type: ignore[name-defined,no-any-return]

    assert make(compute, depends=[init_depends], setup=setup).submit()() == 2


def test_setup_and_cleanup_have_to_take_the_same_arguments(make: Make) -> None:
    with pytest.raises(ValueError, match="setup takes 1 arguments and cleanup 0"):
        make(helper, setup=lambda x: 0, cleanup=lambda: None)
    with pytest.raises(TypeError, match="cleanup is True, False or a function, not str"):
        make(helper, cleanup="yes")
    with pytest.raises(TypeError, match="setup is a function, not int"):
        make(helper, setup=1)


# --- in jobs -----------------------------------------------------------------------------------
def test_modules_that_are_not_imported_are_found(make: Make) -> None:
    def compute() -> tuple[bool, str, int]:
        digest = hashlib.sha256(b"x").hexdigest()
        return os.path.isdir("."), digest[:4], len(glob.glob("*"))  # type: ignore[name-defined]  # noqa: F821

    assert make(compute).submit()() == (True, hashlib.sha256(b"x").hexdigest()[:4], 0)


def test_names_that_the_user_defines_win(make: Make) -> None:
    def glob() -> str:
        return "mine"

    def compute() -> str:
        return glob()

    assert make(compute).submit()() == "mine"


def test_files_from_jobs_arrive_where_the_client_runs(make: Make) -> None:
    def send(n: int) -> int:
        from pathlib import Path

        Path("results").mkdir(exist_ok=True)
        Path(f"results/{n}.txt").write_text("x" * n)
        return dispy_send_file(f"results/{n}.txt")  # type: ignore[name-defined,no-any-return]  # noqa: F821

    cluster = make(send)
    jobs = [cluster.submit(n) for n in (0, 10, 2_000_000)]
    assert [job() for job in jobs] == [0, 0, 0]
    for n in (0, 10, 2_000_000):
        assert Path(f"results/{n}.txt").stat().st_size == n
    assert cluster.status().nodes[0].rx > 2_000_000


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/hostname", "lies outside of the job's directory"),
        ("../../x", "lies outside of the job's directory"),
        ("missing", "is not a file"),
    ],
)
def test_files_that_a_job_may_not_send(make: Make, path: str, text: str) -> None:
    def send(path: str) -> int:
        return dispy_send_file(path)  # type: ignore[name-defined,no-any-return]  # noqa: F821

    job = make(send).submit(path)
    assert job() == -1
    assert text in job.stderr


def test_files_too_large_for_the_client_are_refused_and_nothing_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispy.config, "MaxFileSize", 1000)

    def send() -> int:
        from pathlib import Path

        Path("big").write_bytes(bytes(1001))
        return dispy_send_file("big")  # type: ignore[name-defined,no-any-return]  # noqa: F821

    job = make(send).submit()
    assert job() == -1
    assert "more than the 1000 that the client allows" in job.stderr
    assert list(Path().iterdir()) == []


def test_files_too_large_for_a_node_are_refused_and_the_job_is_not_started(
    make: Make, world: World
) -> None:
    node = world.start_node("127.0.0.3", "--max-file-size", "1k")
    Path("big").write_bytes(bytes(1025))
    cluster = make(helper, nodes=[node.address])
    job = cluster.submit(1, dispy_job_depends=["big"])
    assert job() is None
    assert job.status == dispy.DispyJob.Terminated
    assert "more than the 1024 that this node allows" in job.exception
    assert cluster.submit(1)() == 2
    whole = make(helper, nodes=[node.address], depends=["big"])
    failed = whole.submit(1)
    assert failed() is None
    assert "more than the 1024 that this node allows" in failed.exception


def test_send_file_to_a_node(make: Make) -> None:
    Path("sub").mkdir()
    Path("sub/late.txt").write_text("late")

    def read() -> str:
        from pathlib import Path

        return Path("sub/late.txt").read_text()

    cluster = make(read)
    assert cluster.submit()() is None
    assert cluster.send_file("sub/late.txt", "127.0.0.2") == 0
    assert cluster.submit()() == "late"
    assert cluster.send_file("sub/late.txt", "127.0.0.9") == -1
    with pytest.raises(ValueError, match="path: 'nothing' is not a file"):
        cluster.send_file("nothing", "127.0.0.2")


def test_the_typed_functions_of_new_code(make: Make) -> None:
    def compute() -> tuple[str, str, bool, bool]:
        from dispy_trio import job

        job.progress(0.5, "half")
        return job.node_address(), job.node_name(), job.directory() == os.getcwd(), job.cancelled()

    cluster = make(compute)
    job = cluster.submit()
    address, name, same, cancelled = job()
    assert (address, same, cancelled) == ("127.0.0.2", True, False)
    assert name
    assert job.progress == (0.5, "half")


def test_a_job_may_ask_whether_it_was_cancelled(make: Make, tmp_path: Path) -> None:
    def compute(started: Path) -> str:
        from dispy_trio import job

        try:
            started.touch()
            while True:  # A signal right before a sleep is heeded after it only.
                time.sleep(0.01)
        except KeyboardInterrupt:
            return f"cancelled: {job.cancelled()}"

    cluster = make(compute)
    job = cluster.submit(tmp_path / "started")
    wait_for(tmp_path / "started")
    cluster.cancel(job)
    assert job() == "cancelled: True"
    assert job.status == dispy.DispyJob.Finished


# --- options of jobs ---------------------------------------------------------------------------
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


def test_timeout_ends_a_job_that_runs_too_long_and_spares_others(make: Make) -> None:
    cluster = make(nap)
    quick = cluster.options(timeout=5)
    slow = cluster.options(timeout=0.3).submit(60)
    assert slow() is None
    assert slow.status == dispy.DispyJob.Terminated
    assert "ran longer than its timeout of 0.3 s" in slow.exception
    assert quick.submit(0.01)() == "awake"


def test_deadline_counts_from_submission_also_in_the_queue(make: Make) -> None:
    cluster = make(nap)
    blocking = [cluster.submit(60) for _ in range(2)]
    for job in blocking:
        wait_running(job)
    late = cluster.options(deadline=0.3).submit(0)
    assert late() is None
    assert "its deadline, 0.3 s after it was submitted, has passed" in late.exception
    running = cluster.options(deadline=0.5).submit(60)
    cluster.cancel(blocking[0])
    assert running() is None
    assert "deadline" in running.exception


def test_retries_run_a_failed_job_again(make: Make, tmp_path: Path) -> None:
    def fail_twice(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        size = os.path.getsize(path)
        if size < 3:
            raise RuntimeError(f"try {size}")
        return size

    count = tmp_path / "count"
    cluster = make(fail_twice)
    job = cluster.options(retries=2, retry_delay=0.01).submit(str(count))
    assert job() == 3
    count.unlink()
    failed = cluster.options(retries=1, retry_delay=0).submit(str(count))
    assert failed() is None
    assert "try 2" in failed.exception


def test_priority_goes_before_what_waits(make: Make, tmp_path: Path) -> None:
    order = tmp_path / "order"

    def note(path: str, name: str) -> None:
        with open(path, "a") as file:
            file.write(name)

    cluster = make(note)
    assert cluster.submit(str(order), "")() is None
    assert cluster.set_node_cpus("127.0.0.2", 0) == 0
    jobs = [cluster.submit(str(order), "b") for _ in range(3)]
    jobs += [cluster.options(priority=-1).submit(str(order), "c")]
    jobs += [cluster.options(priority=n).submit(str(order), str(n)) for n in (1, 3, 2)]
    assert cluster.set_node_cpus("127.0.0.2", 1) == 1
    for job in jobs:
        job()
    assert order.read_text() == "321bbbc"


def test_isolated_jobs_have_a_process_of_their_own(make: Make) -> None:
    def pid() -> int:
        return os.getpid()

    cluster = make(pid)
    isolated = cluster.options(isolation="job")
    assert len({isolated.submit()() for _ in range(20)}) == 20
    assert len({cluster.submit()() for _ in range(20)}) <= 2
    recycled = cluster.options(max_jobs_per_worker=2)
    pids = [recycled.submit()() for _ in range(8)]
    assert max(pids.count(one) for one in pids) <= 3


def test_memory_limit_is_a_memory_error_in_the_job_alone(make: Make) -> None:
    def take(size: int) -> int:
        return len(bytearray(size))

    cluster = make(take)
    limited = cluster.options(memory_limit="200M")
    failed = limited.submit(500_000_000)
    assert failed() is None
    assert "MemoryError" in failed.exception
    assert limited.submit(1000)() == 1000
    assert cluster.submit(300_000_000)() == 300_000_000


def test_resources_are_shared_out(make: Make) -> None:
    def hold(seconds: float) -> tuple[float, float, str, str]:
        start = time.time()
        time.sleep(seconds)
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        return start, time.time(), devices, os.environ["OMP_NUM_THREADS"]

    cluster = make(hold)
    licensed = cluster.options(resources={"licence": 1})
    spans = sorted(job()[:2] for job in [licensed.submit(0.1) for _ in range(3)])
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    on_gpus = [cluster.options(gpus=1).submit(1.5) for _ in range(2)]
    assert {job()[2] for job in on_gpus} == {"0", "1"}
    wide = cluster.options(cpus=2)
    both = sorted((job() for job in [wide.submit(0.1) for _ in range(2)]), key=lambda t: t[0])
    assert both[0][1] <= both[1][0], "each takes both slots"
    threads = int(cluster.submit(0)()[3])
    assert int(both[0][3]) == 2 * threads


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeout": 0}, ValueError, "timeout is 0; it has to be at least 0.001"),
        ({"timeout": "5"}, TypeError, "timeout is a number, not str"),
        ({"retries": -1}, ValueError, "retries is -1; it has to be at least 0"),
        ({"cpus": 0}, ValueError, "cpus is 0; it has to be at least 1"),
        ({"cpus": 1.5}, TypeError, "cpus is an int, not float"),
        ({"isolation": "process"}, ValueError, "isolation is 'process'; it has to be 'worker'"),
        ({"memory_limit": "2X"}, ValueError, "memory_limit is '2X'; it has to be like 500M"),
        ({"resources": ["gpu"]}, TypeError, "resources is a dict, not list"),
        ({"max_jobs_per_worker": 0}, ValueError, "max_jobs_per_worker is 0"),
    ],
)
def test_options_are_checked_at_once(
    make: Make, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(helper).options(**options)


# --- arguments of clusters ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"job_status": lambda: None}, TypeError, "job_status is called as job_status\\(job\\)"),
        ({"cluster_status": lambda job: None}, TypeError, "cluster_status\\(status, node, job\\)"),
        ({"job_status": 5}, TypeError, "job_status is a function, not int"),
        ({"pulse_interval": 0}, ValueError, "pulse_interval is 0; it has to be 0.1 to 1000"),
        ({"ping_interval": 0.5}, ValueError, "ping_interval is 0.5; it has to be 1 to 1000"),
        ({"poll_interval": 1}, ValueError, "poll_interval is 1; it has to be 5 to 1000"),
        ({"reentrant": "yes"}, TypeError, "reentrant is True or False, not 'yes'"),
        ({"dispy_port": "9700"}, TypeError, "dispy_port is an int, not str"),
        ({"host": 5}, TypeError, "host is a str or a list of str"),
        ({"secret": b"x"}, TypeError, "secret is a str, not bytes"),
        ({"nodes": 5}, TypeError, "a node is a str"),
        ({"nodes": ["no.such.host.invalid"]}, ValueError, "none of 'no.such.host.invalid' can be"),
        ({"nodes": [{"hots": "x"}]}, ValueError, "hots"),
        ({"nodes": [("127.0.0.1", 99999)]}, ValueError, "99999; it has to be 1 to 65535"),
        ({"nodes": ["10.0.0.0/99"]}, ValueError, "is no network"),
    ],
)
def test_arguments_are_checked_at_construction(
    make: Make, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(helper, **options)


# --- live output -------------------------------------------------------------------------------
def test_live_output_shows_lines_while_the_job_runs(
    world: World,
) -> None:
    node = world.start_node("127.0.0.3")
    script = """
import dispy_trio as dispy, sys, time

def talk(n):
    print("first", n)
    time.sleep(60)

cluster = dispy.JobCluster(talk, nodes=[sys.argv[1]], live_output=True)
job = cluster.submit_job_id("live", 1)
job()
"""
    program = world.start(sys.executable, world.write("live.py", script), node.address)
    assert world.read_line(program) == f"[live@{node.address}] first 1\n"


def test_modules_of_a_zipapp_go_along(world: World) -> None:
    node = world.start_node("127.0.0.3")
    world.write("app/beside.py", "def double(n):\n    return 2 * n\n")
    world.write("app/package/__init__.py", "from .inner import above\n")
    world.write("app/package/inner.py", "def above(n):\n    return n + 1\n")
    world.write(
        "app/__main__.py",
        """
import sys
import beside, package
import dispy_trio as dispy

def compute(n):
    return package.above(beside.double(n))

with dispy.JobCluster(compute, nodes=[sys.argv[1]]) as cluster:
    job = cluster.submit(3)
    print(job(), job.exception)
""",
    )
    archive = world.tmp_path / "app.pyz"
    zipapp.create_archive(world.tmp_path / "app", archive)
    program = world.start(sys.executable, archive, node.address)
    out, err = program.communicate(timeout=LIMIT)
    assert (out, err) == ("7 None\n", "")
