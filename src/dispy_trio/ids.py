"""The names by which the parts of a cluster know each other.

A job is ``(session, number)``; each try of it has an attempt number; each start of a node has an
incarnation. Whoever receives a frame with a stale one drops it.
"""

from __future__ import annotations

from typing import NewType

__all__ = [
    "Attempt",
    "ComputationId",
    "Incarnation",
    "JobNumber",
    "SessionId",
    "WorkerId",
]

JobNumber = NewType("JobNumber", int)
"""Counts the jobs of one client session from 1."""

Attempt = NewType("Attempt", int)
"""Counts the tries of one job from 0."""

ComputationId = NewType("ComputationId", int)
"""Counts the computations of one client session from 1."""

SessionId = NewType("SessionId", str)
"""32 hex digits, drawn by the client when it starts."""

Incarnation = NewType("Incarnation", str)
"""16 hex digits, drawn by a node each time it starts."""

WorkerId = NewType("WorkerId", int)
"""Counts the worker processes of one node start from 1."""
