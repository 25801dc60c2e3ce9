"""A method as a computation: called with its own object, or with one that the job brings.

dispy's programs give the object with each job, ``submit(self, x)``; others make the cluster of a
bound method and give only the rest, ``submit(x)``. Both are right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

__all__ = ["Method", "to_function"]


def to_function(computation: Callable[..., Any]) -> Callable[..., Any]:
    """What is sent to the nodes in the place of a computation."""
    if inspect.ismethod(computation) and not isinstance(computation.__self__, type):
        return Method(computation)
    return computation


class Method:
    """A bound method, that takes another object of its class as first argument, too."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], self._owner) and self._takes(args, kwargs):
            return self.method.__func__(*args, **kwargs)
        return self.method(*args, **kwargs)

    @cached_property
    def _owner(self) -> type:
        return type(self.method.__self__)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.method.__func__)

    def _takes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Are these all arguments, the object among them?"""
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True
