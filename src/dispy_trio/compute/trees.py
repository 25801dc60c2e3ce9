"""Files below a directory, which may lie in an archive: a program may be one (`zipapp`)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["files_below", "is_file", "read"]

_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages"})


def is_file(path: Path) -> bool:
    """Is there a file, on disk or in an archive?"""
    if path.is_file():
        return True
    archive = _archive_above(path.parent)
    return archive is not None and str(path.relative_to(archive)) in _names_in(archive)


def read(path: Path) -> bytes:
    """All of a file.

    Raises:
        OSError: it can't be read.
    """
    archive = _archive_above(path.parent)
    if archive is None:
        return path.read_bytes()
    import zipfile  # Here and below: few programs lie in one, and the others start sooner without.

    with zipfile.ZipFile(archive) as opened:
        return opened.read(str(path.relative_to(archive)))


def files_below(directory: Path) -> Iterator[Path]:
    """All files, in order; without what is hidden, and what is made from others or installed.

    Nor what can't be read: links to nothing, pipes, files of other users.
    """
    archive = _archive_above(directory)
    if archive is None:
        yield from _files_on_disk(directory)
        return
    for name in sorted(_names_in(archive)):
        path = archive / name
        if path.is_relative_to(directory) and all(
            map(_is_shown, path.relative_to(directory).parts)
        ):
            yield path


def _files_on_disk(directory: Path) -> Iterator[Path]:
    for place, inner, names in os.walk(directory):
        inner[:] = sorted(filter(_is_shown, inner))
        for path in (Path(place, name) for name in sorted(filter(_is_shown, names))):
            if path.is_file() and os.access(path, os.R_OK):
                yield path


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in _LEFT_OUT


@functools.cache
def _archive_above(directory: Path) -> Path | None:
    """The archive that this directory lies in, or is."""
    for place in (directory, *directory.parents):
        if place.is_dir():
            return None
        if place.is_file():
            import zipfile

            return place if zipfile.is_zipfile(place) else None
    return None


@functools.cache
def _names_in(archive: Path) -> frozenset[str]:
    import zipfile

    with zipfile.ZipFile(archive) as opened:
        return frozenset(name for name in opened.namelist() if not name.endswith("/"))
