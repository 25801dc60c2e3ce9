"""What users may set of a job: `id`, and `result`, `stdout` and `stderr` to None."""

from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import pytest

from dispy_trio.client.handles import JobHandle
from dispy_trio.client.jobs import ProgramJob, SubmittedJob, UserJob, snapshot
from dispy_trio.core.jobs import ENDED
from dispy_trio.models import JobExtras, JobStatus, Outcome

KINDS = (SubmittedJob, ProgramJob, JobHandle)
DROPPED = ("result", "stdout", "stderr")
READ_ONLY = [
    "status",
    "submit_time",
    "start_time",
    "end_time",
    "node",
    "ended",
    "progress",
    "exception",
    "ip_addr",
    "host",
]


class Value:
    """Something that tells when its memory is given back."""


class Memory(bytearray):
    """A buffer that does."""


def finished(kind: Any = SubmittedJob, value: object = 17) -> Any:
    job = kind(1, None, started_at=1.0, ended_at=2.0)
    job.outcome, job.reply = Outcome.RETURNED, pickle.dumps(value)
    job.output = (b"out\n", b"err\n")
    job.state = JobStatus.Finished
    return job


def written(job: UserJob[Any], text: str) -> Any:
    return text.encode() if isinstance(job, ProgramJob) else text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read_before", [False, True])
def test_setting_the_result_to_none_drops_it(kind: Any, read_before: bool) -> None:
    job = finished(kind)
    if read_before:
        assert job.result == 17
    job.result = None
    assert (job.result, job.status) == (None, JobStatus.Finished)
    assert job.reply is None
    assert job.stdout == written(job, "out\n")


@pytest.mark.parametrize("kind", KINDS)
def test_setting_stdout_or_stderr_to_none_drops_that_and_no_more(kind: Any) -> None:
    job = finished(kind)
    job.stdout = None
    assert (job.stdout, job.stderr, job.result) == (None, written(job, "err\n"), 17)
    job.stderr = None
    assert (job.stdout, job.stderr, job.result) == (None, None, 17)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", KINDS)
def test_output_that_never_was_can_be_dropped(kind: Any, name: str) -> None:
    job = finished(kind)
    job.output = None
    assert getattr(job, name) == written(job, "")
    setattr(job, name, None)
    assert getattr(job, name) is None


def test_a_result_that_was_read_gives_its_memory_back() -> None:
    job = finished(value=Value())
    value = weakref.ref(job.result)
    assert value() is not None
    job.result = None
    gc.collect()
    assert value() is None


def test_memory_of_a_large_result_is_held_neither_by_it_nor_by_what_came_with_it() -> None:
    memory = Memory(100)
    gone = weakref.ref(memory)
    job = finished()
    view = memoryview(memory)
    job.reply, job.output = [view[:90]], (view[90:95], view[95:])
    del memory, view
    job.result = None
    gc.collect()
    assert gone() is None
    assert (job.stdout, job.stderr) == ("\0" * 5, "\0" * 5)


def test_memory_of_large_output_is_given_back() -> None:
    memory = Memory(100)
    gone = weakref.ref(memory)
    job = finished()
    job.output = (memoryview(memory)[:50], memoryview(memory)[50:])
    del memory
    job.stderr = None
    gc.collect()
    assert gone() is None
    assert job.stdout == "\0" * 50


def test_what_a_failed_job_raised_is_told_after_its_result_was_dropped() -> None:
    job: SubmittedJob[Any] = SubmittedJob(1, None, JobStatus.Terminated, outcome=Outcome.DIED)
    job.reply, job.output = b"it died", (b"", b"Fatal\n")
    job.result = None
    job.stderr = None
    assert (job.result, job.exception) == (None, "it died")
    assert "it died" in str(job.reason())


@pytest.mark.parametrize("status", [s for s in JobStatus if s not in ENDED])
def test_what_is_still_to_come_is_not_dropped(status: JobStatus) -> None:
    job: SubmittedJob[Any] = SubmittedJob(1, b"arguments", status)
    for name in DROPPED:
        setattr(job, name, None)
        assert getattr(job, name) is None
    job.reply, job.output, job.state = pickle.dumps(17), (b"out", b"err"), JobStatus.Finished
    assert (job.result, job.stdout, job.stderr) == (17, "out", "err")


def test_a_provisional_result_can_be_dropped_and_the_next_one_comes() -> None:
    job: SubmittedJob[Any] = SubmittedJob(1, None, JobStatus.ProvisionalResult, extras=JobExtras())
    assert job.extras is not None
    job.extras.provisional = pickle.dumps(1)
    assert job.result == 1
    job.result = None
    assert job.result is None
    job.extras.provisional = pickle.dumps(2)
    assert job.result == 2


@pytest.mark.parametrize("kind", [SubmittedJob, ProgramJob])
def test_what_a_callback_drops_is_dropped_from_the_job(kind: Any) -> None:
    job = finished(kind)
    given = snapshot(job, JobStatus.Finished)
    assert given.result == job.result == 17
    for name in DROPPED:
        setattr(given, name, None)
        assert getattr(given, name) is None
        assert getattr(job, name) is None
    assert job.reply is None


def test_a_callback_that_comes_late_drops_no_newer_result() -> None:
    job: SubmittedJob[Any] = SubmittedJob(1, None, JobStatus.ProvisionalResult, extras=JobExtras())
    assert job.extras is not None
    job.extras.provisional = pickle.dumps(1)
    first = snapshot(job, JobStatus.ProvisionalResult)
    job.extras.provisional = pickle.dumps(2)
    second = snapshot(job, JobStatus.ProvisionalResult)
    first.result = None
    assert (first.result, second.result, job.result) == (None, 2, 2)
    job.reply, job.state = pickle.dumps(17), JobStatus.Finished
    second.result = None
    assert (second.result, job.result) == (None, 17)


@pytest.mark.parametrize("name", DROPPED)
def test_what_can_be_dropped_can_be_set_to_nothing_else(name: str) -> None:
    job = finished()
    before = getattr(job, name)
    with pytest.raises(AttributeError, match=f"job.{name} can be set to None alone"):
        setattr(job, name, "other")
    assert getattr(job, name) == before


@pytest.mark.parametrize("name", [*READ_ONLY, "finish"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_attributes_are_read_only_and_say_what_can_be_set(kind: Any, name: str) -> None:
    job = finished(kind)
    if not hasattr(job, name):
        assert (kind, name) == (JobHandle, "finish")
        return
    before = getattr(job, name)
    with pytest.raises(AttributeError, match=f"job.{name} is read-only.*only id.*result.*to None"):
        setattr(job, name, 5)
    assert getattr(job, name) is before or getattr(job, name) == before


def test_a_job_in_a_callback_is_as_read_only() -> None:
    given = snapshot(finished(), JobStatus.Finished)
    with pytest.raises(AttributeError, match=r"job\.status is read-only"):
        given.status = 5
    given.id = {"any": "thing"}
    assert given.id == {"any": "thing"}


def test_clear_resets_finish_whether_or_not_it_was_asked_for_before() -> None:
    job = finished()
    assert job(clear=True) == 17
    assert not job.finish.is_set()
    job = finished()
    finish = job.finish
    assert finish.is_set()
    assert job(clear=True) == 17
    assert job.finish is finish
    assert not finish.is_set()
    assert job() == 17, "it has ended all the same"


def test_finish_is_set_again_when_a_cleared_job_ends_again() -> None:
    job: SubmittedJob[Any] = SubmittedJob(1, None, JobStatus.Abandoned)
    assert job(clear=True) is None
    finish = job.finish
    assert not finish.is_set()
    job.reply, job.state = pickle.dumps(17), JobStatus.Finished
    job.announce()
    assert finish.is_set()
