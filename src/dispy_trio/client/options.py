"""How single jobs are to be run: the arguments of ``cluster.options(...)``, checked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from attrs import evolve

from dispy_trio.models import (
    CONDITIONS_OF_MOST,
    MOST_RESOURCES,
    MOST_SLOTS,
    Conditions,
    JobOptions,
)
from dispy_trio.texts import NAME_LIMIT, readable

__all__ = [
    "Isolation",
    "Options",
    "check_grace",
    "make_options",
    "options_of_all",
    "parse_size",
]

Isolation = Literal["worker", "job"]

_MOST = 2**62
N = TypeVar("N", int, float)
ISOLATION_VARIABLE = "DISPY_TRIO_ISOLATION"
"""The isolation of clusters that are made without one."""

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_size(value: int | str, parameter: str) -> int:
    """Bytes, from a number or a text such as ``"2G"`` (powers of 1024).

    Raises:
        TypeError: it is neither; names the parameter.
        ValueError: it is no such text, or negative; names the parameter.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+)\s*([kKmMgGtT]?)[bB]?", value.strip())
        if found is None:
            raise ValueError(f"{parameter} is {value!r}; it has to be like 500M or 2G")
        return _at_most(int(found[1]) * _UNITS[found[2].lower()], parameter, _MOST)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{parameter} is a number of bytes, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{parameter} is {value}; it can't be negative")
    return _at_most(value, parameter, _MOST)


def _number(value: Any, parameter: str, least: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{parameter} is a number, not {type(value).__name__}")
    if not value >= least:
        raise ValueError(f"{parameter} is {value}; it has to be at least {least:g}")
    return math.inf if value == math.inf else float(_at_most(value, parameter, 10**9))


def _count(value: Any, parameter: str, least: int, most: int = _MOST) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{parameter} is an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{parameter} is {value}; it has to be at least {least}")
    return _at_most(value, parameter, most)


def _at_most(value: N, parameter: str, most: int) -> N:
    if value > most:
        raise ValueError(f"{parameter} is {value}; it can't be more than {most}")
    return value


def _timeout(value: Any) -> float:
    seconds = _number(value, "timeout", 0.001)
    return 0.0 if seconds == math.inf else seconds


def check_grace(value: Any) -> float:
    """The seconds of a ``grace``.

    Raises:
        TypeError, ValueError: it is none; says what is allowed.
    """
    if value == math.inf:
        raise ValueError("grace is inf; a job that is stopped has to end some time")
    return _number(value, "grace", 0)


class Options(TypedDict, total=False):
    """How jobs are to be run."""

    timeout: float
    """Seconds that one try of a job may run; then it is interrupted, and ends Terminated unless it
    returns."""
    deadline: float
    """Seconds after its submission by which a job has to have ended, in the same way."""
    retries: int
    """How often a job is tried again that raised, died, or took too long."""
    retry_delay: float
    """Seconds before the first new try, doubled each time; 1 when not given."""
    priority: int
    """Higher ones go first; 0 is everybody's."""
    cpus: int
    """Slots that a job takes; numerical libraries are told to use as many threads."""
    gpus: int
    """GPUs that a job takes; libraries are told which."""
    resources: Mapping[str, int]
    """Amounts of named resources that a job takes, of those its node was given."""
    isolation: Isolation
    """``"job"`` has a process forked for each job, which finds what setup made and nothing that
    another job left; ``"worker"`` has jobs run one after the other in the same processes, where
    globals of modules stay as the last job left them."""
    max_jobs_per_worker: int
    """Jobs after which a worker process is replaced."""
    grace: float
    """Seconds that a job has to end once it was interrupted: cancelled, or too late. Then it gets
    SIGTERM, and 2 s later SIGKILL."""
    memory_limit: int | str
    """Bytes that a job may allocate, or a text such as ``"2G"``; what it asks for beyond that raises
    MemoryError in it."""


def make_options(old: JobOptions, **given: Unpack[Options]) -> JobOptions:
    """The old options with some of them changed; None leaves one as it is.

    Raises:
        TypeError, ValueError: name the option and what is allowed.
    """
    if unknown := set(given) - set(Options.__annotations__):
        raise TypeError(f"there is no option {sorted(unknown)[0]!r}; there are {_NAMES}")
    conditions: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None:
            kind, change = _CHANGES[name](value)
            (conditions if kind is Conditions else options).update(change)
    if conditions:
        changed = evolve(old.conditions, **conditions)
        # Those that ask for nothing travel together, as most do.
        options["conditions"] = CONDITIONS_OF_MOST if changed == CONDITIONS_OF_MOST else changed
    return evolve(old, **options)


def _resources(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise TypeError(f"resources is a dict, not {type(value).__name__}")
    for name in value:
        if len(str(name)) > NAME_LIMIT or readable(str(name)) != str(name):
            raise ValueError(f"resources: {str(name)[:NAME_LIMIT]!r} is no name of a resource")
    if len(value) > MOST_RESOURCES:
        raise ValueError(
            f"resources has {len(value)} names; it can't be more than {MOST_RESOURCES}"
        )
    return {str(name): _count(amount, f"resources[{name!r}]", 0) for name, amount in value.items()}


def _is_isolated(value: Any, parameter: str = "isolation") -> bool:
    if value not in ("worker", "job"):
        raise ValueError(f"{parameter} is {value!r}; it has to be 'worker' or 'job'")
    return bool(value == "job")


def options_of_all(isolation: Isolation | None) -> JobOptions:
    """The options of all jobs of a cluster, by its ``isolation``.

    Programs that do not say anything of it can be told by the environment variable
    DISPY_TRIO_ISOLATION.

    Raises:
        ValueError: it is neither ``"worker"`` nor ``"job"``; names where it was set.
    """
    isolated = False
    if isolation is not None:
        isolated = _is_isolated(isolation)
    elif from_outside := os.environ.get(ISOLATION_VARIABLE):
        isolated = _is_isolated(from_outside, ISOLATION_VARIABLE)
    return JobOptions(Conditions(isolated=True)) if isolated else JobOptions()


_Change = Callable[[Any], tuple[type, dict[str, Any]]]
_CHANGES: dict[str, _Change] = {
    "timeout": lambda v: (Conditions, {"timeout": _timeout(v)}),
    "deadline": lambda v: (JobOptions, {"deadline": _number(v, "deadline", 0.001)}),
    "retries": lambda v: (JobOptions, {"retries": _count(v, "retries", 0)}),
    "retry_delay": lambda v: (JobOptions, {"retry_delay": _number(v, "retry_delay", 0)}),
    "priority": lambda v: (JobOptions, {"priority": _count(v, "priority", -(2**31))}),
    "cpus": lambda v: (Conditions, {"cpus": _count(v, "cpus", 1, MOST_SLOTS)}),
    "gpus": lambda v: (Conditions, {"gpus": _count(v, "gpus", 0, MOST_SLOTS)}),
    "resources": lambda v: (Conditions, {"resources": _resources(v)}),
    "isolation": lambda v: (Conditions, {"isolated": _is_isolated(v)}),
    "max_jobs_per_worker": lambda v: (
        Conditions,
        {"max_jobs": _count(v, "max_jobs_per_worker", 1)},
    ),
    "grace": lambda v: (Conditions, {"grace": check_grace(v)}),
    "memory_limit": lambda v: (Conditions, {"memory": parse_size(v, "memory_limit")}),
}
"""Option to what it changes, in a job's conditions or in its options."""
_NAMES = ", ".join(_CHANGES)
