"""A function as bytes, and its calls, for a cluster that calls any function."""

from __future__ import annotations

import functools
import hashlib
import pickle
import types
from collections.abc import Callable, Collection
from typing import Any

from attrs import frozen

from dispy_trio.child.functions import FUNCTION, PICKLED
from dispy_trio.compute.depends import by_value
from dispy_trio.compute.packaging import (
    Parts,
    check_kind,
    name_of,
    pack_arguments,
    pickle_contents,
)
from dispy_trio.compute.pickling import Carried
from dispy_trio.compute.sources import own_sources

__all__ = ["PackedFunction", "is_lasting", "pack_call", "pack_function", "to_plain"]


_CachedFunction = type(functools.cache(lambda: None))


@frozen(eq=False)
class PackedFunction:
    """A function on its way to nodes."""

    digest: str
    """SHA-256 of `data`, hex."""
    data: bytes
    carried: Carried
    """The classes that nodes know by it."""


def to_plain(
    function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function that a call comes to in the end, and its arguments.

    What a method is bound to, and what a partial function has been given, may change between two
    calls: it goes as arguments, with each.
    """
    kwargs: dict[str, Any] = {}
    while True:
        if type(function) is functools.partial:
            args = (*function.args, *args)
            kwargs = {**function.keywords, **kwargs}
            function = function.func
        elif isinstance(function, types.MethodType):
            args = (function.__self__, *args)
            function = function.__func__
        elif isinstance(vars(type(function)).get("__call__"), types.FunctionType):
            args = (function, *args)
            function = vars(type(function))["__call__"]
        else:
            return function, args, kwargs


def is_lasting(function: Callable[..., Any]) -> bool:
    """Is it the same in each call, as far as that can be told?"""
    if isinstance(function, types.BuiltinFunctionType):
        # Those of objects are methods, whose object may change.
        return function.__self__ is None or isinstance(function.__self__, types.ModuleType)
    return isinstance(function, (types.FunctionType, type, _CachedFunction))


def pack_function(function: Callable[..., Any], known: Collection[str]) -> PackedFunction:
    """Pack a function with what it refers to, and the user's modules that nodes do not know.

    Raises:
        PickleArgumentError: it can't be pickled.
        TypeError: it is not callable, or what it returns can't be a result, or it is async.
    """
    if not callable(function):
        raise TypeError(f"run_sync calls a function, not {type(function).__name__}")
    name = name_of(function)
    if check_kind(function, f"the function {name!r}", may_be_async=True):
        raise TypeError(
            f"{name!r} is an async function, and run_sync calls ordinary ones: make a cluster of it,"
            f" open_cluster({name})"
        )
    sources = {key: source for key, source in own_sources().modules.items() if key not in known}
    with by_value((), (function,), {*known, *sources}):
        pickled, carried = pickle_contents(function, name, {"function": function, "code": {}})
    data = pickle.dumps({"sources": sources, "pickled": pickled}, 5)
    return PackedFunction(hashlib.sha256(data).hexdigest(), data, carried)


def pack_call(
    function: PackedFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bytes | Parts:
    """Pickle the arguments of a call.

    Raises:
        PickleArgumentError: names the argument that can't be pickled.
    """
    if len(function.carried):
        # A worker knows these classes when it has loaded the function, and not before.
        inner = pack_arguments(args, kwargs, function.carried)
        if isinstance(inner, bytes):
            return pack_arguments((), {FUNCTION: function.digest, PICKLED: inner})
    return pack_arguments(args, {FUNCTION: function.digest, **kwargs})
