"""Programs for the command line: a file or module that defines ``mapper`` and ``reducer``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from attrs import frozen

from dispy_mapreduce.errors import BadProgram

__all__ = ["Program", "load_module", "run_program"]


@frozen
class Program:
    """What a map_reduce is made of."""

    name: str
    mapper: Callable[[Any], Any]
    reducer: Callable[..., Any]
    combiner: Callable[..., Any] | None


def load_module(module_or_file: str) -> Program:
    """Import a module by its name, or a ``.py`` file by its path, and take its functions.

    What is defined in it is sent to the nodes by value: they need not have it.

    Raises:
        BadProgram: it can't be imported, or does not define ``mapper`` and ``reducer``.
    """
    module = _import_file(module_or_file) if _is_file(module_or_file) else _import(module_or_file)
    cloudpickle.register_pickle_by_value(module)
    missing = [name for name in ("mapper", "reducer") if not hasattr(module, name)]
    if missing:
        raise BadProgram(f"{module_or_file} does not define {' and '.join(missing)}")
    combiner = getattr(module, "combiner", None)
    return Program(module.__name__, module.mapper, module.reducer, combiner)


def run_program(
    module_or_file: str,
    inputs: Sequence[str],
    *,
    output: str | None = None,
    nodes: Sequence[str] | None = None,
    cluster: Any = None,
    partitions: int | None = None,
) -> Any:
    """Run a program over files and patterns; what `map_reduce` takes, raises and returns."""
    from dispy_mapreduce.api import map_reduce
    from dispy_mapreduce.plan import files

    program = load_module(module_or_file)
    run: Any = map_reduce
    return run(
        program.mapper,
        program.reducer,
        files(*inputs),
        combiner=program.combiner,
        output=output,
        nodes=nodes or None,
        cluster=cluster,
        partitions=partitions,
    )


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _import_file(name: str) -> ModuleType:
    path = Path(name)
    if not path.is_file():
        raise BadProgram(f"{name} is not there")
    module_name = path.stem
    if module_name in sys.modules:
        # Not to stand in for a module that something else has imported by this name.
        module_name = f"{module_name}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise BadProgram(f"{name} can't be imported: {type(error).__name__}: {error}") from error
    return module


def _import(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise BadProgram(f"{name} can't be imported: {type(error).__name__}: {error}") from error
