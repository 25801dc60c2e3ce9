"""Pickles by value, for what plain pickle has no name for on the other side.

cloudpickle takes a class in whole, and whoever unpickles that sets all of the class's state, also
where the class has been all the time. Here a class has a key from when it first travels, by which
both sides know it again. A class that comes from a node leaves the one that is here as it is; one
that comes from the client brings its state as it is there now.

Also what `functools` wraps round a function goes by value when the function does.
"""

from __future__ import annotations

import enum
import functools
import io
import pickle
import sys
import types
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from dispy_trio.child import making
from dispy_trio.child.hints import is_hint, reduce_hint
from dispy_trio.child.randomness import reduce_generator

__all__ = ["Pickler", "dump_best", "dumps", "keep_state", "take_state"]

_keys: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_unfinished: weakref.WeakSet[type] = weakref.WeakSet()
"""Made by `_adopt`, and without their state."""

_Cached = type(functools.lru_cache(len))


@functools.singledispatch
def _any_dispatcher(_: object) -> None:
    pass


_DISPATCHER = _any_dispatcher.__code__  # type: ignore[attr-defined]
"""What all functions made by `functools.singledispatch` have in common."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes functions and classes by value that the other side can't import."""

    set_state: Callable[[type, Any], None]
    """What is done with the state of a class on the other side: `keep_state` or `take_state`."""

    def __init__(self, file: Any, protocol: int = 5, buffer_callback: Any = None) -> None:
        super().__init__(file, protocol, buffer_callback)
        self.set_state = keep_state

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is _Cached:
            return NotImplemented if _is_importable(obj) else _reduce_cached(obj)
        if type(obj) is functools.cached_property:
            # It has a lock in some versions of Python.
            return _make_cached_property, (obj.func, obj.attrname)
        if (generator := reduce_generator(obj)) is not None:
            return generator
        if is_hint(obj):
            return NotImplemented if _is_importable(obj) else reduce_hint(obj)
        if type(obj) is functools.singledispatchmethod:
            # So has this a cache of weak references.
            return _make_dispatching_method, (obj.func, obj.dispatcher)
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented:
            return reduced
        if isinstance(obj, types.FunctionType):
            return _reduce_dispatcher(obj) if obj.__code__ is _DISPATCHER else reduced
        if len(reduced) != 6:  # A type of the interpreter's own, such as that of None.
            return reduced
        make, args, state, _, _, set_state = reduced
        if issubclass(obj, enum.Enum):
            args, state = making.complete_enumeration(obj, args, state)
            set_state = making.set_enumeration_state
        else:
            make, args = _make_class, making.complete_class(obj, args)
        return _adopt, (_key_of(obj), make, args), (set_state, state), None, None, self.set_state


def dumps(value: Any, protocol: int = 5, buffer_callback: Any = None) -> bytes:
    """Pickle on a node, by value where nothing else helps."""
    with io.BytesIO() as file:
        Pickler(file, protocol, buffer_callback).dump(value)
        return file.getvalue()


def dump_best(value: Any, protocol: int = 5, buffer_callback: Any = None) -> bytes:
    """Pickle on a node: classes that the client has too by their names, others by value."""
    try:
        return pickle.dumps(value, protocol, buffer_callback=buffer_callback)
    except Exception:
        return dumps(value, protocol, buffer_callback)


# --- classes -----------------------------------------------------------------------------------
def _key_of(kind: type) -> str:
    key = _keys.get(kind)
    if key is None:
        # Two threads may be at it; the first one's stays.
        key = _keys.setdefault(kind, uuid.uuid4().hex)
        _classes[key] = kind
    return key


def _adopt(key: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class of that key, made when it is not here."""
    found = _classes.get(key)
    if found is None:
        found = make(*args)
        _keys[found] = key
        _classes[key] = found
        _unfinished.add(found)
    return found


def _make_class(*described: Any) -> type:
    return making.make_class(described, _keys)


def keep_state(kind: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Leave a class that was here before as it is."""
    if kind in _unfinished:
        take_state(kind, state)


def take_state(kind: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Give a class the attributes that it has on the other side."""
    _unfinished.discard(kind)
    set_state, attributes = state
    set_state(kind, attributes)


# --- what is wrapped round functions -----------------------------------------------------------
def _is_importable(thing: Any) -> bool:
    """Is it found under its name in a module that the other side has?"""
    name = getattr(thing, "__module__", None) or "__main__"
    if name == "__main__" or not _parents(name).isdisjoint(
        cloudpickle.list_registry_pickle_by_value()
    ):
        return False
    found: Any = sys.modules.get(name)
    full_name: str = getattr(thing, "__qualname__", getattr(thing, "__name__", "<>"))
    for part in full_name.split("."):
        found = getattr(found, part, None)
    return found is thing


def _parents(name: str) -> set[str]:
    """The name of a module, and of all packages that it is in."""
    pieces = name.split(".")
    return {".".join(pieces[:count]) for count in range(1, len(pieces) + 1)}


def _reduce_cached(wrapper: Any) -> tuple[Any, ...]:
    settings = wrapper.cache_parameters()
    return _make_cached, (wrapper.__wrapped__, settings["maxsize"], settings["typed"])


def _make_cached(function: Callable[..., Any], size: int | None, typed: bool) -> Any:
    return functools.lru_cache(size, typed)(function)


def _make_cached_property(function: Callable[[Any], Any], name: str | None) -> Any:
    made = functools.cached_property(function)
    made.attrname = name
    return made


def _reduce_dispatcher(dispatcher: Any) -> tuple[Any, ...]:
    functions = dict(dispatcher.registry)
    # The others are state: they may refer to the dispatcher.
    return _make_dispatcher, (functions.pop(object),), functions, None, None, _register


def _make_dispatcher(function: Callable[..., Any]) -> Any:
    return functools.singledispatch(function)


def _make_dispatching_method(function: Callable[..., Any], dispatcher: Any) -> Any:
    made = functools.singledispatchmethod(function)
    made.dispatcher = dispatcher
    return made


def _register(dispatcher: Any, functions: Mapping[type, Callable[..., Any]]) -> None:
    for kind, function in functions.items():
        dispatcher.register(kind, function)
