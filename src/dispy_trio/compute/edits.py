"""Was a module edited since this program imported it?

Its text is read when it travels, so nodes would have it as it is now, and the program as it was.
Python does not keep what it has imported as text; but the code of a module's functions is here, and
the file with its compiled code often is, as it was.
"""

from __future__ import annotations

import functools
import marshal
import os
import time
import types
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

__all__ = ["all_codes", "codes_of", "is_edited"]

_SLACK = 1.0
"""Seconds by which times of files and of processes may differ."""
_HEADER = 16
"""Bytes before the code in a compiled file: a magic number, flags, time and size of the source."""


def is_edited(module: types.ModuleType, path: Path, text: str) -> bool:
    """Was it edited, as far as can be told?

    Args:
        module: as it was imported.
        path: of its source.
        text: of that, now.
    """
    spec = module.__spec__
    if spec is None or type(spec.loader) is not SourceFileLoader:
        return (
            False  # In an archive, say; or what imports it makes other code of it, as pytest does.
        )
    try:
        status = path.stat()
    except OSError:
        return False
    if status.st_mtime < _started() - _SLACK:
        return False
    try:
        now = compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return True
    present = {_content(code) for code in all_codes(now)}
    for code in codes_of(module):
        if code.co_filename == module.__file__ and _content(code) not in present:
            return True
    then = _compiled_code(module, status)
    return then is not None and _content(then) != _content(now)


@functools.cache
def _started() -> float:
    """When this process has begun, in seconds since the epoch."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _content(code: types.CodeType) -> tuple[Any, ...]:
    """What two codes of the same text have in common.

    They are not always equal themselves: the interpreter makes notes in those that run.
    """
    constants = tuple(
        _content(constant) if isinstance(constant, types.CodeType) else _shown(constant)
        for constant in code.co_consts
    )
    return code.co_qualname, code.co_code, code.co_names, code.co_varnames, constants


def _shown(constant: object) -> str:
    if isinstance(constant, frozenset):
        return repr(sorted(map(repr, constant)))
    return repr(constant)


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code, and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_codes(constant)


def codes_of(module: types.ModuleType) -> Iterator[types.CodeType]:
    """Of the functions that a module has, and of the methods of its own classes."""
    values = list(vars(module).values())
    for value in list(values):
        if isinstance(value, type) and value.__module__ == module.__name__:
            values += vars(value).values()
    for value in values:
        function = getattr(value, "fget", value) if isinstance(value, property) else value
        function = getattr(function, "__func__", function)
        if isinstance(function, types.FunctionType):
            yield function.__code__


def _compiled_code(module: types.ModuleType, status: os.stat_result) -> types.CodeType | None:
    """What the module was compiled to, if that is not what its text is now."""
    cached = getattr(module.__spec__, "cached", None)
    try:
        data = Path(cached).read_bytes() if cached else b""
    except OSError:
        return None
    flags, modified, size = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8, 12))
    if len(data) < _HEADER or flags:
        return None
    if (modified, size) == (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF):
        return None  # Another process may have compiled it anew.
    code = marshal.loads(data[_HEADER:])
    return code if isinstance(code, types.CodeType) else None
