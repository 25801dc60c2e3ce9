"""Where the code of a computation runs: known to `dispy_trio.job`, set by template and worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

__all__ = [
    "directory",
    "ends_at",
    "explain",
    "is_cancelled",
    "is_job",
    "message_timeout",
    "node_address",
    "node_name",
    "on_interrupt",
    "root",
]

is_job = False
"""False also in a template, where setup and cleanup run."""

root = ""
"""Directory of the computation."""

directory = ""
"""The same, or that of the job that runs, if it has one of its own."""

node_name = ""
node_address = ""
"""IP address."""

ends_at: float | None = None
"""When the job that runs has to have ended, by `time.monotonic`; None when it may take its time."""

message_timeout = 10.0
"""Seconds that the client has to take what a job sends it; ``--msg-timeout`` of the node."""


def _never() -> bool:
    return False


is_cancelled: Callable[[], bool] = _never
"""Was the job that runs cancelled, or has it run for too long?"""

on_interrupt: Callable[[], None] | None = None
"""What the job that runs wants done, in the signal's handler, in place of a KeyboardInterrupt."""


def explain(exc: BaseException) -> None:
    """Add to an error what its user may not know of where it was raised."""
    if isinstance(exc, FileNotFoundError) and exc.filename is not None:
        text = (
            f"This ran on node {node_name}, in the directory {directory}: files get there by"
            " depends=, or dispy_job_depends= for one job, and are opened there by their relative"
            " paths."
        )
        # An exception may be of the user's own making, and its notes anything.
        with contextlib.suppress(TypeError):
            BaseException.add_note(exc, text)
