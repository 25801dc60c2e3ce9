"""Failed jobs that nobody has looked at, told of once."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.unseen import Unseen
from dispy_trio.models import JobStatus, Outcome


def failed(number: int, text: str = "division by zero") -> SubmittedJob[int]:
    reply = pickle.dumps(("ZeroDivisionError", text, f"Traceback\n{text}", None))
    return SubmittedJob(
        number,
        None,
        state=JobStatus.Terminated,
        outcome=Outcome.RAISED,
        reply=reply,
        id=f"job {number}",
    )


def told(unseen: Unseen, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    caplog.set_level(logging.WARNING)
    unseen.tell("compute", 100)
    return [record.getMessage() for record in caplog.records]


def test_they_are_counted_the_first_is_named_and_it_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unseen = Unseen()
    jobs = [failed(number) for number in (9, 7, 8)]
    unseen.add(jobs)
    first = "first: job 'job 7', ZeroDivisionError: division by zero"
    assert told(unseen, caplog) == [
        f"cluster compute: 3 of 100 jobs failed; {first}; see job.exception"
    ]
    assert told(unseen, caplog) == []


LOOKS: list[Callable[[SubmittedJob[int]], object]] = [
    lambda job: job.status,
    lambda job: job.exception,
    lambda job: job.reason(),
    repr,
]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("early", [True, False])
def test_whoever_looks_at_one_knows_it(
    look: Callable[[SubmittedJob[int]], object], early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Perhaps even before it was counted: another thread may be that fast."""
    unseen = Unseen()
    jobs = [failed(1), failed(2)]
    if early:
        look(jobs[0])
    unseen.add(jobs)
    if not early:
        look(jobs[0])
    (line,) = told(unseen, caplog)
    assert line.startswith("cluster compute: 1 of 100 jobs failed; first: job 'job 2', ")


@pytest.mark.parametrize("look", [lambda job: job.result, lambda job: job(), lambda job: job.ended])
def test_whoever_reads_only_a_result_of_none_is_told(
    look: Callable[[SubmittedJob[int]], object], caplog: pytest.LogCaptureFixture
) -> None:
    unseen = Unseen()
    job = failed(1)
    unseen.add([job])
    look(job)
    assert len(told(unseen, caplog)) == 1


def test_those_that_nobody_keeps_count_as_well(caplog: pytest.LogCaptureFixture) -> None:
    unseen = Unseen()
    unseen.add([failed(1)])
    unseen.add([failed(number) for number in range(2, 1001)])
    (line,) = told(unseen, caplog)
    assert line.startswith("cluster compute: 1000 of 100 jobs failed; first: job 'job 1', ")


def test_what_did_not_fail_and_what_callbacks_hear_of_is_not_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unseen = Unseen()
    cancelled: SubmittedJob[int] = SubmittedJob(1, None, state=JobStatus.Cancelled)
    unseen.add([cancelled])
    interrupted = failed(3)
    interrupted.outcome, interrupted.reply = Outcome.INTERRUPTED, b"cancelled while it ran"
    unseen.add([interrupted])
    unseen.wanted = False
    unseen.add([failed(2)])
    assert told(unseen, caplog) == []


def test_a_long_error_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    unseen = Unseen()
    jobs = [failed(1, "several\nlines " + 10**6 * "x")]
    unseen.add(jobs)
    (line,) = told(unseen, caplog)
    assert len(line) < 3000
    assert "\n" not in line


class Trap:
    """Is felt when it is unpickled, or shown."""

    felt = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _spring, ()

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _spring() -> None:
    Trap.felt = True


@pytest.mark.parametrize(
    "reply", [b"garbage", pickle.dumps(5), pickle.dumps((Trap(), "", "", None)), None]
)
def test_what_a_node_makes_up_for_an_error_is_neither_felt_nor_run(
    reply: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    unseen = Unseen()
    job = failed(1)
    job.reply = reply
    unseen.add([job])
    (line,) = told(unseen, caplog)
    assert "first: job 'job 1', its error can't be read: " in line
    assert "its error can't be read: " in repr(job)
    assert not Trap.felt


def test_an_id_whose_repr_raises_is_no_hindrance(caplog: pytest.LogCaptureFixture) -> None:
    unseen = Unseen()
    job = failed(1)
    job.id = Trap()
    unseen.add([job])
    (line,) = told(unseen, caplog)
    assert "<Trap instance at 0x" in line
    assert line.endswith(", ZeroDivisionError: division by zero; see job.exception")


def test_a_job_that_was_cancelled_while_it_ran_has_not_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unseen = Unseen()
    job = failed(1, "cancelled while it ran")
    job.cancelling = True
    unseen.add([job])
    assert told(unseen, caplog) == []
