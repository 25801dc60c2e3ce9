"""What one job asks, writes or is given is felt by no other, however odd or large it is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy_trio as dispy

from .conftest import LIMIT, Node, World

LARGE = 9 * 1024 * 1024
"""Bytes: twice what fits into a frame, and more."""


@pytest.fixture(scope="module")
def node(served: tuple[World, list[Node]]) -> Node:
    return served[1][0]


Make = Callable[..., Any]


@pytest.fixture
def make(
    served: tuple[World, list[Node]],
    node: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Make]:
    """Makes clusters on one node, beside an honest one; both are to be all right at the end."""
    world = served[0]
    monkeypatch.chdir(tmp_path)

    def make(computation: Callable[..., Any], setup_args: Any = (), **options: Any) -> Any:
        nodes = [dispy.NodeAllocate(node.address, setup_args=setup_args)]
        options.setdefault("secret_file", world.secret_file)
        cluster = dispy.JobCluster(computation, nodes=nodes, **options)
        opened.append(cluster)
        return cluster

    opened: list[Any] = []
    beside = make(abs)
    assert beside.submit(-1)() == 1
    yield make
    try:
        assert [job() for job in [beside.submit(-n) for n in range(20)]] == list(range(20))
        assert node.process.poll() is None, "the node lives"
    finally:
        for cluster in reversed(opened):
            cluster.close(timeout=LIMIT, terminate=True)


# --- what jobs ask ---------------------------------------------------------------------------------
@pytest.mark.parametrize("timeout", [-0.5, math.nan, -math.inf])
def test_a_timeout_that_is_none(make: Make, timeout: float) -> None:
    def ask(seconds: float) -> list[Any]:
        from dispy_trio import job

        Path("file").write_text("text")
        found: list[Any] = [
            dispy_provisional_result("x", timeout=seconds),  # type: ignore[name-defined]  # noqa: F821
            dispy_send_file("file", timeout=seconds),  # type: ignore[name-defined]  # noqa: F821
        ]
        for function in (job.provisional_result, job.send_file):
            try:
                function("file", timeout=seconds)
            except ValueError as exc:
                found.append(str(exc))
        return found

    cluster = make(ask)
    job = cluster.submit(timeout)
    text = f"timeout is {timeout}; it has to be a number of seconds, 0 or more"
    assert job() == [-1, -1, text, text], job.exception
    assert f"dispy_provisional_result: {text}" in str(job.stderr)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("provisional_result", {"timeout": -0.5}),
        ("provisional_result", {"timeout": math.nan}),
        ("provisional_result", {"timeout": 10**400}),
        ("send_file", {"path": "a", "timeout": -1}),
        ("send_file", {"path": "a\0b", "timeout": 1}),
        ("send_file", {"path": "d/" * 1000 + "f", "timeout": 1}),
        ("send_file", {"path": "", "timeout": 1}),
        ("keep_file", {"path": "a\0b"}),
        ("keep_file", {"path": "x" * 5000}),
        ("fetch_file", {"address": "nowhere:99999999999", "file": "0" * 32, "size": 1}),
        ("fetch_file", {"address": "127.0.0.1:1", "file": "\udce9", "size": -1}),
        ("progress", {"fraction": math.nan, "text": "t"}),
        ("progress", {"fraction": -1, "text": "t"}),
        ("progress", {"fraction": 10**400, "text": "t"}),
        ("no such thing", {"\udce9": "\udce9"}),
    ],
)
def test_whatever_a_job_asks_it_is_the_one_that_is_answered(
    make: Make, kind: str, body: dict[str, Any]
) -> None:
    """As a job may that does not use the functions for it."""

    def ask(kind: str, body: dict[str, Any]) -> str:
        from dispy_trio.child import calls

        try:
            calls.call(kind, body, b"data")
        except OSError as exc:
            return str(exc)
        return "done"

    cluster = make(ask)
    job = cluster.submit(kind, body)
    answer = job()
    assert answer not in (None, "done"), job.exception
    assert cluster.submit("log", {"level": 10**30, "text": "caf\udce9"})() == "done"


# --- texts and names -------------------------------------------------------------------------------
def test_progress_in_no_encoding_is_readable(make: Make) -> None:
    def tell() -> None:
        from dispy_trio import job

        job.progress(0.5, "caf\udce9" + "x" * 10_000)

    job = make(tell).submit()
    job()
    fraction, text = job.progress
    assert fraction == 0.5
    assert text.startswith(r"caf\udce9")


def test_an_error_of_setup_in_no_encoding_is_readable(make: Make) -> None:
    def setup() -> int:
        raise ValueError("caf\udce9" + "x" * 10_000_000 + "end of it")

    job = make(abs, setup=setup).submit(1)
    assert job() is None
    assert "end of it" in job.exception


@pytest.mark.parametrize("letter", ["\U0001f40d", "\udce9", "\0", "x"])
def test_an_error_of_setup_of_any_length(make: Make, letter: str) -> None:
    def setup() -> int:
        raise ValueError("begin" + letter * 100_000 + "end of it")

    job = make(abs, setup=setup).submit(1)
    assert job() is None
    assert "end of it" in job.exception


@pytest.mark.parametrize("letter", ["\U0001f40d", "\udce9", "\0", "x"])
def test_a_job_may_log_whatever_it_likes(make: Make, letter: str) -> None:
    def tell(text: str) -> str:
        dispynode_logger.info(text)  # type: ignore[name-defined]  # noqa: F821
        return "done"

    job = make(tell).submit(letter * 100_000)
    assert job() == "done", job.exception


def test_an_error_of_a_job_in_no_encoding_is_readable(make: Make) -> None:
    def fail() -> None:
        raise ValueError("caf\udce9")

    job = make(fail).submit()
    assert job() is None
    assert "caf" in job.exception


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.txt", "é" * 127, "n" * 240, "n" * 255, b"\xff" * 240],
    ids=["latin-1", "254 bytes of UTF-8", "240 bytes", "255 bytes", "240 bytes of nothing"],
)
def test_every_legal_file_name_travels_both_ways(make: Make, name: str | bytes) -> None:
    path = os.fsdecode(name)

    def send_back(path: str) -> tuple[str, int]:
        text = Path(path).read_text()
        Path(path).unlink()
        Path(path).write_text(text + " and back")
        return text, dispy_send_file(path)  # type: ignore[name-defined]  # noqa: F821

    Path(path).write_text("there")
    cluster = make(send_back)
    job = cluster.submit(path, dispy_job_depends=[path])
    assert job() == ("there", 0), (job.exception, job.stderr)
    assert Path(path).read_text() == "there and back"


def test_a_dependency_of_all_jobs_in_no_encoding(make: Make) -> None:
    path = os.fsdecode(b"sub\xe9/caf\xe9.txt")
    Path(path).parent.mkdir()
    Path(path).write_text("there")
    cluster = make(lambda path: Path(path).read_text(), depends=[path], dest_path="d\udce9st")
    job = cluster.submit(path)
    assert job() == "there", job.exception


# --- what is of a user's size ----------------------------------------------------------------------
def test_large_arguments_of_setup(make: Make) -> None:
    def setup(data: bytes) -> int:
        global length
        length = len(data)
        return 0

    def tell() -> int:
        return int(length)

    cluster = make(tell, setup=setup, setup_args=(bytes(LARGE),))
    job = cluster.submit()
    assert job() == LARGE, job.exception


def test_a_large_provisional_result(make: Make, tmp_path: Path) -> None:
    seen: list[int] = []
    turnstile = str(tmp_path / "seen")
    os.mkfifo(turnstile)

    def tell(size: int, turnstile: str) -> int:
        sent = dispy_provisional_result(b"x" * size)  # type: ignore[name-defined]  # noqa: F821
        Path(turnstile).read_bytes()  # It runs on when the callback has seen it.
        return int(sent)

    def status(job: Any) -> None:
        if job.status == dispy.JobStatus.ProvisionalResult:
            seen.append(len(job.result))
            Path(turnstile).write_bytes(b"")

    cluster = make(tell, job_status=status)
    sizes = [1, 256 * 1024 - 100, 256 * 1024 + 1, LARGE]
    for size in sizes:
        assert cluster.submit(size, turnstile)() == 0
    assert seen == sizes


def test_a_computation_with_a_name_of_any_length(make: Make) -> None:
    def work() -> int:
        return 7

    work.__name__ = "caf\udce9" + "n" * LARGE
    assert make(work).submit()() == 7


def test_a_job_that_raises_a_long_text_ends_and_the_next_one_runs(make: Make) -> None:
    def fail(size: int) -> int:
        if size:
            raise ValueError("x" * size)
        return 7

    cluster = make(fail)
    jobs = [cluster.submit(size) for size in (0, LARGE, 0)]
    assert [job() for job in jobs] == [7, None, 7]
    assert jobs[1].status == dispy.JobStatus.Terminated
