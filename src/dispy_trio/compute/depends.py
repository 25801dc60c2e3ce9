"""What a computation or a job depends on, sorted into what travels in which way.

Functions and classes are pickled and known to the computation under their names; modules travel as
their sources; files are put into the computation's directory.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import sys
import threading
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
from attrs import field, frozen

from dispy_trio.child.importer import Source
from dispy_trio.compute.blame import global_names
from dispy_trio.compute.sources import is_installed, module_sources
from dispy_trio.models import JobFile

__all__ = [
    "NO_DEPENDS",
    "Depends",
    "by_value",
    "sort_depends",
    "to_job_file",
    "unimported_names",
]

PRESENT = frozenset(
    [
        "os",
        "sys",
        "time",
        "stat",
        "socket",
        "multiprocessing",
        "threading",
        "subprocess",
        "traceback",
        "marshal",
        "tempfile",
        "shutil",
        "glob",
        "pickle",
        "io",
        "signal",
        "platform",
        "copy",
        "struct",
        "hashlib",
        "re",
        "errno",
        "psutil",
    ]
)
"""Modules that dispy's jobs find without importing them."""


@frozen
class Depends:
    """Dependencies by kind."""

    code: Mapping[str, Any] = field(factory=dict)
    """Functions and classes by their names."""
    sources: Mapping[str, Source] = field(factory=dict)
    """Modules by their names."""
    data: Mapping[str, Path] = field(factory=dict)
    """What else lies in packages; see `Sources`."""
    files: tuple[JobFile, ...] = ()

    @property
    def all_files(self) -> tuple[JobFile, ...]:
        """The files, and the modules as files, for who has no other way to import them."""
        modules = [
            JobFile(file, os.path.join(*name.split("."), "__init__.py" if is_package else ""))
            if is_package
            else JobFile(file, os.path.join(*name.split(".")) + ".py")
            for name, (_, is_package, file) in self.sources.items()
            if os.path.isfile(file)
        ]
        data = [JobFile(str(path), target) for target, path in self.data.items() if path.is_file()]
        return (*self.files, *modules, *data)


NO_DEPENDS = Depends()


def to_job_file(path: str | os.PathLike[str], parameter: str) -> JobFile:
    """A file, and where it goes: the same place relative to the current directory, or, from
    outside of that, right into the directory of the computation.

    Raises:
        ValueError: names the parameter and the path that is no file.
    """
    full = Path(os.path.abspath(os.fspath(path)))
    if not full.is_file():
        what = "a directory, not a file" if full.is_dir() else "not a file"
        raise ValueError(f"{parameter}: {os.fspath(path)!r} is {what}")
    here = Path.cwd()
    target = full.relative_to(here) if full.is_relative_to(here) else Path(full.name)
    return JobFile(str(full), str(target))


def sort_depends(depends: Sequence[Any], parameter: str = "depends") -> Depends:
    """Sort dependencies into their kinds.

    Args:
        depends: paths of files, modules, functions, classes, partials, or instances, which stand
            for their class.
        parameter: what the list is called, for error texts.

    Raises:
        TypeError: it is not a list, or one element is of none of these kinds.
        ValueError: a path is no file, or a module has no source.
    """
    if isinstance(depends, (str, bytes)) or not isinstance(depends, (list, tuple)):
        raise TypeError(f"{parameter} is a list of dependencies, not {type(depends).__name__}")
    code: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    data: dict[str, Path] = {}
    files: list[JobFile] = []
    for element in depends:
        if isinstance(element, (str, os.PathLike)):
            files.append(to_job_file(element, parameter))
        elif isinstance(element, types.ModuleType):
            found = module_sources(element)
            sources |= found.modules
            data |= found.data
        else:
            thing = _definition_of(element, parameter)
            code[thing.__name__] = thing
    return Depends(code, sources, data, tuple(files))


def _definition_of(element: Any, parameter: str) -> Any:
    """The function or class that a dependency is, or is made of."""
    if isinstance(element, functools.partial):
        return _definition_of(element.func, parameter)
    if inspect.ismethod(element):
        owner = element.__self__
        return owner if isinstance(owner, type) else type(owner)
    if inspect.isfunction(element) or isinstance(element, type):
        return element
    kind = type(element)
    if kind.__module__ == "builtins":
        raise TypeError(
            f"{parameter}: {element!r} is no dependency: give paths of files, modules, functions,"
            " classes or instances of classes"
        )
    return kind


_registering = threading.RLock()
"""What is registered is so for all threads: one at a time, so that none takes away another's."""


def _renew_lock() -> None:
    global _registering
    _registering = threading.RLock()


# A thread that held it is not in the fork.
os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def by_value(
    listed: Iterable[Any], others: Iterable[Any], sources: Collection[str]
) -> Iterator[None]:
    """While this lasts, cloudpickle takes functions and classes in whole that nodes can't import.

    What lies in a module whose source travels, in the standard library or in the main program needs
    nothing special.

    Args:
        listed: dependencies: the user says that nodes do not have them, also if they are installed
            here.
        others: the computation and what belongs to it: if it is installed here, nodes have it too.
        sources: names of the modules that travel.
    """
    with _registering:
        registered: list[types.ModuleType] = []
        known = cloudpickle.list_registry_pickle_by_value()
        for thing, is_listed in [*((t, True) for t in listed), *((t, False) for t in others)]:
            while isinstance(thing, functools.partial):
                thing = thing.func
            name = getattr(thing, "__module__", None) or "__main__"
            module = sys.modules.get(name)
            if module is None or name in sources or name in known or name == "__main__":
                continue
            if name.partition(".")[0] in sys.stdlib_module_names or module in registered:
                continue
            if not is_listed and is_installed(module):
                continue
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
        try:
            yield
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def unimported_names(objects: Iterable[Any]) -> list[str]:
    """The modules that these use without importing them, because dispy's nodes had them."""
    found: set[str] = set()
    for thing in objects:
        for function in _functions_of(thing):
            space = function.__globals__
            for name in global_names(function.__code__) & PRESENT:
                if name not in space and name not in vars(builtins):
                    found.add(name)
    return sorted(found)


def _functions_of(thing: Any) -> Iterator[types.FunctionType]:
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = getattr(thing, "__func__", thing)
    if isinstance(thing, types.FunctionType):
        yield thing
        return
    for member in vars(thing if isinstance(thing, type) else type(thing)).values():
        member = getattr(member, "__func__", member)
        if isinstance(member, types.FunctionType):
            yield member
