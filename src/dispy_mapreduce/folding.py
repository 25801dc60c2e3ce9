"""What reducers and combiners may look like, made into one shape.

Three spellings are known:

- ``reducer(key, values)``: two required arguments.
- ``reducer(values)``: one required argument, as of ``statistics.mean``; and the builtins ``sum``,
  ``max``, ``min``, ``len``, ``any``, ``all``, ``list``, ``set``, ``sorted``…
- an operator of two values (``operator.add``, ``mul``, ``and_``, ``or_``, ``xor``), which is
  applied from value to value.

``sum``, ``max``, ``min`` and the operators are *folds*: known to give the same whatever the order
and grouping of the values, but for the rounding of floats. A fold needs no list of values; it is applied while mapping already.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

from attrs import frozen

from dispy_mapreduce.errors import BadProgram

__all__ = ["Fold", "OfKeyAndValues", "OfValues", "Reduction", "understand"]


@frozen
class Fold:
    """An operation of two values that may be applied in any order and grouping."""

    function: Callable[[Any, Any], Any]
    adds: bool = False
    """It is ``sum``: begins with 0."""

    def __call__(self, key: Any, values: Iterable[Any]) -> Any:
        del key
        return sum(values) if self.adds else reduce(self.function, values)


@frozen
class OfValues:
    """A function of the values alone."""

    function: Callable[[Any], Any]

    def __call__(self, key: Any, values: Iterable[Any]) -> Any:
        del key
        return self.function(list(values) if self.function is len else values)


@frozen
class OfKeyAndValues:
    """A function of the key and its values."""

    function: Callable[[Any, Any], Any]

    def __call__(self, key: Any, values: Iterable[Any]) -> Any:
        return self.function(key, values)


Reduction = Fold | OfValues | OfKeyAndValues

_OPERATORS = (operator.add, operator.mul, operator.and_, operator.or_, operator.xor)

_FOLDS: tuple[tuple[Any, Fold], ...] = (
    (sum, Fold(operator.add, adds=True)),
    *((function, Fold(function)) for function in (max, min, *_OPERATORS)),
)

_OF_VALUES: tuple[Any, ...] = (len, any, all, list, tuple, set, frozenset, sorted)


def understand(function: Any, what: str) -> Reduction:
    """Tell how the function wants to be called.

    Raises:
        BadProgram: it takes neither one nor two arguments.
    """
    for known, fold in _FOLDS:
        if function is known:
            return fold
    if any(function is known for known in _OF_VALUES):
        return OfValues(function)
    if not callable(function):
        raise BadProgram(f"the {what} {function!r} can't be called")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise BadProgram(
            f"the {what} {function!r} does not tell its arguments: wrap it in a function of"
            " (key, values)"
        ) from error
    if _takes(signature, 2) and not _takes(signature, 1):
        return OfKeyAndValues(function)
    if _takes(signature, 1):
        return OfValues(function)
    raise BadProgram(f"the {what} must take (key, values) or (values); it takes {signature}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
