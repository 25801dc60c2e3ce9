"""How single jobs are to be run: the arguments of ``cluster.options(...)``, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve

from dispy_trio.models import Conditions, JobOptions

__all__ = ["Isolation", "make_options", "parse_size"]

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


def make_options(
    old: JobOptions,
    *,
    timeout: float | None = None,
    deadline: float | None = None,
    retries: int | None = None,
    retry_delay: float | None = None,
    priority: int | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    resources: Mapping[str, int] | None = None,
    isolation: Isolation | None = None,
    max_jobs_per_worker: int | None = None,
    memory_limit: int | str | None = None,
) -> JobOptions:
    """The old options with some of them changed; None leaves one as it is.

    Raises:
        TypeError, ValueError: name the option and what is allowed.
    """
    conditions: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if timeout is not None:
        conditions["timeout"] = _number(timeout, "timeout", 0.001)
    if deadline is not None:
        options["deadline"] = _number(deadline, "deadline", 0.001)
    if retries is not None:
        options["retries"] = _count(retries, "retries", 0)
    if retry_delay is not None:
        options["retry_delay"] = _number(retry_delay, "retry_delay", 0)
    if priority is not None:
        options["priority"] = _count(priority, "priority", -(2**31))
    if cpus is not None:
        conditions["cpus"] = _count(cpus, "cpus", 1)
    if gpus is not None:
        conditions["gpus"] = _count(gpus, "gpus", 0)
    if resources is not None:
        if not isinstance(resources, Mapping):
            raise TypeError(f"resources is a dict, not {type(resources).__name__}")
        conditions["resources"] = {
            str(name): _count(amount, f"resources[{name!r}]", 0)
            for name, amount in resources.items()
        }
    if isolation is not None:
        if isolation not in ("worker", "job"):
            raise ValueError(f"isolation is {isolation!r}; it has to be 'worker' or 'job'")
        conditions["isolated"] = isolation == "job"
    if max_jobs_per_worker is not None:
        conditions["max_jobs"] = _count(max_jobs_per_worker, "max_jobs_per_worker", 1)
    if memory_limit is not None:
        conditions["memory"] = parse_size(memory_limit, "memory_limit")
    if conditions:
        changed: Conditions = evolve(old.conditions, **conditions)
        options["conditions"] = changed
    return evolve(old, **options)
