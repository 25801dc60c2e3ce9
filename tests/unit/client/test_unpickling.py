"""What is unpickled in a client may do anything, and ends neither the program nor a thread of it."""

from __future__ import annotations

import logging
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dispy_trio.client.callbacks import Notifier
from dispy_trio.client.chunking import CallStream, ChunkSizer
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.nodes import DispyNode
from dispy_trio.compute.packaging import unpack_exception, unpack_result
from dispy_trio.errors import JobFailed, RemoteTraceback, ResultUnpicklable
from dispy_trio.models import JobExtras, JobStatus, Outcome


class Grim(BaseException):
    """Nobody catches it, and it has no text."""

    def __str__(self) -> str:
        raise SystemExit(7)


class Calling:
    """Its pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class CallingError(Exception):
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__("by its pickle")
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def throw(kind: type[BaseException]) -> None:
    raise kind


EXITS = [(sys.exit, 3), (throw, GeneratorExit), (throw, Grim), (throw, MemoryError)]


def finished(value: Any) -> SubmittedJob[Any]:
    job: SubmittedJob[Any] = SubmittedJob(1, None, started_at=1.0, ended_at=2.0)
    job.state, job.outcome, job.reply = JobStatus.Finished, Outcome.RETURNED, pickle.dumps(value)
    return job


def raised(exc: BaseException) -> bytes:
    return pickle.dumps((type(exc).__qualname__, str(exc), "Traceback: there", pickle.dumps(exc)))


@pytest.mark.parametrize("call", EXITS)
def test_a_result_that_ends_programs_is_told_of(call: tuple[Any, ...]) -> None:
    job = finished(Calling(*call))
    with pytest.raises(ResultUnpicklable, match="cannot be unpickled here"):
        job()
    # And again: it stays as it is.
    with pytest.raises(ResultUnpicklable):
        job.result  # noqa: B018 - reading it unpickles it


@pytest.mark.parametrize("call", EXITS)
def test_an_exception_that_ends_programs_when_rebuilt_is_told_of(call: tuple[Any, ...]) -> None:
    exc, text = unpack_exception(raised(CallingError(*call)))
    assert type(exc) is JobFailed
    assert str(exc).startswith("CallingError: by its pickle (CallingError cannot be unpickled")
    assert isinstance(exc.__cause__, RemoteTraceback)
    assert text == "Traceback: there"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exception_does_not_become_one_that_ends_programs(kind: type[BaseException]) -> None:
    exc, _ = unpack_exception(raised(CallingError(kind)))
    assert type(exc) is JobFailed


class Closed(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise SystemExit(3)


def test_an_exception_that_takes_no_cause_is_told_of() -> None:
    exc, _ = unpack_exception(raised(Closed("no")))
    assert type(exc) is JobFailed
    assert isinstance(exc.__cause__, RemoteTraceback)


def test_the_keyboard_still_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt):
        unpack_result(pickle.dumps(Calling(throw, KeyboardInterrupt)))


def test_a_provisional_result_that_ends_programs_is_told_of() -> None:
    job: SubmittedJob[Any] = SubmittedJob(1, None)
    job.state = JobStatus.ProvisionalResult
    job.extras = JobExtras(provisional=pickle.dumps(Calling(sys.exit, 3)))
    with pytest.raises(ResultUnpicklable):
        job.result  # noqa: B018 - reading it unpickles it


def test_a_call_of_map_that_raises_such_an_exception_is_told_of() -> None:
    stream: CallStream[SubmittedJob[Any]] = CallStream(lambda _: job, None, ChunkSizer())
    job = finished(([], raised(CallingError(sys.exit, 3))))
    stream.pending[job] = 1
    assert type(stream.take(job)[1]) is JobFailed


def test_a_callback_that_exits_leaves_the_others_to_be_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[int | None] = []

    def tell(job: SubmittedJob[Any]) -> None:
        try:
            told.append(job.result)
        except ResultUnpicklable:
            told.append(None)
        sys.exit(3)

    returned = threading.Condition()
    notifier = Notifier(tell, None, lambda key: DispyNode(key, lambda _: None), returned)
    with caplog.at_level(logging.CRITICAL, "dispy_trio"), returned:
        notifier.ended([finished(Calling(sys.exit, 3)), finished(1)])
        assert returned.wait_for(lambda: notifier.have_returned(2), 30)
    assert told == [None, 1]
