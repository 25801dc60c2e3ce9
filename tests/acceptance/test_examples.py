"""The programs in `examples`, run as a user would, and what they print.

Two nodes serve all of them, one after the other. A test that ends a node has nodes of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import LIMIT, World

EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST, SECOND = "127.0.0.2", "127.0.0.3"
COLLATZ = {6: 8, 7: 16, 27: 111, 97: 118, 703: 170, 871: 178, 6171: 261}

TABLE = {
    "canonical.py": [
        r"job 0 took \d+\.\d{3} s on \S+, 127\.0\.0\.[23]",
        r"job 9 took \d+\.\d{3} s on \S+, 127\.0\.0\.[23]",
        r"pi is about 3\.14159",
        r"Node .*CPUs .*Jobs .*",
        r"127\.0\.0\.[23]:\d+ .*",
        r".*speedup.*",
    ],
    "cluster_creation.py": [
        r"whatever there is: 127\.0\.0\.\d.*",
        r"one processor of each: 127\.0\.0\.\d.*",
        r"host and port: 127\.0\.0\.2",
        r"host, port and processors: 127\.0\.0\.2",
        r"the same as a dict: 127\.0\.0\.2",
        r"the same as an object: 127\.0\.0\.2",
    ],
    "collatz.py": [],  # Takes arguments: has a test of its own.
    "command_line.py": [],  # The order is not fixed: has a test of its own.
    "different_computations.py": [
        r"mean\(3, 5, 10\) is 6\.0",
        r"greatest_common_divisor\(1071, 462\) is 21",
        r"reverse\('stressed',\) is desserts",
        r"mean\(1, 2\) is 1\.5",
    ],
    "distributing_objects.py": [
        r"0 to 1000: 168 primes",
        r"1000 to 2000: 135 primes",
        r"4000 to 5000: 119 primes",
        r"669 primes in all",
    ],
    "efficient_submission.py": [r"500 jobs, at most \d+ at a time, results sum up to 624750"],
    "in_memory.py": [
        r"9592 primes below 100000",
        r"127\.0\.0\.\d: jobs 1 to (\d+) of \1 used one sieve",
    ],
    "job_scheduler.py": [
        r"127\.0\.0\.[23] did \d+ jobs",
        r"the squares of 1 to 24 sum up to 4900",
    ],
    "long_running.py": [r"on the way: 3\.142", r"cancelled, with a result: 3\.142"],
    "mapreduce.py": [r"\S+ \d+"] * 5,
    "mapreduce_two_clusters.py": [r"\S+ \d+"] * 5,
    "port_forwarding.py": [r"0 cubed is 0, says \S+", r"7 cubed is 343, says \S+"],
    "python_script.py": [
        r"6: exit status 0, 6: 8 steps",
        r"27: exit status 0, 27: 111 steps",
        r"97: exit status 0, 97: 118 steps",
        r"many: exit status 2, .*invalid int value: 'many'",
    ],
    "reentrant.py": [r"job 1 was done by 127\.0\.0\.[23]", r"all of them were done"],
    "replace_in_memory.py": [],  # The order is not fixed: has a test of its own.
    "sending_files.py": [
        r"times-2\.csv: 1000 lines, the last is 1000,2000",
        r"times-3\.csv: 1000 lines, the last is 1000,3000",
        r"times-7\.csv: 1000 lines, the last is 1000,7000",
    ],
    "status_notifications.py": [],  # The order is not fixed: has a test of its own.
    "update_nodes.py": [
        r"127\.0\.0\.[23]: exit status 0, Linux",
        r"127\.0\.0\.[23]: exit status 0, Linux",
    ],
    "updating_globals.py": [
        r"1 to 1000: improved \d+ times, on 127\.0\.0\.[23]",
        r"9001 to 10000: improved \d+ times, on 127\.0\.0\.[23]",
        r"the longest chain below 10000 starts at 6171 and has 261 steps",
    ],
    "wordcount.py": [r"\S+ \d+"] * 10,
}
"""For each example lines that it prints, in this order, perhaps with others between them."""


def run(world: World, name: str, *args: str) -> str:
    """Run an example to its end; return what it printed."""
    program = world.start(sys.executable, EXAMPLES / name, *args)
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    return out


def assert_lines(out: str, patterns: list[str]) -> None:
    """Each pattern is the whole of a line, below the line of the one before."""
    lines = iter(out.splitlines())
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern!r} not in\n{out}"


def test_every_example_is_tested() -> None:
    assert sorted(TABLE) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_an_example_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    docstring = (EXAMPLES / name).read_text().split('"""')[1]
    if name != "wordcount.py":  # The README says how to run this one.
        assert f"python examples/{name}" in docstring


@pytest.mark.parametrize("name", [name for name, lines in sorted(TABLE.items()) if lines])
def test_an_example_prints_what_it_should(nodes: World, name: str) -> None:
    assert_lines(run(nodes, name), TABLE[name])


def test_the_plain_program_runs_by_itself(world: World) -> None:
    assert run(world, "collatz.py", "27", "97") == "27: 111 steps\n97: 118 steps\n"


def test_the_canonical_program_runs_without_nodes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPY_TRIO_NODES", raising=False)
    out = run(world, "canonical.py")
    assert_lines(out, [r"job 0 .*127\.0\.0\.1", r"job 9 .*127\.0\.0\.1", r"pi is about 3\.14159"])
    world.wait_until_gone()


def test_no_more_jobs_than_the_bound_are_under_way(nodes: World) -> None:
    most = re.search(r"at most (\d+) at a time", run(nodes, "efficient_submission.py"))
    assert most is not None
    assert int(most[1]) <= 20


def test_every_set_of_data_is_used_by_one_node(nodes: World) -> None:
    lines = run(nodes, "replace_in_memory.py").splitlines()
    found = [
        re.fullmatch(r"(\w+) on (127\.0\.0\.[23]): \('(\w+)', '(\w)'\)", line) for line in lines
    ]
    assert all(found), lines
    matches = [match for match in found if match is not None]
    names = ["amber", "birch", "cedar", "dune", "ember"]
    assert Counter(match[1] for match in matches) == dict.fromkeys(names, 2)
    for name in names:
        of_name = [match for match in matches if match[1] == name]
        assert len({match[2] for match in of_name}) == 1
        assert {match[3] for match in of_name} == {"".join(sorted(name))}
        assert {match[4] for match in of_name} == set(sorted(name)[:2])


def test_each_step_of_a_job_is_told_in_order(nodes: World) -> None:
    lines = run(nodes, "status_notifications.py").splitlines()
    assert lines[-1] == "closed"
    told = [re.sub(r" on 127\.0\.0\.[23]$", "", line) for line in lines]
    for number, (half, result) in {1: (3, 10), 2: (3, None), 3: (6, 21)}.items():
        end = "terminated" if result is None else "finished"
        of_job = [line for line in told if f"job {number} " in line]
        expected = [
            f"cluster_status: job {number} is created",
            f"cluster_status: job {number} is running",
            f"job_status: job {number} is provisional result, result {half}",
            f"cluster_status: job {number} is provisional result",
            f"job_status: job {number} is {end}, result {result}",
            f"cluster_status: job {number} is {end}",
        ]
        if result is None:
            expected.insert(5, f"job_status: job {number} raised ValueError: five is not liked")
        assert of_job == expected
    assert any(" is ready, with 2 processors" in line for line in lines)
    for host in (FIRST, SECOND):
        of_node = [line for line in lines if line.startswith(f"cluster_status: node {host} ")]
        # A node may come too late for three short jobs; then there is nothing to tell of it.
        assert not of_node or of_node == [
            f"cluster_status: node {host} is ready, with 2 processors",
            f"cluster_status: node {host} is closed",
        ]


def test_a_program_with_arguments_runs_on_every_node(nodes: World) -> None:
    lines = run(nodes, "update_nodes.py", "echo", "updated", "it").splitlines()
    assert sorted(lines) == [f"{host}: exit status 0, updated it" for host in (FIRST, SECOND)]


def test_the_walk_through_the_command_line_shows_what_jobs_print(nodes: World) -> None:
    commands = run(nodes, "command_line.py").split("$ dispy-trio run ")[1:]
    assert len(commands) == 4
    for command, numbers in zip(
        commands, [(27, 97), (6, 7, 871), (27, 97), (703, 6171)], strict=True
    ):
        told = re.findall(r"(\d+): (\d+) steps", command)
        assert sorted((int(n), int(steps)) for n, steps in told) == [
            (n, COLLATZ[n]) for n in sorted(numbers)
        ]


def test_both_forms_of_map_and_reduce_print_the_same(nodes: World) -> None:
    assert run(nodes, "mapreduce.py") == run(nodes, "mapreduce_two_clusters.py")


def test_a_forwarded_port_is_all_a_client_needs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPY_TRIO_NODES", raising=False)
    ports = [world.start_node().address.rpartition(":")[2] for _ in range(2)]
    out = run(world, "port_forwarding.py", *ports)
    assert [line.partition(",")[0] for line in out.splitlines()] == [
        f"{n} cubed is {n**3}" for n in range(8)
    ]


def test_the_jobs_of_a_dead_node_are_done_by_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [world.start_node(host, "--cpus", "2") for host in (FIRST, SECOND)]
    monkeypatch.setenv("DISPY_TRIO_NODES", ",".join(node.address for node in started))
    program = world.start(sys.executable, EXAMPLES / "reentrant.py")
    lines = []
    for line in read_lines(program):
        lines.append(line)
        if len(lines) == 1:
            # Each node has two jobs at a time of the twenty: this one dies with some of them.
            started[1].process.kill()
    _, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    assert lines[-1] == "all of them were done\n"
    done = [re.fullmatch(r"job (\d+) was done by (\S+)\n", line) for line in lines[:-1]]
    assert [match and int(match[1]) for match in done] == list(range(1, 21))
    assert done[-1] is not None
    assert done[-1][2] == FIRST


def read_lines(program: subprocess.Popen[str]) -> Iterator[str]:
    """What it prints, line by line to its end; it is killed when it takes too long."""
    assert program.stdout is not None
    limit = threading.Timer(LIMIT, program.kill)
    limit.start()
    try:
        yield from program.stdout
    finally:
        limit.cancel()
