"""Serves the user's own modules, which came with the computation, to ``import``."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType

__all__ = ["BundleImporter", "Source", "install"]

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


def install(sources: Mapping[str, Source]) -> None:
    """Have the sources found before anything that is installed here."""
    if sources:
        sys.meta_path.insert(0, BundleImporter(sources))
