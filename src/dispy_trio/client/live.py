"""Shows what jobs print while they run: whole lines, with the job and its node before each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from attrs import define, field

from dispy_trio.client.jobs import UserJob
from dispy_trio.logs import log

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
        *lines, shown.partial[which] = (shown.partial[which] + data).split(b"\n")
        for line in lines:
            self._print(job, which, line)

    def _print(self, job: UserJob[Any], which: int, line: bytes) -> None:
        stream: TextIO | None = (sys.stdout, sys.stderr)[which]
        if stream is None or which in self.failures:
            return
        node = (job.node_key or "").strip("[]")
        text = f"[{job.id}@{node}] {line.decode(errors='backslashreplace')}\n"
        try:
            # One write: lines of the program itself may come in between two.
            stream.write(_fit(text, stream))
            stream.flush()
        except Exception as exc:
            # What is shown is a copy: that nobody reads it, or that a disk is full, is no reason to
            # fail for jobs, nor for the node whose message brought it.
            self.failures[which] = exc
            if not isinstance(exc, BrokenPipeError):
                name = ("stdout", "stderr")[which]
                log.warning("what jobs write to %s is shown no more: %r", name, exc)


def _fit(text: str, stream: TextIO) -> str:
    """With escapes where the stream's encoding lacks a character."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
