"""What a running job may ask of its node and tell its client.

Import it inside of a job, or in the module of a computation: ``from dispy_trio import job``. What
asks the node for something raises `RuntimeError` when it is called outside of a job.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from dispy_trio.child import calls, context, pickling, sending

__all__ = [
    "FileRef",
    "cancelled",
    "deadline",
    "directory",
    "dumps",
    "fetch_file",
    "keep_file",
    "node_address",
    "node_name",
    "progress",
    "provisional_result",
    "send_file",
]


class FileRef(NamedTuple):
    """A file in a node's keeping; small, and safe to return from a job."""

    address: str
    """``host:port`` of the node that keeps it."""
    file: str
    size: int
    """Bytes."""


def provisional_result(result: Any, *, timeout: float | None = None) -> None:
    """Send the client a result before the end of the job, and wait until it is there.

    The client's `job_status` is called with it. Results keep their order.

    Args:
        result: anything that can be pickled.
        timeout: seconds that the client may take; None for the node's ``--msg-timeout``, 10.

    Raises:
        OSError: the client is not there, or did not take it within `timeout` seconds.
        ValueError: the timeout is negative, or no number.
        Exception: the result can't be pickled.
    """
    sending.send_result(result, timeout)


def progress(fraction: float, text: str = "") -> None:
    """Tell how far this job is; the client sees it as ``job.progress``.

    Args:
        fraction: of the whole, 0 to 1.
        text: what is being done, up to 1000 characters.

    Raises:
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it has to be between 0 and 1")
    calls.call("progress", {"fraction": float(fraction), "text": str(text)[:1000]})


def cancelled() -> bool:
    """Was this job cancelled, or has it run longer than its timeout?

    For jobs that catch KeyboardInterrupt, and for their threads.
    """
    return context.is_cancelled()


def deadline() -> float | None:
    """Seconds that this job has left: of its timeout and its deadlines, the earliest one.

    A deadline is that of its options, or of the cancel scopes round `Cluster.run` and `Cluster.map`
    in a Trio program. When it has passed, the job is stopped. Negative after that; None when the job
    may take its time.
    """
    ends_at = context.ends_at
    return None if ends_at is None else ends_at - time.monotonic()


def directory() -> str:
    """Where this job runs: the directory of its computation, or its own if it has dependencies."""
    return context.directory


def node_name() -> str:
    """Name of the node that runs this job."""
    return context.node_name


def node_address() -> str:
    """IP address of the node that runs this job."""
    return context.node_address


def send_file(path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
    """Send a file to the client, which stores it at the same relative path where it was started.

    Args:
        path: of a file in the job's directory.
        timeout: seconds that may pass without any of it moving; None for the node's
            ``--msg-timeout``, 10.

    Raises:
        OSError: it is no such file, lies outside of the job's directory, is larger than the node or
            the client allows, or the client did not take it; the text says which.
        ValueError: the timeout is negative, or no number.
    """
    sending.send_file(path, timeout)


def dumps(value: Any) -> bytes:
    """Pickle a value for the client, or for other jobs of this computation, as a result is.

    What they have goes by name, all else by value. `pickle.loads` reads it, and leaves the classes
    that are there as they are.

    Raises:
        Exception: the value can't be pickled.
    """
    return pickling.dump_best(value)


def keep_file(path: str | os.PathLike[str]) -> FileRef:
    """Give a file of this job's directory into the node's keeping, for other jobs to fetch.

    The file is moved, so write it anew each time. It is kept until the computation is closed.

    Raises:
        OSError: the node can't keep it; the text says why.
    """
    answer = calls.call("keep_file", {"path": os.path.abspath(os.fspath(path))})
    return FileRef(answer["address"], answer["file"], answer["size"])


def fetch_file(ref: FileRef) -> str:
    """The path of a kept file on this machine; fetched from its node when it is not here.

    Do not write to it: other jobs read the same file.

    Raises:
        OSError: it is not there any more, or its node can't be reached; the text says which.
    """
    answer = calls.call("fetch_file", {"address": ref.address, "file": ref.file, "size": ref.size})
    path: str = answer["path"]
    return path
