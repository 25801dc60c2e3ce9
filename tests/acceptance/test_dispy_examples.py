"""The example programs of dispy 4.15.2, from its own archive.

Nothing is changed in them but the import, an address and how long they sleep. The archive comes
from the package index by pip, is checked by its hash and kept in pytest's cache. Where it is not
there yet and can't be fetched, these tests fail and say so.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import pytest
from attrs import field, frozen

from .conftest import LIMIT, World

NAME = "dispy-4.15.2"
HASH = "sha256:8e88bf23673a8269ba34887ebcf4a7c8a51016fbd27f898fefef57dd2257258c"
FOLDER = f"{NAME}/py3.7/examples/"
FETCHING = 180
"""Seconds that pip may take."""

WARDEN_AND_TEMPLATE = 2
"""Processes that a node has for a program's computation, beside one for each job that runs."""

HOST = r"127\.0\.0\.[23]"
NUMBER = r"\d+\.\d+"


@frozen
class Example:
    """How a program is run, and what it prints."""

    changes: Mapping[str, str]
    """What is put in the place of each text that says how long it sleeps."""
    prints: str
    """A pattern for some of its lines."""
    times: int
    """How many they are."""
    arguments: Sequence[str] = field(default=())


EXAMPLES = {
    # A thousand jobs, four at a time, in 6 s: the program leaves itself a twentieth of that to
    # submit the next fifty. When it is late it waits for ever, under dispy as well.
    "bounded_submit.py": Example(
        {"random.uniform(3, 7)": "random.uniform(0.015, 0.035)"}, rf"{HOST}\b.*", 2
    ),
    "delegate.py": Example(
        {"random.randint(5, 10)": "random.uniform(0.01, 0.02)"},
        rf"\('\S+: func[12]', {NUMBER}\) executed job \d at {NUMBER} with {NUMBER}"
        rf"|\S+: func[12] executed job \d at {NUMBER} with {NUMBER}",
        4,
    ),
    "httpd_example.py": Example({"random.randint(5, 20)": "random.uniform(0.01, 0.02)"}, "", 0),
    "node_shvars.py": Example({}, r"\d+: \d+", 10),
    "node_update.py": Example(
        {"time.sleep(5)": "time.sleep(0.05)"},
        rf"Node {HOST} finished with \w+ \w+ +\d+ \d\d:\d\d:\d\d \d{{4}}",
        2,
        ("node_update_script.py", "2"),
    ),
    "obj_instances.py": Example(
        {"random.uniform(1, 3)": "random.uniform(0.01, 0.03)"}, r"(\d): (0\.0\d) / \1: \2", 10
    ),
    "provisional_results.py": Example(
        {"time.sleep(0.1)": "time.sleep(0.001)"}, rf"best value from \S+/\d+: {NUMBER}.*", 4
    ),
    "sample.py": Example(
        {"random.randint(5,20)": "random.uniform(0.01, 0.02)"},
        rf"\S+ \({HOST}\) executed job \d+ at {NUMBER} with {NUMBER}",
        10,
    ),
}
"""Those of which one has to know no more than what they print."""

SCRIPT_SLEEPS = ("time.sleep(random.uniform(2, 4))", "time.sleep(random.uniform(0.02, 0.04))")
"""In node_update_script.py, which node_update.py runs on nodes."""

OTHERS = {
    "job_scheduler.py",  # These have a test of their own.
    "longrun.py",
    "node_setup.py",
    "replace_inmem.py",
    "sshportfw.py",
    "node_update_script.py",  # Is run by node_update.py.
}


@pytest.fixture(scope="module")
def archive(pytestconfig: pytest.Config) -> dict[str, str]:
    """The texts of dispy's examples, by their names."""
    kept = pytestconfig.cache.mkdir("dispy")
    path = kept / f"{NAME}.tar.gz"
    if not path.is_file():
        fetch(kept)
    assert "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() == HASH, path
    texts = {}
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.startswith(FOLDER) else None
            if content is not None:
                texts[PurePath(member.name).name] = content.read().decode()
    return texts


def fetch(folder: Path) -> None:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{NAME.replace('-', '==')} --hash={HASH}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), "--requirement", str(wanted)],
        capture_output=True,
        text=True,
        timeout=FETCHING,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(
            f"dispy's own examples are in the archive of {NAME}, and pip can't fetch it. Run these"
            f" tests once with a network: it is kept in {folder}.\n{done.stderr}",
            pytrace=False,
        )


@frozen
class Bench:
    """Two nodes, and a folder with all of the examples."""

    world: World
    folder: Path

    def port(self, name: str, changes: Mapping[str, str]) -> Path:
        """Change the import and what is given, wherever it stands."""
        path = self.folder / name
        program, imports = re.subn(
            r"^(\s*import .*?)\bdispy\b(?!\.)",
            r"\1dispy_trio as dispy",
            path.read_text(),
            flags=re.MULTILINE,
        )
        assert imports == 1
        program = program.replace("import dispy.httpd", "import dispy_trio.httpd")
        for old, new in changes.items():
            assert old in program
            program = program.replace(old, new)
        path.write_text(program)
        return path

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        return self.world.start(*command, cwd=self.folder, stdin=subprocess.PIPE)

    def sums(self, name: str) -> dict[str, str]:
        """What the algorithms of hashlib make of a file, by their names."""
        content = (self.folder / name).read_bytes()
        fixed = [a for a in hashlib.algorithms_guaranteed if not a.startswith("shake")]
        return {a: hashlib.new(a, content).hexdigest() for a in fixed}


@pytest.fixture
def bench(nodes: World, archive: dict[str, str], tmp_path: Path) -> Bench:
    for name, text in archive.items():
        (tmp_path / name).write_text(text.replace(*SCRIPT_SLEEPS))
    return Bench(nodes, tmp_path)


def finish(process: subprocess.Popen[str], typed: str = "") -> tuple[str, str]:
    """Type something and wait for its end; return what it printed since, and what was told."""
    out, err = process.communicate(typed, timeout=LIMIT)
    assert process.returncode == 0, err
    return out, err


def test_every_example_of_the_archive_is_run(archive: dict[str, str]) -> None:
    assert {*EXAMPLES, *OTHERS} == set(archive)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_of_dispy_prints_what_it_should(bench: Bench, name: str) -> None:
    example = EXAMPLES[name]
    program = bench.port(name, example.changes)
    out, err = finish(bench.start(sys.executable, program, *example.arguments))
    found = [line for line in out.splitlines() if re.fullmatch(example.prints, line)]
    assert len(found) >= example.times, out
    # Jobs are counted from 1 and this program's table from 0; it is the same with dispy.
    told = ["KeyError: 1000"] if name == "bounded_submit.py" else []
    assert re.findall(r"^\w*(?:Error|Exception)\b.*", err, re.MULTILINE) == told, err


def test_its_scheduler_sums_files_until_it_is_told_to_quit(bench: Bench) -> None:
    sums = {}
    for number in range(9):
        name = f"data{number:03}"
        (bench.folder / name).write_bytes(bytes([number]) * 100_000)
        sums[name] = bench.sums(name)["sha1"]
    program = bench.start(
        sys.executable, bench.port("job_scheduler.py", {"time.sleep(5)": "time.sleep(0.02)"})
    )
    printed = []
    while len(printed) < 2 + len(sums):
        printed.append(bench.world.read_line(program))
    _, err = finish(program, "quit\n")
    for name, value in sums.items():
        assert f"sha1sum for {name}: {value}\n" in printed
    assert "Traceback" not in err


def test_its_long_running_jobs_are_cancelled_with_their_best(bench: Bench) -> None:
    changes = {"time.sleep(1)": "time.sleep(0.01)", "time.sleep(2)": "time.sleep(0.02)"}
    program = bench.port("longrun.py", changes)
    others = bench.world.marked()
    # A job may find a good value at once, by which the program interrupts itself wherever it is.
    uninterrupted = ("sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable)
    process = bench.start(*uninterrupted, program)
    # Four jobs are to run: it has to have submitted all of them before it cancels them.
    processes = 1 + 2 * (WARDEN_AND_TEMPLATE + 2)
    bench.world.wait_until(lambda: len({*bench.world.marked()} - {*others}) == processes)
    out, err = finish(process, "quit\n")
    found = [
        float(text) for text in re.findall(rf"^job at {HOST} computed (.*)$", out, re.MULTILINE)
    ]
    assert f"best estimate: {max(found, default=0)}\n" in out
    assert "Traceback" not in err


def test_its_nodes_are_set_up_with_a_file_each(bench: Bench) -> None:
    changes = {"time.sleep(5)": "time.sleep(0.05)", "time.sleep(2)": "time.sleep(0.02)"}
    out, err = finish(bench.start(sys.executable, bench.port("node_setup.py", changes)))
    done = re.findall(rf'^{HOST}: "(.*)" (\w+): (\w+)$', out, re.MULTILINE)
    assert len(done) == 10
    for name, algorithm, value in done:
        assert bench.sums(name)[algorithm] == value
    assert "Traceback" not in err


def test_its_data_in_memory_is_replaced(bench: Bench) -> None:
    changes = {"random.uniform(2, 5)": "random.uniform(0.02, 0.05)"}
    out, err = finish(bench.start(sys.executable, bench.port("replace_inmem.py", changes)))
    done = re.findall(
        rf"^job (\d+) finished by {HOST}, (\w+) of (\S+) is (\w+)$", out, re.MULTILINE
    )
    assert sorted(int(number) for number, *_ in done) == list(range(1, 13))
    for _, algorithm, name, value in done:
        assert bench.sums(name)[algorithm] == value
    first, second = (
        {name for n, _, name, _ in done if (int(n) <= 6) is early} for early in (True, False)
    )
    assert not first & second, "each setup had a file of its own"
    assert "Traceback" not in err


def test_its_jobs_through_a_forwarded_port(bench: Bench) -> None:
    (address, _) = os.environ["DISPY_TRIO_NODES"].split(",")
    changes = {"time.sleep(n)": "time.sleep(n / 100)", "['54.172.166.83']": f"['{address}']"}
    out, err = finish(bench.start(sys.executable, bench.port("sshportfw.py", changes)))
    assert out.splitlines()[:6] == [f"result: {n}" for n in range(1, 7)]
    assert "Traceback" not in err
