"""Pickles of what the user made, and which part of it can't be pickled."""

from __future__ import annotations

import copyreg
import dis
import functools
import io
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import cloudpickle

__all__ = ["blame", "dump_arguments", "global_names"]

MOST_PARTS = 1000
"""Parts of one object that are looked at to find the one that can't be pickled."""
MOST_DEPTH = 6

Dumps = Callable[[Any], object]
_FILES = (
    io.TextIOWrapper,
    io.BufferedReader,
    io.BufferedWriter,
    io.BufferedRandom,
    io.FileIO,
)


def _refuse_file(file: Any) -> Any:
    if file is sys.stdout or file is sys.stderr:
        return cloudpickle.Pickler.dispatch_table[io.TextIOWrapper](file)
    raise TypeError(
        f"the open file {getattr(file, 'name', '?')!r} stays here: give the job its path, and the file itself by"
        " depends= or dispy_job_depends="
    )


class _ArgumentPickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Refuses open files, of which cloudpickle makes copies in memory."""

    dispatch_table: ClassVar[Any] = ChainMap(
        dict.fromkeys(_FILES, _refuse_file),
        cloudpickle.Pickler.dispatch_table,
        copyreg.dispatch_table,
    )


def dump_arguments(
    value: Any, protocol: int = 5, buffer_callback: Callable[[Any], bool] | None = None
) -> bytes:
    """As `cloudpickle.dumps`, for arguments.

    Raises:
        TypeError: an open file is among them; names it.
        Exception: whatever else can't be pickled raises.
    """
    with io.BytesIO() as file:
        _ArgumentPickler(file, protocol, buffer_callback).dump(value)
        return file.getvalue()


# --- whose fault it is -----------------------------------------------------------------------------
def blame(value: Any, exc: Exception, dumps: Dumps = cloudpickle.dumps) -> str:
    """Which part of an object can't be pickled, and why: the innermost that can be named.

    >>> blame(compute, exc)
    "global `lock`, a lock: cannot pickle '_thread.lock' object"

    Args:
        value: the object.
        exc: why it can't be.
        dumps: what it was pickled with.
    """
    names: list[str] = []
    reason: Exception = exc
    while len(names) < MOST_DEPTH and (found := _first_culprit(value, dumps)) is not None:
        name, value, reason = found
        names.insert(0, name)
    if not names:
        return str(reason)
    kind = type(value).__qualname__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    return f"{names[0]}, {article} {kind}{''.join(f', in {n}' for n in names[1:])}: {reason}"


def _first_culprit(value: Any, dumps: Dumps) -> tuple[str, Any, Exception] | None:
    for count, (name, part) in enumerate(_parts(value)):
        if count == MOST_PARTS:
            break
        try:
            dumps(part)
        except Exception as exc:
            return name, part, exc
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What is pickled along with an object, by names that its owner knows."""
    match value:
        case types.FunctionType():
            yield from _parts_of_function(value)
        case types.MethodType():
            yield "its object", value.__self__
        case functools.partial():
            yield "its function", value.func
            yield from ((f"argument {n}", part) for n, part in enumerate(value.args, 1))
            yield from ((f"argument {name!r}", part) for name, part in value.keywords.items())
        case dict():
            yield from ((f"item {key!r:.40}", part) for key, part in list(value.items()))
        case list() | tuple() | set() | frozenset():
            yield from ((f"item {index}", part) for index, part in enumerate(list(value)))
        case type():
            if value.__module__ == "__main__":
                yield from (
                    (f"`{value.__name__}.{name}`", getattr(part, "__func__", part))
                    for name, part in list(vars(value).items())
                    if not isinstance(
                        part, (types.GetSetDescriptorType, types.MemberDescriptorType)
                    )
                )
        case _ if _is_plain(type(value)):
            yield from ((f"attribute `{name}`", part) for name, part in list(vars(value).items()))


def _is_plain(kind: Any) -> bool:
    """Are its objects pickled by their attributes?"""
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and "__getstate__" not in {name for base in kind.__mro__[:-1] for name in vars(base)}
        and bool(kind.__dictoffset__)
    )


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name in sorted(global_names(function.__code__)):
        if name in function.__globals__:
            part = function.__globals__[name]
            kind = "function" if isinstance(part, types.FunctionType) else "global"
            if part is not function:
                yield f"{kind} `{name}`", part
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            part = cell.cell_contents
        except ValueError:
            continue  # It was not set yet.
        if part is not function:
            yield f"variable `{name}`", part
    yield from ((f"default {n}", part) for n, part in enumerate(function.__defaults__ or (), 1))
    for name, part in (function.__kwdefaults__ or {}).items():
        yield f"default of `{name}`", part


def global_names(code: types.CodeType) -> set[str]:
    """Names that code looks up in its globals, also in functions within."""
    names = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= global_names(constant)
    return names
