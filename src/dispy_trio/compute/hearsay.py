"""What a worker tells, as far as it can be believed.

Its jobs run in the same process and may write anything to what it shares with its node, by a stray
pointer or on purpose. Whatever that is, it may end the worker and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from dispy_trio.models import Outcome
from dispy_trio.seams import WorkerResult

__all__ = ["count_due", "parse_call", "read_attached", "release"]

_MOST_ATTACHED = 1024 * 1024 * 1024
"""Bytes that may come beside a call."""
_FAR = 1e11
"""Seconds since the epoch that no clock shows."""
_LAST_OUTCOME = max(outcome for outcome in Outcome if outcome <= Outcome.REFUSED)


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


def parse_call(data: bytes) -> object:
    """What was asked, as JSON; None when it is none."""
    try:
        parsed: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return parsed


def read_attached(descriptors: Sequence[int]) -> bytes | None:
    """The content of the memory files that came with a call; None when they are none."""
    data: bytes | None = b""
    for descriptor in descriptors:
        try:
            size = os.fstat(descriptor).st_size
            if data is not None and len(data) + size <= _MOST_ATTACHED:
                data += os.pread(descriptor, size, 0)
            else:
                data = None
        except OSError:
            data = None  # No file.
        finally:
            os.close(descriptor)
    return data
