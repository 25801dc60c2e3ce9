"""What `run` takes from the command line, without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from dispy_trio.cli.reach import ClusterOptions
from dispy_trio.cli.run import RunOptions, arguments_of_jobs, load_computation, run_jobs
from dispy_trio.errors import LocalError


@pytest.fixture(autouse=True)
def modules_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loading a file changes what can be imported."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        module = sys.modules.pop(name)
        if name in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(module)


def jobs(options: RunOptions, split: bool = False, lines: str = "") -> list[tuple[str, ...]]:
    return list(arguments_of_jobs(options, split=split, lines=lines.splitlines(keepends=True)))


def test_each_argument_string_is_a_job() -> None:
    options = RunOptions("x", argument_strings=['--scene 1 "a b"', "2"])
    assert jobs(options) == [('--scene 1 "a b"',), ("2",)]
    assert jobs(options, split=True) == [("--scene", "1", "a b"), ("2",)]


def test_each_argument_is_a_job_and_is_not_split() -> None:
    assert jobs(RunOptions("x", arguments=["a b", "c"]), split=True) == [("a b",), ("c",)]


def test_a_dash_stands_for_the_lines_of_standard_input() -> None:
    options = RunOptions("x", arguments=["first", "-", "last"])
    assert jobs(options, split=True, lines="a b\r\n\nc") == [
        ("first",),
        ("a b",),
        ("",),
        ("c",),
        ("last",),
    ]
    assert jobs(RunOptions("x", arguments=["-"])) == []


def test_without_arguments_there_is_one_job() -> None:
    assert jobs(RunOptions("x")) == [()]


def test_an_open_quotation_is_told() -> None:
    with pytest.raises(LocalError, match="--args '\"a': No closing quotation"):
        jobs(RunOptions("x", argument_strings=['"a']), split=True)


def test_a_function_is_taken_from_its_file_and_travels_with_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("FACTOR = 3\n")
    file = tmp_path / "computation_of_a_test.py"
    file.write_text("from beside_it import FACTOR\n\ndef compute(n):\n    return int(n) * FACTOR\n")
    function = load_computation(f"{file}:compute")
    assert callable(function)
    assert function("2") == 6
    assert "computation_of_a_test" in cloudpickle.list_registry_pickle_by_value()


def test_a_file_does_not_stand_in_for_a_module_of_its_name(tmp_path: Path) -> None:
    import json

    file = tmp_path / "json.py"
    file.write_text("def compute():\n    return __name__\n")
    function = load_computation(f"{file}:compute")
    assert callable(function)
    assert function() != "json"
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gone.py:compute", r"gone\.py is not there"),
        ("{0}/some.py:gone", r"some\.py does not define gone"),
        ("{0}/some.py:NUMBER", r"NUMBER in .*some\.py is no function"),
        ("{0}/bad.py:compute", r"bad\.py can't be imported: ZeroDivisionError"),
        ("no-such-program", "no-such-program is neither a program nor FILE.py:FUNCTION"),
        ("{0}/no/such/program", "is neither a program"),
    ],
)
def test_a_computation_that_can_t_be_had_is_named(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "some.py").write_text("NUMBER = 1\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(LocalError, match=said):
        load_computation(given.format(tmp_path))


def test_programs_are_paths_or_names_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.touch()
    assert load_computation(str(program)) == str(program)
    assert load_computation("sh") == "sh"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RunOptions("x", scheduler_node="a"), "--scheduler-node: comes with the shared scheduler"),
        (RunOptions("x", retries=-1), "--retries: must be at least 0, not -1"),
        (RunOptions("x", cluster=ClusterOptions(timeout=0)), "--timeout: must be more than 0"),
    ],
)
def test_a_bad_option_is_told_before_anything_starts(options: RunOptions, said: str) -> None:
    with pytest.raises(LocalError, match=said):
        run_jobs(options)


def test_a_module_that_exits_when_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(LocalError, match=r"exits\.py can't be imported: SystemExit: 3"):
        load_computation(f"{tmp_path}/exits.py:compute")
