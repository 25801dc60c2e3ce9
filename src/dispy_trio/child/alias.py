"""``import dispy`` gives this package, for programs that say so in many files."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["install_as_dispy", "is_installed"]

_OURS = "dispy_trio"
_NAME = "dispy"


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``dispy`` and what is below it under our own names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != _NAME:
            return None
        try:
            module = importlib.import_module(_OURS + fullname.removeprefix(_NAME))
        except ModuleNotFoundError as exc:
            if exc.name is not None and exc.name.startswith(_OURS):
                return None  # We have none of that name.
            raise
        spec = importlib.machinery.ModuleSpec(
            fullname, self, is_package=hasattr(module, "__path__")
        )
        spec.loader_state = module, module.__spec__
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module: ModuleType = spec.loader_state[0]
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run already. The import has marked it as found under the other name.
        assert module.__spec__ is not None
        _, module.__spec__ = module.__spec__.loader_state


def is_installed() -> bool:
    """Does ``import dispy`` give this package?"""
    return any(isinstance(finder, _Alias) for finder in sys.meta_path)


def install_as_dispy() -> None:
    """Have ``import dispy`` give `dispy_trio`, and ``import dispy.x`` what is `dispy_trio.x`.

    Call it before anything imports ``dispy``. It holds for the whole program, and for jobs of the
    clusters that are made afterwards.

    Raises:
        ImportError: another ``dispy`` is imported already; says from where.
    """
    there = sys.modules.get(_NAME)
    if there is not None and there is not sys.modules.get(_OURS):
        raise ImportError(
            f"another dispy is imported already, from {there.__file__}: call install_as_dispy()"
            " before that",
            name=_NAME,
        )
    if not is_installed():
        sys.meta_path.insert(0, _Alias())
