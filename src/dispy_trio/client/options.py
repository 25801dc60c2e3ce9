"""How single jobs are to be run: the arguments of ``cluster.options(...)``, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, Unpack

from attrs import evolve

from dispy_trio.models import Conditions, JobOptions

__all__ = ["Isolation", "Options", "make_options", "parse_size"]

Isolation = Literal["worker", "job"]

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
        return int(found[1]) * _UNITS[found[2].lower()]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{parameter} is a number of bytes, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{parameter} is {value}; it can't be negative")
    return value


def _number(value: Any, parameter: str, least: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{parameter} is a number, not {type(value).__name__}")
    if not value >= least:
        raise ValueError(f"{parameter} is {value}; it has to be at least {least:g}")
    return float(value)


def _count(value: Any, parameter: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{parameter} is an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{parameter} is {value}; it has to be at least {least}")
    return value


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
    """``"job"`` has a process forked for each job, ``"worker"`` shares them."""
    max_jobs_per_worker: int
    """Jobs after which a worker process is replaced."""
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
        options["conditions"] = evolve(old.conditions, **conditions)
    return evolve(old, **options)


def _resources(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise TypeError(f"resources is a dict, not {type(value).__name__}")
    return {str(name): _count(amount, f"resources[{name!r}]", 0) for name, amount in value.items()}


def _is_isolated(value: Any) -> bool:
    if value not in ("worker", "job"):
        raise ValueError(f"isolation is {value!r}; it has to be 'worker' or 'job'")
    return bool(value == "job")


_Change = Callable[[Any], tuple[type, dict[str, Any]]]
_CHANGES: dict[str, _Change] = {
    "timeout": lambda v: (Conditions, {"timeout": _number(v, "timeout", 0.001)}),
    "deadline": lambda v: (JobOptions, {"deadline": _number(v, "deadline", 0.001)}),
    "retries": lambda v: (JobOptions, {"retries": _count(v, "retries", 0)}),
    "retry_delay": lambda v: (JobOptions, {"retry_delay": _number(v, "retry_delay", 0)}),
    "priority": lambda v: (JobOptions, {"priority": _count(v, "priority", -(2**31))}),
    "cpus": lambda v: (Conditions, {"cpus": _count(v, "cpus", 1)}),
    "gpus": lambda v: (Conditions, {"gpus": _count(v, "gpus", 0)}),
    "resources": lambda v: (Conditions, {"resources": _resources(v)}),
    "isolation": lambda v: (Conditions, {"isolated": _is_isolated(v)}),
    "max_jobs_per_worker": lambda v: (
        Conditions,
        {"max_jobs": _count(v, "max_jobs_per_worker", 1)},
    ),
    "memory_limit": lambda v: (Conditions, {"memory": parse_size(v, "memory_limit")}),
}
"""Option to what it changes, in a job's conditions or in its options."""
_NAMES = ", ".join(_CHANGES)
