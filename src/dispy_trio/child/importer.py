"""Serves the user's own modules, which came with the computation, to ``import``.

They lie in files too, with the data of their packages beside them, for what opens files there and
for interpreters that jobs start. Tracebacks name the files that they came from.

A module that fails may be tolerated, when the computation could not be loaded otherwise: then it is
run statement by statement, and `StandIn` objects are what those that fail would have made. So the
functions run that need none of it.
"""

from __future__ import annotations
import __future__

import ast
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any

from dispy_trio.child.standins import StandIn

__all__ = ["BundleImporter", "Source", "install", "module_being_imported", "write_out"]

Source = tuple[str, bool, str]
"""Text of the module, whether it is a package, and the file it came from, for tracebacks."""

_FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


class BundleImporter(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finder and loader in one, over a dict of sources."""

    def __init__(self, sources: Mapping[str, Source], directory: str) -> None:
        self._sources = dict(sources)
        self._directory = directory
        """Where `write_out` has put them."""
        self._failures: dict[str, BaseException] | None = {}
        """What modules raised, until it is of no use any more: errors hold on to much."""
        self._tolerated: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        source = self._sources[fullname]
        origin = None if _is_directory(source) else self.get_filename(fullname)
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=origin, is_package=source[1])
        spec.has_location = origin is not None
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(
                os.path.dirname(_place(self._directory, fullname, is_package=True))
            )
        return spec

    def get_filename(self, fullname: str) -> str:
        return _place(self._directory, fullname, is_package=self._sources[fullname][1])

    def get_data(self, path: str) -> bytes:
        """For `pkgutil`."""
        with open(path, "rb") as file:
            return file.read()

    def get_resource_reader(self, fullname: str) -> Any:
        """For `importlib.resources`: they are files like others."""
        path = self.get_filename(fullname)
        return importlib.machinery.SourceFileLoader(fullname, path).get_resource_reader(fullname)

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

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        try:
            if name in self._tolerated:
                self._run_what_runs(module)
            else:
                super().exec_module(module)
        except BaseException as exc:
            if self._failures is not None:
                self._failures[name] = exc
            raise

    # --- modules that fail ---------------------------------------------------------------------
    def tolerate(self, error: BaseException) -> bool:
        """Be content, from now on, with what can be had of the modules that raised this.

        False when there are none, or they were tolerated already.
        """
        failures = self._failures or {}
        failed = {name for name, failure in failures.items() if failure is error}
        more = bool(failed - self._tolerated)
        self._tolerated |= failed
        return more

    def insist(self) -> None:
        """Tolerate nothing any more."""
        self._tolerated.clear()
        self._failures = None

    def _run_what_runs(self, module: ModuleType) -> None:
        source, _, filename = self._sources[module.__name__]
        # What annotations name may be missing, and is seldom needed.
        flags = self.get_code(module.__name__).co_flags & _FUTURES
        flags |= __future__.annotations.compiler_flag
        for statement in ast.parse(source, filename).body:
            code = compile(
                ast.Module([statement], []), filename, "exec", flags=flags, dont_inherit=True
            )
            try:
                exec(code, vars(module))
            except Exception as exc:
                why = f"the import of {module.__name__!r} on this node failed ({_describe(exc)})"
                for name in _names_bound_by(statement):
                    stand_in = StandIn(f"`{name}` of the module {module.__name__!r}", why)
                    vars(module).setdefault(name, stand_in)


def _describe(exc: Exception) -> str:
    text = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, ModuleNotFoundError):
        text += f"; send the module {exc.name!r} along with depends=, or install it on the node"
    return text


def _names_bound_by(statement: ast.AST) -> Iterator[str]:
    """Names that a statement of a module would define there."""
    pending = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name  # What is in it is its own.
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp)):
            pending += ast.iter_child_nodes(node)


# --- files -------------------------------------------------------------------------------------
def _is_directory(source: Source) -> bool:
    """Is this a package without ``__init__.py``?"""
    return source[2] == "<namespace package>"


def _place(directory: str, name: str, *, is_package: bool) -> str:
    path = os.path.join(directory, *name.split("."))
    return os.path.join(path, "__init__.py") if is_package else f"{path}.py"


def write_out(sources: Mapping[str, Source], data: Mapping[str, bytes], directory: str) -> None:
    """Put the sources into files, and what lies beside them.

    Args:
        sources: by the names of the modules.
        data: by path.
        directory: that these paths begin in.
    """
    contents = {
        _place(directory, name, is_package=is_package): text.encode()
        for name, (text, is_package, _) in sources.items()
    }
    contents |= {os.path.join(directory, path): content for path, content in data.items()}
    for path, content in contents.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def install(sources: Mapping[str, Source], directory: str) -> BundleImporter:
    """Have the sources found before anything that is installed here."""
    importer = BundleImporter(sources, directory)
    sys.meta_path.insert(0, importer)
    return importer


def module_being_imported() -> str | None:
    """The module that this importer runs on the calling thread just now."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is BundleImporter.exec_module.__code__:
            return str(frame.f_locals["module"].__name__)
        frame = frame.f_back
    return None
