"""What a running job sends its client: results before its end, and files."""

from __future__ import annotations

import os
from typing import Any

from dispy_trio.child import calls, context
from dispy_trio.child.pickling import dump_best

__all__ = ["send_file", "send_result"]


def send_result(result: Any, timeout: float | None) -> None:
    """Send a provisional result, and wait until the client has it.

    Raises:
        OSError: it did not come to have it; says why.
        ValueError: the timeout is negative, or no number.
        Exception: the result can't be pickled.
    """
    seconds = _seconds(timeout)
    data = dump_best(result)
    calls.call("provisional_result", {"timeout": seconds}, data)


def send_file(path: str | os.PathLike[str], timeout: float | None) -> None:
    """Send a file, and wait until the client has stored it.

    Raises:
        OSError: it did not; says why.
        ValueError: the timeout is negative, or no number.
    """
    full = os.path.abspath(os.fspath(path))
    calls.call("send_file", {"path": full, "timeout": _seconds(timeout)})


def _seconds(timeout: float | None) -> float:
    seconds = context.message_timeout if timeout is None else float(timeout)
    if not seconds >= 0:
        raise ValueError(f"timeout is {timeout}; it has to be a number of seconds, 0 or more")
    return seconds
