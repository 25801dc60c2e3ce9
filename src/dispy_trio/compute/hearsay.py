"""What a worker tells, as far as it can be believed.

Its jobs run in the same process and may write anything to what it shares with its node, by a stray
pointer or on purpose. Whatever that is, it may end the worker and nothing else.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence

import trio

from dispy_trio.models import Outcome
from dispy_trio.seams import WorkerResult

__all__ = ["MOST_ATTACHED", "count_due", "parse_call", "read_attached", "release"]

MOST_ATTACHED = 1024 * 1024 * 1024
"""Bytes that may come beside a call. A worker whose waiting calls have as many is given no more."""
_AT_ONCE = 1024 * 1024
"""Bytes that are read on the event loop."""
_FAR = 1e11
"""Seconds since the epoch that no clock shows."""
_LAST_OUTCOME = int(Outcome.REFUSED)


def count_due(results: Sequence[WorkerResult], last_taken: int, last_sent: int) -> int:
    """How many of these, from the first on, are results of jobs that it was given, one for each.

    Args:
        results: by sequence.
        last_taken: sequence of the last one that came before them.
        last_sent: of the last job that it was given.
    """
    last = last_taken
    for index, result in enumerate(results):
        if not (
            last < result.sequence <= last_sent
            and result.outcome <= _LAST_OUTCOME
            # No number at all compares like none of them.
            and 0.0 <= result.start < _FAR
            and 0.0 <= result.end < _FAR
        ):
            return index
        last = result.sequence
    return len(results)


def release(results: Sequence[WorkerResult]) -> None:
    """Close the segments of results that are not believed."""
    for result in results:
        if result.segment is not None:
            os.close(result.segment)


def parse_call(data: bytes) -> dict[object, object] | None:
    """What was asked, as JSON; None when it is none."""
    try:
        parsed: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


async def read_attached(descriptors: Sequence[int]) -> bytes | None:
    """The content of the memory file that came with a call; None when it is none, or too long.

    The descriptors are closed, whatever they are.
    """
    try:
        if not descriptors:
            return b""
        status = os.fstat(descriptors[0])
        if (
            len(descriptors) > 1
            or not stat.S_ISREG(status.st_mode)
            or status.st_size > MOST_ATTACHED
        ):
            return None
        if status.st_size <= _AT_ONCE:
            return os.pread(descriptors[0], status.st_size, 0)
        # Others are not to wait for it.
        return await trio.to_thread.run_sync(os.pread, descriptors[0], status.st_size, 0)
    except (OSError, MemoryError):
        return None  # It can't be read.
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
