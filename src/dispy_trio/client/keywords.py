"""Names of parameters that do not exist get the name that was meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["with_suggestions"]

P = ParamSpec("P")
R = TypeVar("R")


def with_suggestions(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function tell of parameters that it has not, and which one may be meant.

    Args:
        name: what its user calls the function.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        known = frozenset(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for keyword in kwargs:
                if keyword not in known:
                    raise _unknown(name, keyword, known)
            return function(*args, **kwargs)

        return call

    return wrap


def _unknown(name: str, keyword: str, known: frozenset[str]) -> TypeError:
    from difflib import get_close_matches  # Seldom needed.

    text = f"{name} has no parameter {keyword!r}"
    meant = get_close_matches(keyword, sorted(known - {"self"}), 1)
    return TypeError(text + (f"; did you mean {meant[0]!r}?" if meant else ""))
