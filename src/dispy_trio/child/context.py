"""Where the code of a computation runs: known to `dispy_trio.job`, set by template and worker."""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "directory",
    "is_cancelled",
    "is_job",
    "message_timeout",
    "node_address",
    "node_name",
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

message_timeout = 10.0
"""Seconds that the client has to take what a job sends it; ``--msg-timeout`` of the node."""


def _never() -> bool:
    return False


is_cancelled: Callable[[], bool] = _never
"""Was the job that runs cancelled, or has it run for too long?"""
