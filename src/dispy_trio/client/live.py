"""Shows what jobs print while they run: whole lines, with the job and its node before each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from attrs import define, field

from dispy_trio.client.jobs import UserJob
from dispy_trio.logs import log
from dispy_trio.texts import fit_encoding

__all__ = ["LiveOutput"]


@define
class _Shown:
    """What was shown of one job."""

    counts: list[int] = field(factory=lambda: [0, 0])
    """Bytes of stdout and stderr."""
    partial: list[bytes] = field(factory=lambda: [b"", b""])
    """The beginnings of lines that have not ended."""


@define(eq=False)
class LiveOutput:
    """The output of all jobs of one cluster."""

    _jobs: dict[int, _Shown] = field(factory=dict)
    failures: dict[int, Exception] = field(factory=dict)
    """Why stdout, which is 0, or stderr can't be written any more."""
    streams: Callable[[], tuple[TextIO | None, TextIO | None]] = lambda: (sys.stdout, sys.stderr)
    """Where both are shown, at the moment: programs put other things in the place of ours."""
    raw: Callable[[UserJob[Any], bytes], None] | None = None
    """Takes what jobs write to stdout as it is, in the place of lines that are shown."""

    put: Callable[[int, str], None] = field(init=False)
    """Writes a line to stdout, which is 0, or stderr."""

    def __attrs_post_init__(self) -> None:
        self.put = self._write

    def written(self, job: UserJob[Any], stdout: bytes, stderr: bytes) -> None:
        """A running job has written something."""
        shown = self._jobs.setdefault(job.number, _Shown())
        for which, data in enumerate((stdout, stderr)):
            shown.counts[which] += len(data)
            self._show(job, shown, which, data)

    def ended(self, jobs: Sequence[UserJob[Any]]) -> None:
        """Show the rest of what jobs wrote."""
        for job in jobs:
            shown = self._jobs.pop(job.number, None)
            if job.output is None and shown is None:
                continue
            shown = shown or _Shown()
            for which, data in enumerate(job.output or (b"", b"")):
                if data is not None:
                    self._show(job, shown, which, bytes(data[shown.counts[which] :]))
                if shown.partial[which]:
                    self._print(job, which, shown.partial[which])

    def restarted(self, jobs: Sequence[UserJob[Any]]) -> None:
        """Jobs are run anew, and write anew."""
        for job in jobs:
            self._jobs.pop(job.number, None)

    def _show(self, job: UserJob[Any], shown: _Shown, which: int, data: bytes) -> None:
        if which == 0 and self.raw is not None:
            self._hand_on(self.raw, job, data)
            return
        *lines, shown.partial[which] = (shown.partial[which] + data).split(b"\n")
        for line in lines:
            self._print(job, which, line)

    def _print(self, job: UserJob[Any], which: int, line: bytes) -> None:
        if which not in self.failures:
            node = (job.node_key or "").strip("[]")
            self.put(which, f"[{job.id}@{node}] {line.decode(errors='backslashreplace')}\n")

    def _write(self, which: int, text: str) -> None:
        stream = self.streams()[which]
        if stream is None or which in self.failures:
            return
        try:
            # One write: lines of the program itself may come in between two.
            stream.write(fit_encoding(text, getattr(stream, "encoding", None)))
            stream.flush()
        except Exception as exc:
            self.fail(which, exc)

    def _hand_on(
        self, raw: Callable[[UserJob[Any], bytes], None], job: UserJob[Any], data: bytes
    ) -> None:
        if data and 0 not in self.failures:
            try:
                raw(job, data)
            except Exception as exc:
                self.fail(0, exc)

    def fail(self, which: int, exc: Exception) -> None:
        """What is shown is a copy: that nobody reads it, or that a disk is full, is no reason to
        fail for jobs, nor for the node whose message brought it."""
        if which in self.failures:
            return
        self.failures[which] = exc
        if not isinstance(exc, BrokenPipeError):
            name = ("stdout", "stderr")[which]
            log.warning("what jobs write to %s is shown no more: %r", name, exc)
