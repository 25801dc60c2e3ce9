"""The command `dispy-trio run`: functions and programs, their results and their failures."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LIMIT, World

RUN = (sys.executable, "-m", "dispy_trio", "run")

FUNCTIONS = """
import sys

def square(text):
    return int(text) ** 2

def shout(text):
    return text.upper()

def tell(text):
    print("heard", text)
    print("complained of", text, file=sys.stderr)
    return len(text)

def name():
    return "nobody"
"""

PROGRAM = """
import sys
print("arguments", sys.argv[1:])
if "bad" in sys.argv:
    print("trouble", file=sys.stderr)
    sys.exit(3)
"""


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Wait for its end; its status, its lines and what it complained of."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out.splitlines(), err


@pytest.fixture
def functions(world: World) -> Path:
    return world.write("functions.py", FUNCTIONS)


@pytest.fixture
def program(world: World) -> Path:
    return world.write("program.py", PROGRAM)


def test_results_come_in_the_order_of_the_arguments(world: World, functions: Path) -> None:
    numbers = [str(n) for n in range(20)]
    status, lines, err = finish(world.start(*RUN, f"{functions}:square", *numbers))
    assert (status, err) == (0, "")
    assert lines == [str(n * n) for n in range(20)]


def test_a_function_on_a_node_far_from_its_file(world: World, functions: Path) -> None:
    node = world.start_node("127.0.0.2")
    options = ("--node", node.address, "--status", "-a", "a b", "-a", "c")
    status, lines, err = finish(world.start(*RUN, *options, f"{functions.name}:shout"))
    assert status == 0, err
    assert lines == ["A B", "C"]
    assert any(node.address.partition(":")[0] in line for line in err.splitlines())


def test_a_function_without_arguments_is_called_once(world: World, functions: Path) -> None:
    assert finish(world.start(*RUN, f"{functions}:name")) == (0, ["nobody"], "")


def test_lines_of_standard_input_are_arguments(world: World, functions: Path) -> None:
    process = subprocess.Popen(
        [*RUN, f"{functions}:shout", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=world.environment,
        cwd=world.tmp_path,
    )
    world.processes.append(process)
    out, err = process.communicate("one line\ntwo\n", timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["ONE LINE", "TWO"]


def test_a_job_that_raises_is_told_and_the_others_go_on(world: World, functions: Path) -> None:
    status, lines, err = finish(world.start(*RUN, f"{functions}:square", "2", "x", "3"))
    assert status == 1
    assert lines == ["4", "9"]
    assert "job 2 (x): Terminated: " in err
    assert "ValueError" in err


def without_labels(text: str) -> list[str]:
    """Lines without the job and the node at the beginning, which each has to have."""
    found = [re.fullmatch(r"\[(\d+)@127\.0\.0\.1:\d+\] (.*)", line) for line in text.splitlines()]
    assert all(found), text
    return [f"{match[1]} {match[2]}" for match in found if match is not None]


@pytest.mark.parametrize("live", ["--live", "--no-live"])
def test_results_are_on_stdout_and_what_jobs_print_is_on_stderr(
    world: World, functions: Path, live: str
) -> None:
    status, lines, err = finish(world.start(*RUN, live, f"{functions}:tell", "me", "you"))
    assert (status, lines) == (0, ["2", "3"])
    expected = ["1 heard me", "1 complained of me", "2 heard you", "2 complained of you"]
    told = without_labels(err)
    assert (sorted(told) if live == "--live" else told) == (
        sorted(expected) if live == "--live" else expected
    )


def test_programs_are_run_with_their_words(world: World, program: Path) -> None:
    options = ("--no-live", "-a", '--scene 1 "a b"', "-a", "2")
    status, lines, err = finish(world.start(*RUN, *options, program))
    assert (status, err) == (0, "")
    assert lines == ["arguments ['--scene', '1', 'a b']", "arguments ['2']"]


def test_a_program_that_fails_is_told(world: World, program: Path) -> None:
    status, lines, err = finish(world.start(*RUN, "--no-live", program, "good", "bad"))
    assert status == 1
    assert lines == ["arguments ['good']", "arguments ['bad']"]
    trouble, failure = err.splitlines()
    assert without_labels(trouble) == ["2 trouble"]
    assert failure == "job 2 (bad): exit status 3"


def test_a_program_of_the_path_finds_the_files_it_needs(world: World) -> None:
    world.write("words.txt", "some words\n")
    command = (*RUN, "--no-live", "-f", "words.txt", "cat", "words.txt")
    status, lines, err = finish(world.start(*command))
    assert (status, err) == (0, "")
    assert lines == ["some words"]


def test_a_program_s_output_is_data_and_comes_while_it_runs(world: World) -> None:
    fifo = world.tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"print('first', flush=True)\nopen({str(fifo)!r}).read()\nprint('last')\n"
    process = world.start(*RUN, world.write("slow.py", script))
    assert world.read_line(process) == "first\n"
    fifo.write_text("go on")
    status, lines, err = finish(process)
    assert (status, lines, err) == (0, ["last"], "")


@pytest.mark.parametrize("command", [("yes",), ("--no-live", "sleep", "60")])
def test_it_ends_with_whoever_reads_it(world: World, command: tuple[str, ...]) -> None:
    process = world.start(*RUN, *command)
    assert process.stdout is not None
    if command == ("yes",):
        assert world.read_line(process) == "y\n"
    process.stdout.close()
    assert process.wait(LIMIT) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    world.wait_until_gone()


def test_output_that_could_not_be_written_is_a_failure(world: World) -> None:
    command = shlex.join((*RUN, "seq", "100000"))
    status, _, err = finish(world.start("sh", "-c", f"{command} > /dev/full"))
    assert status == 1
    assert "what jobs print can't be shown: [Errno 28]" in err.splitlines()[-1]
    assert "Traceback" not in err
    world.wait_until_gone()


@pytest.mark.parametrize(
    "command",
    [
        ["run", "FUNCTIONS:square", "1"],
        ["run", "--json", "FUNCTIONS:square", "1"],
        ["secret"],
        ["node", "--port", "0"],
    ],
    ids=" ".join,
)
def test_results_that_can_not_be_written_are_one_line(
    world: World, functions: Path, command: list[str]
) -> None:
    words = [word.replace("FUNCTIONS", str(functions)) for word in command]
    line = shlex.join([sys.executable, "-m", "dispy_trio", *words])
    status, _, err = finish(world.start("sh", "-c", f"{line} > /dev/full"))
    full = "dispy-trio: stdout can't be written: [Errno 28] No space left on device\n"
    assert (status, err) == (1, full)
    world.wait_until_gone()


def test_a_program_runs_also_when_there_is_no_stdout(world: World) -> None:
    line = f"{shlex.join(RUN)} --no-live seq 3 >&-"
    assert finish(world.start("sh", "-c", line)) == (0, [], "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_results_of_any_kind_are_shown(world: World, options: list[str]) -> None:
    world.write(
        "odd.py",
        """
class Odd:
    def __repr__(self):
        raise OSError("mine")

def make(kind):
    return Odd() if kind == "odd" else 10 ** 5000
""",
    )
    status, lines, err = finish(world.start(*RUN, *options, "odd.py:make", "odd", "large"))
    assert (status, err) == (0, "")
    odd, large = (
        [each["result"] for each in json.loads("".join(lines), parse_int=str)] if options else lines
    )
    assert odd == "<Odd that can't be shown: OSError>"
    assert str(large).strip("0") == "1"
    assert len(str(large)) == 5001


def test_a_job_that_takes_too_long_is_terminated(world: World) -> None:
    status, lines, err = finish(world.start(*RUN, "--timeout", "0.5", "sleep", "60"))
    assert (status, lines) == (1, [])
    assert "job 1 (60): Terminated: " in err


def test_ctrl_c_leaves_nothing_behind(world: World, functions: Path) -> None:
    node = world.start_node("127.0.0.2")
    script = world.write("slow.py", "import time\nprint('runs', flush=True)\ntime.sleep(60)\n")
    process = world.start(*RUN, "-n", node.address, script)
    assert "runs" in world.read_line(process)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert "Traceback" not in err
    node.process.terminate()
    world.wait_until_gone()


def test_ctrl_c_while_no_node_is_there_ends_at_once(world: World, functions: Path) -> None:
    process = world.start(*RUN, "-n", "127.0.0.1:1", f"{functions}:square", "1")
    assert process.stderr is not None
    # It has said that it tries, and would for half a minute.
    assert "not usable" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    status, lines, err = finish(process)
    assert (status, lines) == (130, [])
    assert "Traceback" not in err
    world.wait_until_gone()


# --- JSON ------------------------------------------------------------------------------------
def test_json_of_functions_and_of_programs(world: World, functions: Path, program: Path) -> None:
    status, lines, err = finish(
        world.start(*RUN, "--json", "--no-live", f"{functions}:tell", "me", "you")
    )
    assert (status, err) == (0, "")
    document = json.loads("\n".join(lines))
    assert [record["result"] for record in document] == [2, 3]
    assert [record["stdout"] for record in document] == ["heard me\n", "heard you\n"]

    status, lines, err = finish(world.start(*RUN, "--jsonl", "--no-live", program, "good", "bad"))
    assert (status, err) == (1, "")
    records = sorted(map(json.loads, lines), key=lambda record: int(record["job"]))
    assert [record["result"] for record in records] == [0, 3]
    assert records[1]["error"] == "exit status 3"
    assert records[1]["stderr"] == "trouble\n"


# --- mistakes --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run -n no.such.invalid cat", "--node: no.such.invalid: "),
        ("run --secret-file short-secret cat", "the secret in short-secret is too short"),
        ("run --certfile short-secret cat", "can't use the certificate short-secret: "),
        ("mapreduce --secret-file short-secret count.py count.py", "the secret in short-secret is"),
        ("mapreduce --no-such-option", "No such option: --no-such-option"),
        ("node --port-file gone/port --port 0", "--port-file: can't write gone/port"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_status_2(world: World, line: str, said: str) -> None:
    world.write("short-secret", "short").chmod(0o600)
    world.write("count.py", "def mapper(line):\n    yield line, 1\n\nreducer = sum\n")
    command = (sys.executable, "-m", "dispy_trio", *line.split())
    status, lines, err = finish(world.start(*command))
    assert (status, lines) == (2, []), err
    assert err.startswith(f"dispy-trio: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "mapreduce"])
def test_no_usable_node_is_status_3(world: World, command: str) -> None:
    program = world.write(
        "count.py", "def mapper(line):\n    return [(line, 1)]\n\nreducer = sum\n"
    )
    what = f"{program}:mapper" if command == "run" else program
    options = ("-n", "127.0.0.1:1", "--connect-timeout", "0.5")
    words = (sys.executable, "-m", "dispy_trio", command, *options, what, program)
    status, lines, err = finish(world.start(*words))
    assert (status, lines) == (3, [])
    assert err.splitlines()[-1] == (
        "dispy-trio: no node is usable after 0.5 s: 127.0.0.1:1: Connection refused"
    )
    assert "Traceback" not in err
