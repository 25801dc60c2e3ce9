"""Lines on stdout, which are data, and on stderr, which is all the rest.

Both are looked up for each line: a bar that is shown puts itself in their places.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from dispy_trio.errors import DispyError
from dispy_trio.texts import fit_encoding

__all__ = ["remark", "say", "spell"]


def say(text: str) -> None:
    """Write a line to stdout.

    Raises:
        BrokenPipeError: nobody reads it.
        DispyError: it can't be written; says why.
    """
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as exc:
        _drop_what_is_left()
        raise DispyError(f"stdout can't be written: {exc}") from exc


def remark(text: str) -> None:
    """Write a line to stderr.

    Raises:
        OSError: it can't be written; BrokenPipeError when nobody reads it.
    """
    _write(sys.stderr, text)


def spell(value: Any, how: Callable[[Any], str] = repr) -> str:
    """A result as text; it may be of the user's own making, and raise anything."""
    try:
        return how(value)
    except Exception as exc:
        return f"<{type(value).__qualname__} that can't be shown: {type(exc).__name__}>"


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:
        stream.write(fit_encoding(f"{text}\n", getattr(stream, "encoding", None)))
        stream.flush()


def _drop_what_is_left() -> None:
    """Python would try to write it once more when it ends, and exit with a status of its own."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
    os.close(null)
