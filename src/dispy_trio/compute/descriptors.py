"""How many descriptors this process may have. Standard library only: see `compute.starting`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

__all__ = ["raise_limit", "set_usual_limit", "usual_limit"]

_ENOUGH = 1 << 20
"""Where the kernel's own limit is by default: a larger one may be refused."""

_usual: int | None = None


def _own_resource() -> ModuleType:
    """Python's own `resource`: clients may have another one beside their program."""
    places = [place for place in sys.path if place.endswith("/lib-dynload")]
    finders: Any = importlib.machinery.BuiltinImporter, importlib.machinery.PathFinder
    for finder in finders:
        spec = finder.find_spec("resource", places)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return importlib.import_module("resource")


resource: Any = _own_resource()


def raise_limit() -> int:
    """Let this process have as many descriptors as it is allowed to; how many that are.

    The limit that a process starts with is low for the sake of programs that use `select`, which
    can't wait on higher ones. Nothing here does.
    """
    global _usual
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _usual is None:
        _usual = soft
    most: int = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return int(soft)  # The kernel's own limit was lowered.
    return most


def usual_limit() -> int:
    """What the user's own code is to have: the limit that we were started with."""
    return _usual if _usual is not None else int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def set_usual_limit(limit: int) -> None:
    """Whoever started us had raised its own; that one it was started with."""
    global _usual
    _usual = limit
