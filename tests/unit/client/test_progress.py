"""What a bar tells, and where there is none."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest

from dispy_trio.client import progress
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.nodes import describe_place
from dispy_trio.client.progress import Counter, Standing, count_of, describe_counts, show_bar
from dispy_trio.models import JobStatus


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ({}, "no slots yet"),
        ({"127.0.0.1:9701": 1}, "1 slot on this machine"),
        ({"127.0.0.1:9701": 2, "[::1]:9701": 2}, "4 slots on this machine"),
        ({"10.0.0.7:9701": 4}, "4 slots on 10.0.0.7:9701"),
        ({"10.0.0.7:9701": 4, "127.0.0.1:9701": 2}, "6 slots on 2 nodes"),
        ({"node7:9701": 4}, "4 slots on node7:9701"),
    ],
)
def test_where_jobs_run_is_told_in_words(slots: dict[str, int], said: str) -> None:
    assert describe_place(slots) == said


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (Standing(0, None), "0"),
        (Standing(3, 10), "3/10"),
        (Standing(3, 10, 1), "3/10, 1 failed"),
    ],
)
def test_how_far_it_is_is_told_in_words(standing: Standing, said: str) -> None:
    assert describe_counts(standing) == said


def test_the_number_of_calls_is_known_when_all_lengths_are() -> None:
    assert count_of(([1, 2, 3], range(2))) == 2
    assert count_of(([1, 2, 3], iter(range(2)))) is None
    assert count_of(()) is None


def job_with(status: JobStatus) -> Any:
    job: Any = SubmittedJob(1, b"")
    job.state = status
    return job


def test_failures_are_counted_and_taken_back_when_a_node_returns_with_the_result() -> None:
    counter = Counter()
    finished, abandoned, cancelled = map(
        job_with, (JobStatus.Finished, JobStatus.Abandoned, JobStatus.Cancelled)
    )
    counter.ended([finished, abandoned, cancelled], again=False)
    assert (counter.done, counter.failed) == (3, 1)
    abandoned.state = JobStatus.Finished
    counter.ended([abandoned], again=True)
    assert (counter.done, counter.failed) == (3, 0)


def test_the_library_is_imported_without_what_draws() -> None:
    code = """
import sys
import dispy_trio
import dispy_trio.client.engine
dispy_trio.JobCluster
print([name for name in ("rich", "dispy_trio.client.progress") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def standing() -> Standing:
    return Standing(3, 10, 1, "2 slots on this machine")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def put_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Have a terminal as stderr; in the test itself, because a fixture's is not pytest's any more."""
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_bar_tells_how_far_it_is_and_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_terminal(monkeypatch)
    with show_bar("compute", standing):
        pass
    shown = terminal.getvalue()
    for text in ("compute", "3/10, 1 failed", "2 slots on this machine"):
        assert text in shown


def test_there_is_one_bar_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_terminal(monkeypatch)
    with show_bar("outer", standing), show_bar("inner", standing):
        pass
    assert "outer" in terminal.getvalue()
    assert "inner" not in terminal.getvalue()
    with show_bar("next", standing):
        pass
    assert "next" in terminal.getvalue()


def test_what_is_printed_to_a_pipe_meanwhile_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = put_terminal(monkeypatch)
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    with show_bar("compute", standing):
        sys.stdout.write("[bold]data[/] \x1b[1m")
        sys.stderr.write("a remark\n")
    assert pipe.getvalue() == "[bold]data[/] \x1b[1m"
    assert "a remark\n" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_there_is_no_bar_on_a_pipe(
    stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object) -> None:
        raise AssertionError("it was drawn")

    monkeypatch.setattr(progress, "_draw", never)
    monkeypatch.setattr(sys, "stderr", stream)
    with show_bar("compute", standing):
        pass
    assert stream is None or stream.getvalue() == ""
