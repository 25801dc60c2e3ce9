"""map_reduce over real nodes, and from the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from .conftest import LIMIT, World

PROGRAM = """
def mapper(line):
    for word in line.split():
        yield word, 1

def reducer(key, values):
    return sum(values)
"""


def text(world: World) -> tuple[Path, Counter[str]]:
    words = [f"word{n % 97}" for n in range(20_000)]
    lines = [" ".join(words[i : i + 7]) for i in range(0, len(words), 7)]
    path = world.write("text.txt", "\n".join(lines) + "\n")
    return path, Counter(words)


def test_reducers_fetch_blocks_from_the_other_node(world: World) -> None:
    path, expected = text(world)
    nodes = [world.start_node(f"127.0.0.{i}", "--cpus", "1").address for i in (2, 3)]
    script = (
        PROGRAM
        + f"""
from dispy_mapreduce import map_reduce
result = map_reduce(
    mapper, reducer, {str(path)!r}, nodes={nodes!r}, partitions=4, split_size=10_000
)
for key, value in sorted(result.to_dict().items()):
    print(key, value)
"""
    )
    printed = dict(line.split() for line in world.run(script).splitlines())
    assert printed == {key: str(value) for key, value in expected.items()}


def test_the_command_prints_pairs(world: World) -> None:
    path, expected = text(world)
    program = world.write("count.py", PROGRAM)
    command = world.start(sys.executable, "-m", "dispy_trio", "mapreduce", program, path)
    out, err = command.communicate(timeout=LIMIT)
    assert command.returncode == 0, err
    printed = dict(line.split("\t") for line in out.splitlines())
    assert printed == {key: str(value) for key, value in expected.items()}


def test_the_command_of_the_readme(world: World) -> None:
    top = Path(__file__).parents[2]
    (line,) = re.findall(r"^dispy-trio mapreduce .*$", (top / "README.md").read_text(), re.M)
    command = world.start(sys.executable, "-m", "dispy_trio", *line.split()[1:], cwd=top)
    out, err = command.communicate(timeout=LIMIT)
    assert command.returncode == 0, err
    assert "dispy\t" in out


def test_a_missing_input_is_named_before_anything_starts(world: World) -> None:
    program = world.write("count.py", PROGRAM)
    command = world.start(sys.executable, "-m", "dispy_trio", "mapreduce", program, "gone.txt")
    _, err = command.communicate(timeout=LIMIT)
    assert command.returncode == 2
    assert "gone.txt" in err
    assert "Traceback" not in err


def test_a_mapper_that_raises_is_told_with_file_and_line(world: World) -> None:
    path, _ = text(world)
    with path.open("a") as file:
        file.write("poison\n")
    lines = len(path.read_text().splitlines())
    program = world.write(
        "count.py",
        "def mapper(line):\n    if line == 'poison':\n        raise ValueError('bad record')\n"
        "    yield line, 1\n\ndef reducer(key, values):\n    return 0\n",
    )
    command = world.start(sys.executable, "-m", "dispy_trio", "mapreduce", program, path)
    _, err = command.communicate(timeout=LIMIT)
    assert command.returncode == 1
    assert str(path) in err
    assert str(lines) in err
    assert "bad record" in err
    assert "in mapper" in err
    world.wait_until_gone()


def test_standard_input_is_an_input_and_results_are_json(world: World) -> None:
    program = world.write(
        "count.py",
        "def mapper(line):\n    print('saw', line)\n    yield line, 1\n\nreducer = sum\n",
    )
    extra = world.write("extra.txt", "two\n")
    command = subprocess.Popen(
        [sys.executable, "-m", "dispy_trio", "mapreduce", "--jsonl", program, "-", extra],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=world.environment,
        cwd=world.tmp_path,
    )
    world.processes.append(command)
    out, err = command.communicate("one\ntwo\n", timeout=LIMIT)
    assert command.returncode == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    assert sorted((record["key"], record["value"]) for record in records) == [
        ("one", 1),
        ("two", 2),
    ]
    assert sorted(re.sub(r"^\[\d+@\S+\] ", "", line) for line in err.splitlines()) == [
        "saw one",
        "saw two",
        "saw two",
    ]
