"""Classes that come by value, as they are made here before they get their attributes.

cloudpickle makes a class without its slots and its full name, and an enumeration without its
aliases and what its members hold. It also has hooks of bases and metaclasses called, with a class
that is still empty and without the keywords of its definition. What those that came by value did,
where the class was defined, has come along; here they are left out.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle.cloudpickle

__all__ = ["complete_class", "complete_enumeration", "make_class", "set_enumeration_state"]

_HOOK = "__init_subclass__"
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_set_state: Callable[[type, Any], object] = cloudpickle.cloudpickle._class_setstate


# --- there -------------------------------------------------------------------------------------
def complete_class(kind: type, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What `make_class` is to be called with, of what cloudpickle makes the class of."""
    metaclass, name, bases, namespace, *_ = args
    namespace = {**namespace, "__qualname__": kind.__qualname__}
    if issubclass(kind, tuple):
        bases = kind.__bases__  # `typing.NamedTuple` is none, it makes another class.
    for attribute in ("__slots__", "__orig_bases__"):
        if attribute in vars(kind):
            namespace[attribute] = vars(kind)[attribute]
    plain = {name: value for name, value in vars(kind).items() if type(value) in _PLAIN}
    return metaclass, name, bases, namespace, {**plain, **namespace}


def complete_enumeration(
    kind: type[enum.Enum], args: tuple[Any, ...], state: tuple[dict[str, Any], Any]
) -> tuple[tuple[Any, ...], Any]:
    """What cloudpickle is to make an enumeration of, and the state for `set_enumeration_state`."""
    members = kind.__members__
    bases, name, full_name, _, *rest = args
    values = {name: member.value for name, member in members.items()}
    attributes = {name: value for name, value in state[0].items() if name not in members}
    held = {name: vars(member) for name, member in members.items()}
    return (bases, name, full_name, values, *rest), ((attributes, state[1]), held)


# --- here --------------------------------------------------------------------------------------
def make_class(described: tuple[Any, ...], ours: Container[type]) -> type:
    """A class without attributes.

    Args:
        described: what `complete_class` returned.
        ours: the classes that came by value.
    """
    metaclass, name, bases, namespace, more = described
    try:
        return _make(metaclass, name, bases, namespace, ours)
    except Exception as exc:
        try:
            # Hooks that nodes import want to see some of it, maybe.
            return _make(metaclass, name, bases, more, ours)
        except Exception:
            raise exc from None


def _make(
    metaclass: type,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    ours: Container[type],
) -> type:
    resolved = types.resolve_bases(bases)
    with _without_hooks(resolved, ours):
        if metaclass not in ours:
            return types.new_class(
                name, resolved, {"metaclass": metaclass}, lambda space: space.update(namespace)
            )
        make: Callable[..., type] = next(k for k in metaclass.__mro__ if k not in ours).__new__
        return make(metaclass, name, resolved, namespace)


@contextmanager
def _without_hooks(bases: tuple[type, ...], ours: Container[type]) -> Iterator[None]:
    above = dict.fromkeys(kind for base in bases for kind in base.__mro__)
    hidden = {kind: vars(kind)[_HOOK] for kind in above if _HOOK in vars(kind) and kind in ours}
    for kind in hidden:
        type.__delattr__(kind, _HOOK)
    try:
        yield
    finally:
        for kind, hook in hidden.items():
            type.__setattr__(kind, _HOOK, hook)


def set_enumeration_state(kind: type[enum.Enum], state: Any) -> None:
    """Give an enumeration and its members what they hold there."""
    attributes, held = state
    _set_state(kind, attributes)
    for name, values in held.items():
        vars(kind[name]).update(values)
