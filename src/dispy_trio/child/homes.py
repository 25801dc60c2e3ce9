"""The modules in which a node finds the classes that came with a computation by value.

There plain pickle finds them by the names that they have in the client, so that results, and the
arguments of later jobs, need not carry them. ``__main__`` is such a module. A module that this node
can't import gets one here that holds these classes and nothing else.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from types import ModuleType

__all__ = ["MAINS", "is_found", "settle"]

MAINS = ("__main__", "__mp_main__")
"""The second is the main module of a process that multiprocessing has started."""

_made: dict[str, ModuleType] = {}


def is_found(kind: type) -> bool:
    """Does its name lead to this class?"""
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def settle(classes: Iterable[type]) -> None:
    """Have classes found by their names."""
    for kind in classes:
        # Those within another came with that.
        if "." not in kind.__qualname__:
            home = _home_of(kind.__module__)
            if home is not None:
                setattr(home, kind.__qualname__, kind)


def _home_of(name: str) -> ModuleType | None:
    if name in MAINS:
        return sys.modules.setdefault(name, sys.modules["__main__"])
    if "." not in name and name not in sys.modules and importlib.util.find_spec(name) is None:
        _made[name] = ModuleType(name, "Classes that came with the computation.")
        sys.modules[name] = _made[name]
    # A module of this node's own may mean something else by that name.
    return _made.get(name)
