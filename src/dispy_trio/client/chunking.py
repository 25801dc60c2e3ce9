"""How many calls `map` puts into one job."""

from __future__ import annotations

from attrs import define

__all__ = ["ChunkSizer"]

TARGET_SECONDS = 0.005
"""Work of one chunk: long against the cost of a job, short against what a user notices."""
MAX_CHUNK = 20_000
MAX_GROWTH = 8
"""Durations of the first calls say little of the others: the size grows step by step."""


@define
class ChunkSizer:
    """Learns from the measured duration of chunks; the first ones hold a single call."""

    fixed: int | None = None
    """The user's own choice."""
    size: int = 1

    def __attrs_post_init__(self) -> None:
        if self.fixed is not None:
            if self.fixed < 1:
                raise ValueError(f"chunksize is {self.fixed}; it has to be at least 1")
            self.size = self.fixed

    def observe(self, calls: int, seconds: float) -> None:
        """A chunk of that many calls took that long."""
        if self.fixed is None:
            fitting = int(TARGET_SECONDS * calls / max(seconds, 1e-7))
            self.size = max(1, min(fitting, self.size * MAX_GROWTH, MAX_CHUNK))
