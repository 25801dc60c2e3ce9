"""One suite over all engines, and what only real processes can show."""

import operator
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

import dispy_trio
from dispy_mapreduce import (
    InlineEngine,
    InputError,
    MapperFailed,
    OutputError,
    ReducerFailed,
    TaskLost,
    block_mapper,
    map_reduce,
    map_reduce_async,
)
from dispy_mapreduce.errors import EngineMisused
from dispy_mapreduce.program import run_program

TEXT = "".join(f"line {number} of {number % 7}\r\n" for number in range(5000)) + "\nlast ünd öut"


def words(line):
    for word in line.split():
        yield word, 1


def lengths(line):
    for word in line.split():
        yield word, len(word)


@block_mapper(text=True)
def count_block(block):
    return Counter(block.split())


def mean(key, values):
    listed = list(values)
    return (key, sum(listed) / len(listed), len(listed))


def by_thread(**options):
    return map_reduce(**options)


def by_trio(**options):
    return trio.run(partial(map_reduce_async, **options))


RUNS = {
    "inline": partial(by_thread, cluster=InlineEngine(2)),
    "cluster": by_thread,
    "trio": by_trio,
    "factory": partial(by_thread, cluster=partial(dispy_trio.JobCluster, cpus=1)),
}

CASES = {
    "gathered": {"mapper": words, "reducer": sum},
    "partitioned": {"mapper": words, "reducer": sum, "partitions": 3},
    "maximum": {"mapper": lengths, "reducer": max, "split_size": 7000},
    "operator": {"mapper": words, "reducer": operator.add, "partitions": 2},
    "blocks of text": {"mapper": count_block, "reducer": sum},
    "any function": {"mapper": lengths, "reducer": mean},
    "combined": {"mapper": words, "reducer": lambda values: sum(values), "combiner": sum},
    "spilled": {"mapper": lengths, "reducer": mean, "memory": 1 << 20, "split_size": 40_000},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "input.txt"
    path.write_text(TEXT, newline="")
    return path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("run", RUNS)
def test_all_engines_give_the_same(text, run, case):
    """Pair for pair, order included, as the plainest of them."""
    options = CASES[case]
    expected = list(map_reduce(**options, inputs=text, cluster=InlineEngine()))
    result = RUNS[run](**options, inputs=text)
    assert sorted(result) == sorted(expected)
    assert len(expected) == len(set(TEXT.split()))
    for number in range(result.partitions):
        keys = [key for key, _ in result.partition(number)]
        assert keys == sorted(keys)


@pytest.mark.parametrize("run", RUNS)
def test_part_files_hold_the_same_bytes(text, tmp_path, run):
    """Whoever writes them."""
    paths = RUNS[run](mapper=words, reducer=sum, inputs=text, partitions=3, output=tmp_path / "out")
    oracle = map_reduce(
        words, sum, text, partitions=3, output=tmp_path / "oracle", cluster=InlineEngine()
    )
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in oracle]
    assert sorted(tmp_path.joinpath("out").iterdir()) == paths
    lines = [line.split("\t") for path in paths for line in path.read_text().splitlines()]
    assert {word: int(count) for word, count in lines} == Counter(TEXT.split())


@pytest.mark.parametrize("run", RUNS)
def test_python_objects_as_inputs(run):
    """From an iterator of which nobody knows the length."""
    result = RUNS[run](
        mapper=lambda number: [(number % 3, number)], reducer=sum, inputs=iter(range(1000))
    )
    assert list(result) == [(key, sum(range(key, 1000, 3))) for key in range(3)]


@pytest.mark.parametrize("run", RUNS)
def test_a_failing_mapper_stops_the_run_and_names_the_line(text, run):
    """With its own exception as the cause."""

    def fails(line):
        if line == "line 4321 of 2":
            raise LookupError("nothing for it")
        yield line, 1

    with pytest.raises(MapperFailed) as caught:
        RUNS[run](mapper=fails, reducer=sum, inputs=text, split_size=10_000)
    assert str(caught.value) == f"the mapper failed at {text}, line 4322: 'line 4321 of 2'"
    assert repr(caught.value.__cause__) == "LookupError('nothing for it')"
    assert "nothing for it" in str(caught.value.__cause__.__cause__)


@pytest.mark.parametrize("run", RUNS)
def test_a_failing_reducer_leaves_no_part_files(text, tmp_path, run):
    """All of them or none."""

    def fails(key, values):
        if key == "last":
            raise ValueError("not the last")
        return 1

    with pytest.raises(ReducerFailed, match="the reducer failed at key 'last'"):
        RUNS[run](mapper=words, reducer=fails, inputs=text, partitions=4, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_started_for_bad_inputs_or_outputs(text, tmp_path, run, monkeypatch):
    """They are named at once."""

    def start(*_args, **_kwargs):
        raise AssertionError("a cluster was started")

    monkeypatch.setattr("dispy_mapreduce.engines.cluster.ClusterEngine.open", start)
    monkeypatch.setattr("dispy_mapreduce.api.open_cluster_engine", start)
    with pytest.raises(InputError, match="missing"):
        RUNS[run](mapper=words, reducer=sum, inputs=tmp_path / "missing")
    (tmp_path / "part-00000").touch()
    with pytest.raises(OutputError, match="holds part files already"):
        RUNS[run](mapper=words, reducer=sum, inputs=text, output=tmp_path)


@pytest.mark.parametrize("run", ["cluster", "trio"])
def test_a_mapper_that_kills_its_process_ends_the_run(text, run):
    """The text tells how it died."""

    def dies(line):
        os.kill(os.getpid(), 9)

    with pytest.raises(TaskLost, match="SIGKILL"):
        RUNS[run](mapper=dies, reducer=sum, inputs=text)


@pytest.mark.parametrize("run", ["cluster", "trio"])
def test_nothing_is_left_running_when_a_mapper_fails(tmp_path, run):
    """One record fails while another is at work for ever: its process is gone after the call."""
    address = str(tmp_path / "s")

    def hold_or_fail(number):
        line = socket.socket(socket.AF_UNIX)
        line.connect(address)
        line.send(bytes([number]))
        line.recv(1)
        raise ValueError(f"told to: {number}")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        lines = {}

        def fail_the_first():
            for _ in range(2):
                line, _ = listener.accept()
                line.settimeout(20)
                lines[line.recv(1)[0]] = line
            lines[1].send(b"x")

        teller = threading.Thread(target=fail_the_first)
        teller.start()
        with pytest.raises(MapperFailed, match="record 0: 1") as caught:
            RUNS[run](mapper=hold_or_fail, reducer=sum, inputs=[1, 2])
        teller.join()
        assert str(caught.value.__cause__) == "told to: 1"
        for line in lines.values():
            with line:
                assert line.recv(1) == b""  # nobody has the other end any more


async def test_cancelling_stops_the_processes(tmp_path):
    """Leaving the scope is enough."""
    address = str(tmp_path / "s")
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(address)
    listener.listen()

    def hold(number):
        line = socket.socket(socket.AF_UNIX)
        line.connect(address)
        line.recv(1)
        yield number, 1

    with listener, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(map_reduce_async, hold, sum, [1]))
            line, _ = await listener.accept()
            nursery.cancel_scope.cancel()
        with line:
            assert await line.recv(1) == b""


async def test_a_cancelled_program_leaves_a_source_that_blocks_at_once():
    release, released = threading.Event(), []

    def source():
        yield "a line"
        trio.from_thread.run_sync(scope.cancel)
        released.append(release.wait(30))

    with trio.CancelScope() as scope:
        await map_reduce_async(words, sum, source())
    assert scope.cancelled_caught
    assert not released
    release.set()


async def test_a_trio_program_goes_on_meanwhile(text):
    """The coroutine never blocks for long."""
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await trio.sleep(0.01)
            ticks += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        result = await map_reduce_async(words, sum, text)
        nursery.cancel_scope.cancel()
    assert result.to_dict() == Counter(TEXT.split())
    assert ticks > 3


async def test_engines_of_blocking_programs_are_refused_by_the_coroutine(text):
    """They would block it."""
    with pytest.raises(EngineMisused):
        await map_reduce_async(words, sum, text, cluster=InlineEngine())


def test_a_program_file(text, tmp_path):
    """What the command line runs: its functions need not be on the nodes."""
    program = tmp_path / "counting_program.py"
    program.write_text(
        "import re\nWORD = re.compile(r'\\S+')\n"
        "def mapper(line):\n    for word in WORD.findall(line):\n        yield word, 1\n"
        "def reducer(key, values):\n    return sum(values)\ncombiner = reducer\n"
    )
    result = run_program(str(program), [str(text)])
    assert result.to_dict() == Counter(TEXT.split())
    paths = run_program(str(program), [str(text)], output=str(tmp_path / "out"), partitions=1)
    assert [Path(path).name for path in paths] == ["part-00000"]


@pytest.fixture
def two_nodes(tmp_path):
    """Two nodes of one slot each, as processes, with the secret they share with the client."""
    secret = tmp_path / "secret"
    secret.write_text("a secret of this test and nothing else\n")
    secret.chmod(0o600)
    command = [sys.executable, "-m", "dispy_trio", "node", "--port", "0", "--cpus", "1"]
    nodes = []
    with ExitStack() as stack:
        for name in ("one", "two"):
            port_file = tmp_path / f"port-{name}"
            options = ["--name", name, "--port-file", port_file, "--secret-file", secret]
            node = subprocess.Popen(
                [*command, *options, "--dest-path-prefix", tmp_path / name],
                stdin=subprocess.DEVNULL,
            )
            stack.callback(node.wait)
            stack.callback(node.kill)
            nodes.append((node, port_file))
        deadline = time.monotonic() + 20
        while not all(port_file.exists() for _, port_file in nodes):
            assert time.monotonic() < deadline, "the nodes do not come up"
            assert all(node.poll() is None for node, _ in nodes)
            time.sleep(0.02)
        addresses = [f"127.0.0.1:{port_file.read_text().strip()}" for _, port_file in nodes]
        yield secret, addresses, [node for node, _ in nodes]


def test_blocks_move_from_node_to_node(text, two_nodes, tmp_path):
    """Each reduce task reads what map tasks on both nodes have left."""
    secret, addresses, _ = two_nodes
    cluster = partial(
        dispy_trio.JobCluster, nodes=addresses, secret_file=str(secret), reentrant=True
    )

    seen = tmp_path / "seen"
    seen.mkdir()

    def with_node(line):
        name = os.getcwd()
        (seen / name.replace("/", "-")).touch()
        # Whichever node is there first leaves some work to the other.
        deadline = time.monotonic() + 20
        while len(os.listdir(seen)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        for word in line.split():
            yield word, name

    def all_values(key, values):
        return Counter(values)

    result = map_reduce(
        with_node, all_values, text, partitions=4, split_size=5000, cluster=cluster
    ).to_dict()
    assert {word: sum(counts.values()) for word, counts in result.items()} == Counter(TEXT.split())
    assert len(result["line"]) == 2


def test_a_lost_node_s_blocks_are_made_again_on_another(text, two_nodes, tmp_path):
    """It dies after its map tasks, before the reduce tasks have read their blocks."""
    secret, addresses, nodes = two_nodes
    cluster = partial(
        dispy_trio.JobCluster, nodes=addresses, secret_file=str(secret), reentrant=True
    )
    victim = nodes[0].pid
    killed = tmp_path / "killed"

    def total(key, values):
        if not killed.exists():
            killed.touch()
            os.kill(victim, 9)
        return sum(values)

    result = map_reduce(
        words, total, text, partitions=6, split_size=5000, cluster=cluster
    ).to_dict()
    assert killed.exists()
    assert result == Counter(TEXT.split())
