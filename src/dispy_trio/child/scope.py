"""The names that a computation's code finds without defining or importing them.

dispy ran all code of a computation in one module's namespace. Here functions keep their own
globals, but what one of them needs of the others is put there: dependencies under their names, what
`setup` made global, and, behind all of that in the builtins, dispy's own names and the modules that
dispy's node happened to have imported, as far as the computation uses them.
"""

from __future__ import annotations

import builtins
import importlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["Scope", "add_builtins", "import_unimported"]


def import_unimported(names: Iterable[str]) -> None:
    """Make modules known to everybody under their names."""
    add_builtins({name: importlib.import_module(name) for name in names})


def add_builtins(names: Mapping[str, Any]) -> None:
    """Make these known to all code of this process that has not defined the name itself."""
    vars(builtins).update(names)


def _functions_of(value: Any) -> Iterator[types.FunctionType]:
    """The functions that a callable is made of."""
    while not isinstance(value, types.FunctionType):
        inner = getattr(value, "__func__", None) or getattr(value, "func", None)
        if inner is None:
            break
        value = inner
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, type):
        for member in vars(value).values():
            member = getattr(member, "__func__", member)
            if isinstance(member, types.FunctionType):
                yield member


class Scope:
    """The globals of all functions of one computation."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._spaces: dict[int, dict[str, Any]] = {}
        for value in values:
            for function in _functions_of(value):
                self._spaces[id(function.__globals__)] = function.__globals__

    def add(self, names: Mapping[str, Any]) -> None:
        """Make these known where the name is not defined."""
        for space in self._spaces.values():
            for name, value in names.items():
                space.setdefault(name, value)

    def share_what_is_made_by(self, call: Callable[[], Any]) -> Any:
        """Call, and make the globals that this defines or changes known everywhere."""
        before = {key: dict(space) for key, space in self._spaces.items()}
        result = call()
        made: dict[str, Any] = {}
        for key, space in self._spaces.items():
            old = before[key]
            for name, value in list(space.items()):
                if name not in old or old[name] is not value:
                    made[name] = value
        for space in self._spaces.values():
            space.update(made)
        return result

    def lend(self, names: Mapping[str, Any]) -> Callable[[], None]:
        """Make these known until the function that is returned is called.

        What they are made of sees what the computation sees.
        """
        known: dict[str, Any] = {}
        for space in self._spaces.values():
            known.update(space)
        known.update(names)
        for value in names.values():
            for function in _functions_of(value):
                for name, there in known.items():
                    function.__globals__.setdefault(name, there)
        missing = object()
        before = [
            (space, {name: space.get(name, missing) for name in names})
            for space in self._spaces.values()
        ]
        for space in self._spaces.values():
            space.update(names)

        def take_back() -> None:
            for space, old in before:
                for name, value in old.items():
                    if value is missing:
                        space.pop(name, None)
                    else:
                        space[name] = value

        return take_back
