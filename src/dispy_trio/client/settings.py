"""What both kinds of cluster are made with: arguments checked once, early, with errors that name
the argument."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve

from dispy_trio import config, messages
from dispy_trio.client.nodes import NodeChoice
from dispy_trio.client.options import check_grace, parse_size
from dispy_trio.compute.depends import NO_DEPENDS, sort_depends
from dispy_trio.compute.packaging import Bundle, check_kind, pack_computation
from dispy_trio.compute.pickling import NOTHING_CARRIED, Carried
from dispy_trio.config import PULSE_INTERVAL
from dispy_trio.models import GRACE, OPTIONS_OF_MOST, JobFile, JobOptions

__all__ = [
    "ClusterSettings",
    "Work",
    "check_bool",
    "check_callback",
    "check_range",
    "pack_work",
]


@define
class ClusterSettings:
    """Where a cluster's jobs run, and how its nodes are reached."""

    choice: NodeChoice
    cpus: int = 0
    reentrant: bool = False
    secret: str = ""
    secret_file: str | Path | None = None
    certfile: str | os.PathLike[str] | None = None
    keyfile: str | os.PathLike[str] | None = None
    pulse_interval: float = PULSE_INTERVAL
    connect_timeout: float | None = None
    options: JobOptions = OPTIONS_OF_MOST
    """Of the jobs that are given none of their own."""
    loglevel: int | None = None
    """Of the cluster's messages; None for that of the program's own logging."""


@define
class Work:
    """What a cluster's jobs run: the computation with all that goes with it."""

    opening: messages.OpenComputation
    files: tuple[JobFile, ...] = ()
    """To be put on each node first."""
    is_program: bool = False
    carried: Carried = NOTHING_CARRIED
    """Classes that need not go with arguments."""


def pack_work(
    computation: Callable[..., Any] | str,
    *,
    name: str | None = None,
    depends: Sequence[Any] = (),
    setup: Callable[..., Any] | None = None,
    cleanup: bool | Callable[..., Any] = True,
    dest_path: str | None = None,
    setup_timeout: float | None = None,
    live_output: bool = False,
    max_output: int | str | None = None,
    grace: float | None = None,
) -> Work:
    """Pack a computation.

    Raises:
        PickleArgumentError: names the part that can't be pickled.
        TypeError, ValueError: name the argument that can't be used, and why.
    """
    sorted_depends = sort_depends(depends, "depends") if depends else NO_DEPENDS
    _check_setup(setup, cleanup)
    if dest_path is not None and not isinstance(dest_path, str):
        raise TypeError(f"dest_path is a str, not {type(dest_path).__name__}")
    if setup_timeout is not None:
        check_range("setup_timeout", setup_timeout, 0.001, 10**9)
    check_bool("live_output", live_output)
    output_limit = 0 if max_output is None else parse_size(max_output, "max_output")
    if max_output is not None and not output_limit:
        raise ValueError(f"max_output is {max_output}; it has to be at least 1")
    cleanup_call = cleanup if callable(cleanup) else None
    is_program = isinstance(computation, str)
    if isinstance(computation, str):
        from dispy_trio.compute.programs import find_program

        program, file = find_program(computation, str(config.Java))
        name = name or computation
        bundle = pack_computation(program, sorted_depends, setup, cleanup_call, name)
        bundle = evolve(bundle, files=(file, *bundle.files))
    else:
        bundle = pack_computation(computation, sorted_depends, setup, cleanup_call, name)
    options = messages.ComputationOptions(
        dest_path=_dest_path(dest_path, cleanup, bundle),
        keep_files=cleanup is False,
        setup_timeout=setup_timeout or 0.0,
        live_output=live_output,
        has_cleanup=cleanup_call is not None,
        output_limit=output_limit,
        grace=GRACE if grace is None else check_grace(grace),
    )
    opening = messages.OpenComputation(1, bundle.name, bundle.digest, bundle.data, 0, options)
    return Work(opening, bundle.files, is_program, bundle.carried)


def _dest_path(given: str | None, cleanup: object, bundle: Bundle) -> str:
    if given is None:
        # What is to be left has to have a place that lasts.
        return f"left-{bundle.digest[:16]}" if cleanup is False else ""
    path = given.strip("/")
    if not path or ".." in path.split("/") or "\0" in path:
        raise ValueError(
            f"dest_path is {given!r}; it has to be the name of a directory below the node's own,"
            " without '..'"
        )
    return path


def _check_setup(setup: object, cleanup: object) -> None:
    if setup is not None and not callable(setup):
        raise TypeError(f"setup is a function, not {type(setup).__name__}")
    if not isinstance(cleanup, bool) and not callable(cleanup):
        raise TypeError(f"cleanup is True, False or a function, not {type(cleanup).__name__}")
    for parameter, function in (("setup", setup), ("cleanup", cleanup)):
        if callable(function):
            check_kind(function, parameter)
    if callable(setup) and callable(cleanup):
        counts = [_count_parameters(function) for function in (setup, cleanup)]
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f"setup takes {counts[0]} arguments and cleanup {counts[1]}: both are called with"
                " the setup_args of the node"
            )


def _count_parameters(function: Callable[..., Any]) -> int | None:
    """The number of positional parameters; None when it takes any number, or none can tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def check_callback(parameter: str, callback: object, arguments: str) -> None:
    """See that a callback can be called with those arguments.

    Raises:
        TypeError: it is not callable, or takes another number; names the parameter.
    """
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"{parameter} is a function, not {type(callback).__name__}")
    names = arguments.split(", ")
    try:
        inspect.signature(callback).bind(*names)
    except ValueError:
        return  # A builtin that does not tell.
    except TypeError as exc:
        raise TypeError(
            f"{parameter} is called as {parameter}({arguments}), and"
            f" {getattr(callback, '__name__', callback)!r} can't be: {exc}"
        ) from None


def check_range(parameter: str, value: object, least: float, most: float) -> None:
    """See that a number lies between two others; None is fine.

    Raises:
        TypeError, ValueError: name the parameter and what is allowed.
    """
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{parameter} is a number, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{parameter} is {value}; it has to be {least:g} to {most:g}")


def check_bool(parameter: str, value: object) -> None:
    """See that it is True or False.

    Raises:
        TypeError: it is neither; names the parameter.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{parameter} is True or False, not {value!r}")
