"""Serves the user's own modules, which came with the computation, to ``import``."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType

__all__ = ["BundleImporter", "Source", "install", "write_out"]

Source = tuple[str, bool, str]
"""Text of the module, whether it is a package, and the file it came from, for tracebacks."""


class BundleImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader in one, over a dict of sources."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        _, is_package, filename = self._sources[fullname]
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=filename, is_package=is_package
        )
        spec.has_location = True
        return spec

    def get_source(self, fullname: str) -> str:
        """For `linecache`: tracebacks show the line although the file is not here."""
        try:
            return self._sources[fullname][0]
        except KeyError:
            raise ImportError(f"{fullname} did not come with the computation") from None

    def is_package(self, fullname: str) -> bool:
        return self._sources[fullname][1]

    def get_code(self, fullname: str) -> CodeType:
        source, _, filename = self._sources[fullname]
        return compile(source, filename, "exec", dont_inherit=True)


def write_out(sources: Mapping[str, Source], directory: str) -> None:
    """Put the sources into files too, for interpreters that jobs start (`multiprocessing`, say)."""
    for name, (text, is_package, _) in sources.items():
        path = os.path.join(directory, *name.split("."))
        path = os.path.join(path, "__init__.py") if is_package else f"{path}.py"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def install(sources: Mapping[str, Source]) -> None:
    """Have the sources found before anything that is installed here."""
    sys.meta_path.insert(0, BundleImporter(sources))
