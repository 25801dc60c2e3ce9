"""What jobs write is shown by a thread, which nobody has to wait for."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from dispy_trio.client import live_thread
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.live import LiveOutput
from dispy_trio.client.live_thread import LiveThread

JOB: SubmittedJob[None] = SubmittedJob(1, None, id=1)
LINE = b"x" * 99 + b"\n"


def show(stream: TextIO) -> tuple[LiveOutput, LiveThread]:
    live = LiveOutput()
    live.streams = lambda: (stream, stream)
    return live, LiveThread(live)


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        yield reader, stream


def test_lines_are_shown_whole_and_in_order() -> None:
    text = io.StringIO()
    live, thread = show(text)
    long = b"y" * 5000
    live.written(JOB, b"1\n2\n" + long + b"\n", b"")
    live.written(JOB, b"3\n", b"")
    thread.finish(30)
    assert text.getvalue() == f"[1@] 1\n[1@] 2\n[1@] {long.decode()}\n[1@] 3\n"
    assert not live.failures


def test_what_nobody_reads_ends_the_showing_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pipe() as (reader, stream):
        live, thread = show(stream)
        live.written(JOB, 2000 * LINE, b"")
        thread.finish(0.2)
        assert set(live.failures) == {0, 1}
        assert "what jobs write to stdout is shown no more" in caplog.text
        os.close(reader)


def test_no_more_is_held_for_a_slow_reader_than_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_thread, "MOST_HELD", 100_000)
    with pipe() as (reader, stream):
        live, thread = show(stream)
        live.written(JOB, 3000 * LINE, b"")
        assert "nobody reads it as fast as jobs write" in caplog.text
        thread.finish(30)
        os.close(reader)


def test_a_closed_pipe_ends_the_showing_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with pipe() as (reader, stream):
        os.close(reader)
        live, thread = show(stream)
        live.written(JOB, LINE, b"")
        thread.finish(30)
        assert isinstance(live.failures[0], BrokenPipeError)
        assert not caplog.text
        with pytest.raises(BrokenPipeError):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
