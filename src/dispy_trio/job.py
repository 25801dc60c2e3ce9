"""What a running job may ask of its node.

Import it inside of a job, or in the module of a computation: ``from dispy_trio import job``. Each
function raises `RuntimeError` when it is called outside of a job.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from dispy_trio.child import calls

__all__ = ["FileRef", "fetch_file", "keep_file"]


class FileRef(NamedTuple):
    """A file in a node's keeping; small, and safe to return from a job."""

    address: str
    """``host:port`` of the node that keeps it."""
    file: str
    size: int
    """Bytes."""


def keep_file(path: str | os.PathLike[str]) -> FileRef:
    """Give a file of this job's directory into the node's keeping, for other jobs to fetch.

    The file is moved, so write it anew each time. It is kept until the computation is closed.

    Raises:
        OSError: the node can't keep it; the text says why.
    """
    answer = calls.call("keep_file", {"path": os.fspath(path)})
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
