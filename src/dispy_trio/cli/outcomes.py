"""What is told of jobs that have ended: their results on stdout, and all else on stderr.

Text comes in the order of the arguments, and so does one JSON document; a line of JSON comes as
soon as its job has ended. Of a program, what it writes to stdout is its result: it is told as it is,
while the program runs when it is the one whose turn it is.
"""

from __future__ import annotations

import codecs
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field

from dispy_trio.cli.records import JsonLines, RecordWriter
from dispy_trio.cli.saying import remark, say, spell
from dispy_trio.client.live import LiveOutput
from dispy_trio.errors import DispyError
from dispy_trio.models import JobStatus
from dispy_trio.texts import fit_encoding, readable

__all__ = ["Report", "Turns", "make_report", "record_of", "show_on_stderr"]


def show_on_stderr(live: LiveOutput) -> None:
    """Have all that jobs print shown on stderr."""
    live.streams = lambda: (sys.stderr, sys.stderr)


# --- what programs write ---------------------------------------------------------------------
@define(eq=False)
class Turns:
    """Hands on what programs write, one after the other: that of later ones waits."""

    write: Callable[[bytes], None]
    _turn: int = 1
    """Number of the job whose turn it is."""
    _waiting: dict[int, list[bytes]] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)

    def take(self, job: Any, data: bytes) -> None:
        """A job has written that. Called on the cluster's thread."""
        with self._lock:
            if job.number == self._turn:
                self.write(data)
            else:
                self._waiting.setdefault(job.number, []).append(data)

    def next(self) -> None:
        """The one whose turn it was has ended."""
        with self._lock:
            self._turn += 1
            for data in self._waiting.pop(self._turn, ()):
                self.write(data)


def _make_writer() -> Callable[[bytes], None]:
    """Writes bytes to stdout; on a terminal as text, of which whole lines go above a bar."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(data: bytes) -> None:
        if sys.stdout is None:
            return
        if sys.stdout.isatty():
            sys.stdout.write(fit_encoding(decoder.decode(data), sys.stdout.encoding))
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()

    return write


# --- what jobs returned ----------------------------------------------------------------------
@define(eq=False)
class Report:
    """Tells of all jobs of a run."""

    given: Sequence[Sequence[str]]
    """The arguments of each."""
    output: LiveOutput
    """Shows what they print."""
    is_live: bool
    """It does so while they run."""
    writer: RecordWriter | None
    is_program: bool
    write: Callable[[bytes], None]
    """Takes what programs write to stdout."""
    turns: Turns | None
    """What they write is handed on by that already."""
    jobs: Sequence[Any] = ()
    done: int = 0
    failed: int = 0
    _ended: set[int] = field(factory=set)
    _told: int = 0

    def ended(self, job: Any) -> None:
        """A job has ended: it is told, or waits for its turn."""
        value, reason = self._outcome(job)
        self.done += 1
        self.failed += bool(reason)
        if isinstance(self.writer, JsonLines):
            self.writer.write(record_of(job, self.given[job.number - 1], value, reason))
            return
        self._ended.add(job.number)
        while self._told + 1 in self._ended:
            self._told += 1
            self._tell(self.jobs[self._told - 1])

    def end(self) -> None:
        """All have ended."""
        if self.writer is not None:
            self.writer.end()

    def _outcome(self, job: Any) -> tuple[Any, str]:
        """What it returned, and why it failed, which is empty when it did not."""
        if job.status != JobStatus.Finished:
            reason = str(job.exception or "").rstrip()
            return None, job.status.name + (f": {reason}" if reason else "")
        try:
            value = job.result
        except DispyError as exc:
            return None, str(exc)
        return value, f"exit status {value}" if self.is_program and value != 0 else ""

    def _tell(self, job: Any) -> None:
        value, reason = self._outcome(job)
        arguments = self.given[job.number - 1]
        if self.writer is not None:
            self.writer.write(record_of(job, arguments, value, reason))
            return
        if not self.is_live:
            self.output.ended([job])
        if self.turns is not None:
            self.turns.next()
        elif self.is_program:
            self.write(job.stdout)
        if reason:
            label = f"job {job.number}" + (f" ({shlex.join(arguments)})" if arguments else "")
            remark(f"{label}: {reason}")
        elif not self.is_program:
            say(readable(value) if isinstance(value, str) else spell(value))


def make_report(
    given: Sequence[Sequence[str]],
    live: LiveOutput | None,
    writer: RecordWriter | None,
    *,
    is_program: bool,
    again: bool,
) -> Report:
    """A report of jobs that are not submitted yet.

    Args:
        given: the arguments of each.
        live: shows what they print while they run, if anything does.
        writer: takes a record of each; None prints text.
        is_program: what they write to stdout is their result.
        again: they may be run again, and write again.
    """
    output = live or LiveOutput()
    show_on_stderr(output)
    write = _make_writer()
    turns = None
    if is_program and writer is None:
        turns = Turns(write) if live is not None and not again else None
        output.raw = _drop if turns is None else turns.take
    return Report(given, output, live is not None, writer, is_program, write, turns)


def _drop(_job: Any, _data: bytes) -> None:
    """It is told as a whole, when the job has ended."""


def record_of(job: Any, arguments: Sequence[str], value: Any, reason: str) -> dict[str, Any]:
    """What JSON tells of a job."""
    return {
        "job": job.number,
        "arguments": list(arguments),
        "status": job.status.name,
        "result": value,
        "error": reason or None,
        "stdout": _text(job.stdout),
        "stderr": _text(job.stderr),
        "node": job.node,
        "start_time": job.start_time,
        "end_time": job.end_time,
    }


def _text(written: str | bytes) -> str:
    return written.decode(errors="backslashreplace") if isinstance(written, bytes) else written
