"""Texts and paths on their way to another process.

What a user's program, a file system or a job calls its things is not for us to choose: an error
text may have ten million characters, and a file name need not be UTF-8, which Python shows as lone
surrogates. Texts are made readable and cut, with a mark; paths travel as they are.
"""

from __future__ import annotations

import os

__all__ = [
    "NAME_LIMIT",
    "NOTE_LIMIT",
    "PATH_DEPTH",
    "PATH_LIMIT",
    "TEXT_LIMIT",
    "FilePath",
    "fit_encoding",
    "fit_name",
    "fit_note",
    "fit_text",
    "readable",
    "to_bytes",
]

NAME_LIMIT = 250
"""Characters of what something is called."""
NOTE_LIMIT = 2000
"""Characters of a sentence: in UTF-8 it fits into the smallest of frames."""
TEXT_LIMIT = 64_000
"""Characters of an account with tracebacks in it."""
PATH_LIMIT = 4096
"""Bytes of a path, as the kernel has it."""
PATH_DEPTH = 250
"""Parts of a path: making and removing directories recurses."""


def readable(text: str) -> str:
    """The text, with escapes where it has what no encoding has."""
    return to_bytes(text).decode()


def fit_encoding(text: str, encoding: str | None) -> str:
    """The text with escapes where an encoding, or else UTF-8, lacks a character."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def to_bytes(text: str) -> bytes:
    """The text as UTF-8, with escapes where it has what no encoding has."""
    return text.encode(errors="backslashreplace")


def _cut(text: str, limit: int) -> str:
    """The beginning and the end, which tells most, of a text that is too long."""
    if len(text) > limit:
        mark = f" [… {len(text)} characters, cut here …] "
        head = max(0, limit - len(mark)) // 3
        text = text[:head] + mark + text[len(mark) + head - limit :]
    return text


def fit_name(text: str) -> str:
    return _cut(readable(text), NAME_LIMIT)


def fit_note(text: str) -> str:
    return _cut(readable(text), NOTE_LIMIT)


def fit_text(text: str) -> str:
    return _cut(readable(text), TEXT_LIMIT)


class FilePath(str):
    """A path that another process names; its bytes arrive as they were, UTF-8 or not."""

    __slots__ = ()

    def to_wire(self) -> bytes:
        """Its bytes.

        Raises:
            UnicodeEncodeError: it can't be the path of any file.
        """
        return os.fsencode(self)

    @classmethod
    def from_wire(cls, data: object) -> FilePath:
        """The path with these bytes.

        Raises:
            ValueError: no file has it: it is too long, too deep, or has a NUL in it.
        """
        if not isinstance(data, bytes):
            raise ValueError(f"a path is bytes, not {type(data).__name__}")
        if len(data) > PATH_LIMIT:
            raise ValueError(f"a path of {len(data)} bytes; the limit is {PATH_LIMIT}")
        if data.count(b"/") >= PATH_DEPTH:
            raise ValueError(f"a path of more than {PATH_DEPTH} parts")
        if b"\0" in data:
            raise ValueError("a path with a NUL character")
        return cls(os.fsdecode(data))
