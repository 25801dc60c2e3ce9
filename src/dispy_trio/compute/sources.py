"""The modules the user wrote himself: which they are, and their text.

They are those that lie under the directory of the program that runs, and are not installed. What
is loaded is taken, packages whole and with their data; and because a function may import more when
it runs, what these modules import by name from under the same directory is taken too.
"""

from __future__ import annotations

import ast
import dis
import functools
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from attrs import define, field, frozen

from dispy_trio.child.homes import MAINS
from dispy_trio.child.importer import Source
from dispy_trio.compute import trees
from dispy_trio.compute.edits import all_codes, codes_of, is_edited
from dispy_trio.logs import log

__all__ = ["Sources", "is_installed", "module_sources", "own_sources"]


@frozen
class Sources:
    """Modules that travel."""

    modules: dict[str, Source]
    data: dict[str, Path]
    """What else lies in packages: where it goes, from the directory that is searched for modules,
    and where it is here."""


def is_installed(module: ModuleType) -> bool:
    """Does it belong to what is installed, here and so perhaps on nodes too?"""
    file = getattr(module, "__file__", None)
    return not file or _is_installed(Path(file).resolve(), _installed_directories())


def module_sources(module: ModuleType) -> Sources:
    """One module, wherever it lies, and all that is in it if it is a package.

    Raises:
        ValueError: it has no Python source that could be sent.
    """
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py"):
        raise ValueError(
            f"the module {module.__name__!r} has no Python source to send: install it on the nodes"
        )
    path = Path(file).resolve()
    project = _Project(path.parent, ())
    project.add(module.__name__, path)
    _warn_if_edited(module, path, project)
    return project.finish()


def own_sources() -> Sources:
    """Every module that the user's functions may need."""
    project = _Project(_project_directory(), _installed_directories())
    for name, module in sorted(_loaded_modules()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py"):
            if name in MAINS:
                # Its functions go by value, but what they import has to be there.
                inside = f"{module.__package__}.{name}" if module.__package__ else name
                project.follow_imports(inside, Path(file).resolve(), is_package=False)
            elif (path := project.place_of(file)) is not None:
                project.add(name, path)
                _warn_if_edited(module, path, project)
        elif name in MAINS:
            project.follow_functions(module)
    project.follow_all()
    return project.finish()


def _warn_if_edited(module: ModuleType, path: Path, project: _Project) -> None:
    name = module.__name__
    if name in project.sources and is_edited(module, path, project.sources[name][0]):
        log.warning(
            "the module %r was edited since this program imported it: jobs will run what %s holds"
            " now, which is not what this program runs",
            name,
            path,
        )


def _loaded_modules() -> Iterator[tuple[str, ModuleType]]:
    # A copy: another thread may be importing.
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType):
            yield name, module


def _project_directory() -> Path:
    """Where the program that runs lies; the current directory when it is interactive.

    Also when it is an installed program that runs the user's code, such as a test runner. Of a
    package that runs (``python -m``), the directory that this lies in.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file:
        directory = Path(file).resolve().parent
        package = (getattr(main, "__package__", None) or "").split(".")
        if list(directory.parts[-len(package) :]) == package:
            directory = directory.parents[len(package) - 1]
        if not _is_installed(directory, _installed_directories()):
            return directory
    return Path.cwd().resolve()


@functools.cache
def _installed_directories() -> tuple[Path, ...]:
    """Where installed things live, and this package itself."""
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    found = {Path(paths[name]).resolve() for name in names}
    here = Path(__file__).resolve().parents[1]
    return (*sorted(found), here, here.with_name("dispy_mapreduce"))


def _is_installed(path: Path, installed: tuple[Path, ...]) -> bool:
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True
    return any(path.is_relative_to(directory) for directory in installed)


def _read(path: Path) -> str:
    """The text, in whatever encoding the file says it is."""
    return importlib.util.decode_source(trees.read(path))


@define
class _Project:
    """The sources under one directory."""

    root: Path
    installed: tuple[Path, ...]
    sources: dict[str, Source] = field(factory=dict)
    data: dict[str, Path] = field(factory=dict)
    _pending: list[str] = field(factory=list)
    """Modules whose imports were not looked at yet."""
    _search: list[Path] = field(factory=list)
    """What of ``sys.path`` is ours."""
    _seen: set[str] = field(factory=set)
    """Names looked for."""
    _places: dict[str, Path | None] = field(factory=dict)
    """Directories that modules were loaded from, and where they really are; None for foreign ones."""

    def place_of(self, file: str) -> Path | None:
        """Where a module's file really is; None when it is not ours.

        Hundreds are loaded, from a few directories: each of those is looked at once.
        """
        if os.path.islink(file):
            path = Path(file).resolve()
            return path if self.owns(path) else None
        directory, name = os.path.split(file)
        if directory not in self._places:
            there = Path(directory).resolve()
            self._places[directory] = there if self.owns(there / name) else None
        place = self._places[directory]
        return None if place is None else place / name

    def owns(self, path: Path) -> bool:
        return path.is_relative_to(self.root) and not _is_installed(path, self.installed)

    def add(self, name: str, path: Path) -> None:
        """Take a module; a package with all that is in it."""
        if name in self.sources:
            return
        is_package = path.name == "__init__.py"
        self._take(name, path, is_package)
        if not is_package:
            return
        top = path.parent
        for inner in trees.files_below(top):
            if not self._take_inner(name, inner, inner.relative_to(top)):
                self.data[str(Path(*name.split("."), inner.relative_to(top)))] = inner

    def _take_inner(self, package: str, path: Path, place: Path) -> bool:
        """Take a file of a package as a module; False when it is none."""
        pieces = list(place.with_suffix("").parts)
        if place.suffix == ".pyc":
            return True  # Compiled from one that is there too, or for nobody.
        if place.suffix != ".py" or not all(piece.isidentifier() for piece in pieces):
            return False
        is_package = pieces[-1] == "__init__"
        full = ".".join([package, *(pieces[:-1] if is_package else pieces)])
        if full not in self.sources:
            try:
                self._take(full, path, is_package)
            except (SyntaxError, UnicodeDecodeError):
                # Nobody has loaded it, and nobody could: a template, say, or a test's data.
                return False
        return True

    def _take(self, name: str, path: Path, is_package: bool) -> None:
        self.sources[name] = (_read(path), is_package, str(path))
        self._pending.append(name)

    # --- what they import ----------------------------------------------------------------------
    def follow_all(self) -> None:
        """Add what the modules taken so far import, and what that imports."""
        while self._pending:
            name = self._pending.pop()
            _, is_package, file = self.sources[name]
            self.follow_imports(name, Path(file), is_package=is_package)

    def follow_imports(self, name: str, path: Path, *, is_package: bool) -> None:
        try:
            tree = ast.parse(self.sources[name][0] if name in self.sources else _read(path))
        except (OSError, SyntaxError, UnicodeDecodeError):
            return  # Not loaded as it is now; whoever imports it will hear.
        package = name if is_package else name.rpartition(".")[0]
        for statement in _statements(tree):
            for imported in _imported_names(statement, package):
                self._add_by_name(imported)

    def follow_functions(self, module: ModuleType) -> None:
        """The same for a module whose text is not to be had: typed in, or given with ``-c``."""
        for function in codes_of(module):
            for code in all_codes(function):
                for instruction in dis.get_instructions(code):
                    if instruction.opname == "IMPORT_NAME" and instruction.argval:
                        self._add_by_name(str(instruction.argval))

    def _add_by_name(self, name: str) -> None:
        """Add a module that is not loaded, when its file lies under our directory."""
        if name in self._seen:
            return
        self._seen.add(name)
        pieces = name.split(".")
        # A package brings all that is in it.
        if any(".".join(pieces[:count]) in self.sources for count in range(1, len(pieces) + 1)):
            return
        if pieces[0] in sys.modules and not self._is_own_namespace(pieces[0]):
            return
        for directory in self._search_path():
            for count in range(1, len(pieces) + 1):
                place = directory.joinpath(*pieces[:count])
                for file in (place / "__init__.py", place.with_suffix(".py")):
                    if trees.is_file(file) and self.owns(file.resolve()):
                        self.add(".".join(pieces[:count]), file.resolve())
                        return

    def _is_own_namespace(self, name: str) -> bool:
        """Is this loaded module a directory of ours without ``__init__.py``?"""
        module = sys.modules[name]
        if getattr(module, "__file__", None) is not None:
            return False
        return any(self.owns(Path(place).resolve()) for place in getattr(module, "__path__", ()))

    def _search_path(self) -> list[Path]:
        if not self._search:
            inside = (Path(entry or ".").resolve() for entry in sys.path)
            found = [self.root, *(path for path in inside if self.owns(path))]
            self._search = list(dict.fromkeys(found))
        return self._search

    def finish(self) -> Sources:
        """What was found."""
        # Directories without ``__init__.py`` are packages too, and have no source.
        for name in list(self.sources):
            while (name := name.rpartition(".")[0]) and name not in self.sources:
                self.sources[name] = ("", True, "<namespace package>")
        return Sources(self.sources, self.data)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, also inside of others; expressions, which are most of a tree, are left out."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                pending += inner


def _imported_names(node: ast.AST, package: str) -> Iterator[str]:
    """Modules that an import statement may mean."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".") if package else []
            kept = parents[: len(parents) - node.level + 1]
            base = ".".join([*kept, base] if base else kept)
        if base:
            yield base
        for alias in node.names:
            if alias.name != "*":
                yield f"{base}.{alias.name}" if base else alias.name
