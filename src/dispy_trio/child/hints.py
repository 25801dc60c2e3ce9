"""Names of types by value: those of the program itself can't be imported elsewhere.

Annotations are full of them, which go with functions.
"""

from __future__ import annotations

import typing
from typing import Any

__all__ = ["is_hint", "reduce_hint"]

_KINDS = frozenset(
    vars(typing)[name]
    for name in ("NewType", "ParamSpec", "TypeVarTuple", "TypeAliasType")
    if name in vars(typing)
)
"""`TypeAliasType` is in Python 3.12 and later. cloudpickle knows `TypeVar`."""


def is_hint(value: Any) -> bool:
    """Would it be pickled as its name alone?"""
    return type(value) in _KINDS


def reduce_hint(value: Any) -> tuple[Any, ...]:
    """How to pickle it by value."""
    name, module = value.__name__, value.__module__
    if type(value) is typing.NewType:
        return _make, (typing.NewType, (name, value.__supertype__), {}, module)
    if type(value) is typing.ParamSpec:
        variance = {"covariant": value.__covariant__, "contravariant": value.__contravariant__}
        return _make, (typing.ParamSpec, (name,), {"bound": value.__bound__, **variance}, module)
    if type(value) is typing.TypeVarTuple:
        return _make, (typing.TypeVarTuple, (name,), {}, module)
    parameters = {"type_params": value.__type_params__}
    return _make, (type(value), (name, value.__value__), parameters, module)


def _make(kind: Any, args: tuple[Any, ...], options: dict[str, Any], module: str) -> Any:
    made = kind(*args, **options)
    if kind.__name__ != "TypeAliasType":  # That has the module of whoever asks for it.
        made.__module__ = module
    return made
