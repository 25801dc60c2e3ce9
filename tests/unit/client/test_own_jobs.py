"""Jobs that programs make themselves, beside those that clusters make."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import dispy_trio as dispy
from dispy_trio.client.jobs import SubmittedJob


@pytest.mark.parametrize("kwargs", [{}, (), {"x": 1}])
def test_a_program_may_make_a_job_and_fill_it_in(kwargs: Any) -> None:
    job: Any = dispy.DispyJob(None, (1, 2), kwargs)
    assert isinstance(job, dispy.DispyJob)
    assert (job.status, job.result, job.exception, job.stdout) == (5, None, None, None)
    assert (job.start_time, job.end_time, job.ip_addr, job.host) == (None, None, None, None)
    assert job.submit_time > 0
    job.result = {"a": 1}
    job.exception = exception = ValueError("no")
    job.stdout, job.stderr = "out", "err"
    job.status = dispy.DispyJob.Finished
    job.start_time, job.end_time, job.ip_addr = 1.0, 2.0, "10.0.0.1"
    assert (job.result, job.exception, job.stdout, job.stderr) == (
        {"a": 1},
        exception,
        "out",
        "err",
    )
    assert (job.status, job.start_time, job.end_time) == (11, 1.0, 2.0)
    assert job.ip_addr == job.host == "10.0.0.1"
    job.host = "10.0.0.2"
    assert job.ip_addr == job.host == "10.0.0.2"
    job.result = None
    assert job.result is None


def test_its_id_is_the_given_one_or_the_next_number() -> None:
    first: Any = dispy.DispyJob(None, (), {})
    second: Any = dispy.DispyJob(None, (), {})
    assert second.id == first.id + 1
    assert dispy.DispyJob("mine", (), {}).id == "mine"
    second.id = {"row": 7}
    assert second.id == {"row": 7}


def test_it_is_over_when_the_program_sets_finish() -> None:
    job: Any = dispy.DispyJob(None, (), {})
    assert not job.ended
    assert not job.wait(0)
    results: list[object] = []
    waiting = threading.Thread(target=lambda: results.append(job(clear=True)))
    waiting.start()
    job.result = 17
    job.finish.set()
    waiting.join()
    assert results == [17]
    assert not job.finish.is_set()


def test_it_is_shown_in_a_line_whatever_it_was_given() -> None:
    job: Any = dispy.DispyJob("a<b", ("x" * 1000,), {})
    job.result, job.status = "y" * 1000, 17
    assert repr(job) == "<DispyJob 'a<b' of the program's own>"
    assert job._repr_html_().startswith("&lt;DispyJob")


def test_it_has_no_attributes_but_those_of_dispy() -> None:
    job: Any = dispy.DispyJob(None, (), {})
    with pytest.raises(AttributeError):
        job.colour = "red"


def test_a_job_of_a_cluster_is_filled_in_by_the_cluster_alone() -> None:
    job: Any = SubmittedJob(1, b"", id=7)
    assert isinstance(job, dispy.DispyJob)
    with pytest.raises(AttributeError, match="read-only"):
        job.status = 11
    with pytest.raises(AttributeError, match="None alone"):
        job.result = 17
