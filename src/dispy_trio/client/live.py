"""Shows what jobs print while they run: whole lines, with the job and its node before each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from attrs import define, field

from dispy_trio.client.jobs import UserJob

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

    @staticmethod
    def _print(job: UserJob[Any], which: int, line: bytes) -> None:
        stream: TextIO = (sys.stdout, sys.stderr)[which]
        node = (job.node or "").strip("[]")
        text = line.decode(errors="backslashreplace")
        # One write: lines of the program itself may come in between two.
        stream.write(f"[{job.id}@{node}] {text}\n")
        stream.flush()
