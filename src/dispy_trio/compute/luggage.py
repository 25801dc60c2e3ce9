"""What lies in packages beside their modules, and how it travels: what is small with the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dispy_trio.compute import trees
from dispy_trio.logs import log
from dispy_trio.models import JobFile

__all__ = ["pack_data"]

SMALL = 64 * 1024
"""Bytes of a file up to which it goes with the bundle; larger ones are sent by themselves, each
content once."""
LIMIT = 256 * 1024 * 1024
"""Bytes of all files; nobody has asked for them, and they are copied to each node."""


def pack_data(data: Mapping[str, Path]) -> tuple[dict[str, bytes], tuple[JobFile, ...]]:
    """Contents of small files, and large files, by where they go.

    What would be too much, all together, stays here, and a warning says so.
    """
    contents: dict[str, bytes] = {}
    files: list[JobFile] = []
    left: list[Path] = []
    total = 0
    for target, path in data.items():
        size = path.stat().st_size if path.is_file() else 0  # In an archive, which is here whole.
        if total + size > LIMIT:
            left.append(path)
            continue
        total += size
        if size > SMALL:
            files.append(JobFile(str(path), f".modules/{target}"))
        else:
            contents[target] = trees.read(path)
    if left:
        log.warning(
            "%d files of packages do not go to nodes, for all of them are more than %d MB, %s among"
            " them: what jobs need of them, give in depends=",
            len(left),
            LIMIT >> 20,
            left[0],
        )
    return contents, tuple(files)
