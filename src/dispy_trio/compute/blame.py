"""Which part of an object can't be pickled."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

from dispy_trio.compute.pickling import NOTHING_CARRIED

__all__ = ["blame", "global_names"]

MOST_PARTS = 1000
"""Parts of one object that are looked at to find the one that can't be pickled."""
MOST_DEPTH = 6


def blame(value: Any, exc: Exception) -> str:
    """Which part of an object can't be pickled, and why: the innermost that can be named.

    >>> blame(compute, exc)
    "global `lock`, a lock: cannot pickle '_thread.lock' object"

    Args:
        value: the object.
        exc: why it can't be.
    """
    names: list[str] = []
    reason: Exception = exc
    while len(names) < MOST_DEPTH and (found := _first_culprit(value)) is not None:
        name, value, reason = found
        names.insert(0, name)
    if not names:
        return str(reason)
    kind = type(value).__qualname__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    return f"{names[0]}, {article} {kind}{''.join(f', in {n}' for n in names[1:])}: {reason}"


def _first_culprit(value: Any) -> tuple[str, Any, Exception] | None:
    for count, (name, part) in enumerate(_parts(value)):
        if count == MOST_PARTS:
            break
        try:
            NOTHING_CARRIED.dumps(part)
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
