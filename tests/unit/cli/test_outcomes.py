"""What is told of jobs that have ended, and in which order."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from dispy_trio.cli.outcomes import Report, Turns, make_report
from dispy_trio.cli.records import JsonDocument, JsonLines, RecordWriter
from dispy_trio.client.jobs import ProgramJob, SubmittedJob
from dispy_trio.client.live import LiveOutput
from dispy_trio.models import JobStatus, Outcome


def ended(
    number: int, value: Any, *, stdout: bytes = b"", stderr: bytes = b"", program: bool = False
) -> Any:
    """A job that has returned that."""
    job: Any = (ProgramJob if program else SubmittedJob)(number, b"", id=number)
    job.state, job.outcome, job.reply = JobStatus.Finished, Outcome.RETURNED, pickle.dumps(value)
    job.output, job.node_key = (stdout, stderr), "127.0.0.2:9701"
    return job


def terminated(number: int) -> Any:
    job: Any = SubmittedJob(number, b"", id=number)
    job.state, job.outcome, job.reply = JobStatus.Terminated, Outcome.REFUSED, b"it was ended"
    return job


def report_of(
    jobs: Sequence[Any],
    writer: RecordWriter | None = None,
    live: LiveOutput | None = None,
    *,
    again: bool = False,
) -> Report:
    given = [(f"a{job.number}",) for job in jobs]
    is_program = isinstance(jobs[0], ProgramJob)
    report = make_report(given, live, writer, is_program=is_program, again=again)
    report.jobs = jobs
    return report


def test_results_are_told_in_the_order_of_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [ended(1, 10), ended(2, "twenty"), ended(3, [30])]
    report = report_of(jobs)
    report.ended(jobs[2])
    assert capsys.readouterr().out == ""
    report.ended(jobs[0])
    assert capsys.readouterr().out == "10\n"
    report.ended(jobs[1])
    assert capsys.readouterr() == ("twenty\n[30]\n", "")


def test_what_failed_is_told_on_stderr_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [terminated(1), ended(2, 4)]
    report = report_of(jobs)
    for job in jobs:
        report.ended(job)
    assert capsys.readouterr() == ("4\n", "job 1 (a1): Terminated: it was ended\n")
    assert (report.done, report.failed) == (2, 1)


def test_a_result_in_no_encoding_is_printed_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = ended(1, "caf\udce9")
    report_of([job]).ended(job)
    assert capsys.readouterr().out == "caf\\udce9\n"


def test_a_result_in_an_encoding_that_stdout_lacks_is_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    job = ended(1, "café")
    report_of([job]).ended(job)
    assert written.getvalue() == b"caf\\xe9\n"


def test_what_functions_print_goes_to_stderr_with_the_job_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = ended(1, 5, stdout=b"heard\nand", stderr=b"complained\n")
    report_of([job]).ended(job)
    label = "[1@127.0.0.2:9701] "
    assert capsys.readouterr() == (
        "5\n",
        f"{label}heard\n{label}and\n{label}complained\n",
    )


def test_what_was_shown_while_jobs_ran_is_not_told_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = ended(1, 5, stdout=b"heard\n")
    live = LiveOutput()
    report = report_of([job], live=live)
    live.written(job, b"heard\n", b"")
    live.ended([job])
    report.ended(job)
    assert capsys.readouterr() == ("5\n", "[1@127.0.0.2:9701] heard\n")


def test_a_result_that_can_not_be_unpickled_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = ended(1, 5)
    job.reply = b"no pickle"
    report = report_of([job])
    report.ended(job)
    assert report.failed == 1
    assert capsys.readouterr().err.startswith("job 1 (a1): ")


# --- programs --------------------------------------------------------------------------------
def test_bytes_of_programs_go_to_stdout_as_they_are(capfdbinary: Any) -> None:
    job = ended(1, 0, stdout=b"\xff\x00data", stderr=b"trouble\n", program=True)
    report_of([job]).ended(job)
    assert capfdbinary.readouterr() == (b"\xff\x00data", b"[1@127.0.0.2:9701] trouble\n")


def test_a_program_that_fails_is_told_behind_its_output(capfdbinary: Any) -> None:
    job = ended(1, 3, stdout=b"some\n", program=True)
    report = report_of([job])
    report.ended(job)
    assert report.failed == 1
    assert capfdbinary.readouterr() == (b"some\n", b"job 1 (a1): exit status 3\n")


def test_programs_are_heard_one_after_the_other() -> None:
    written: list[bytes] = []
    turns = Turns(written.append)
    first, second, third = (ended(number, 0, program=True) for number in (1, 2, 3))
    turns.take(third, b"3a")
    turns.take(first, b"1a")
    turns.take(second, b"2a")
    assert written == [b"1a"]
    turns.take(first, b"1b")
    turns.next()
    assert written == [b"1a", b"1b", b"2a"]
    turns.take(second, b"2b")
    turns.take(third, b"3b")
    turns.next()
    turns.next()
    assert b"".join(written) == b"1a1b2a2b3a3b"


def test_a_program_s_output_comes_while_it_runs(capfdbinary: Any) -> None:
    jobs = [ended(number, 0, stdout=b"ab%d" % number, program=True) for number in (1, 2)]
    live = LiveOutput()
    report = report_of(jobs, live=live)
    live.written(jobs[1], b"ab", b"")
    live.written(jobs[0], b"ab", b"")
    assert capfdbinary.readouterr().out == b"ab"
    for job in reversed(jobs):
        live.ended([job])
        report.ended(job)
    assert capfdbinary.readouterr().out == b"1ab2"


def test_of_a_program_that_may_run_again_only_the_last_time_counts(capfdbinary: Any) -> None:
    job = ended(1, 0, stdout=b"whole", program=True)
    live = LiveOutput()
    report = report_of([job], live=live, again=True)
    live.written(job, b"in part", b"")
    live.restarted([job])
    live.written(job, b"who", b"")
    live.ended([job])
    report.ended(job)
    assert capfdbinary.readouterr().out == b"whole"


# --- JSON ------------------------------------------------------------------------------------
def records_of(text: str) -> list[Any]:
    return [(r["job"], r["status"], r["result"], r["error"]) for r in json.loads(text)]


def test_lines_come_as_jobs_end_and_a_document_in_the_order_of_the_arguments() -> None:
    jobs = [ended(1, 10), terminated(2), ended(3, 30)]
    expected = [
        (1, "Finished", 10, None),
        (2, "Terminated", None, "Terminated: it was ended"),
        (3, "Finished", 30, None),
    ]
    lines: list[str] = []
    report = report_of(jobs, JsonLines(lines.append))
    for job in reversed(jobs):
        report.ended(job)
    report.end()
    assert records_of(f"[{','.join(lines)}]") == expected[::-1]

    document: list[str] = []
    report = report_of(jobs, JsonDocument(document.append))
    for job in reversed(jobs):
        report.ended(job)
    report.end()
    assert records_of("\n".join(document)) == expected


def test_json_of_a_program_has_what_it_wrote(capfdbinary: Any) -> None:
    job = ended(1, 3, stdout=b"\xffdata", stderr=b"trouble", program=True)
    lines: list[str] = []
    report_of([job], JsonLines(lines.append)).ended(job)
    assert json.loads(lines[0]) == {
        "job": 1,
        "arguments": ["a1"],
        "status": "Finished",
        "result": 3,
        "error": "exit status 3",
        "stdout": "\\xffdata",
        "stderr": "trouble",
        "node": "127.0.0.2:9701",
        "start_time": job.start_time,
        "end_time": job.end_time,
    }
    assert capfdbinary.readouterr() == (b"", b"")
