"""The generators that modules draw random numbers from: one in each process, and no copies.

A function that says ``from random import random`` refers to the generator of that module. Pickled by
value it would be the same in all processes of jobs, and all would draw the same numbers.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["draw_anew", "reduce_generator"]

_TYPES = frozenset({"Random", "RandomState"})
_MODULES = ("random", "numpy.random")
"""Their functions are methods of one generator each."""


def reduce_generator(value: Any) -> tuple[Any, ...] | None:
    """How to pickle a generator that belongs to a module; None of all others."""
    if type(value).__name__ in _TYPES:
        for name in _MODULES:
            if name in sys.modules and generator_of(name) is value:
                return generator_of, (name,)
    return None


def generator_of(name: str) -> Any:
    """What the functions of a module draw from; None of a module that has none."""
    return getattr(getattr(importlib.import_module(name), "random", None), "__self__", None)


def draw_anew() -> None:
    """In a fork: have numpy's generator draw other numbers than in the other forks.

    Python's own does so by itself. One that the user has seeded, in setup say, goes on from there.
    """
    numpy_random: Any = sys.modules.get("numpy.random")
    if hasattr(numpy_random, "set_bit_generator"):  # Numpy 1.24 and later.
        generator = numpy_random.get_bit_generator()
        if generator.seed_seq is not None:
            numpy_random.set_bit_generator(type(generator)())
