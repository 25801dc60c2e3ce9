"""What may be asked for a job: every option at its bounds and beyond."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dispy_trio.client.options import make_options
from dispy_trio.models import JobOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpus", 0),
        ("cpus", -1),
        ("cpus", 2**70),
        ("gpus", -1),
        ("resources", {"licence": -1}),
        ("resources", {"licence": 2**64}),
        ("max_jobs_per_worker", 0),
        ("memory_limit", -1),
        ("memory_limit", "9999999999T"),
        ("retries", -1),
        ("timeout", 0),
        ("timeout", -1.0),
        *[
            (name, value)
            for name in ("timeout", "deadline", "retry_delay")
            for value in (math.nan, math.inf, -math.inf, 10**400)
        ],
    ],
    ids=str,
)
def test_what_no_node_could_keep_to_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make_options(JobOptions(), **{name: value})


@pytest.mark.parametrize("name", ["cpus", "gpus", "timeout", "memory_limit", "retries"])
@pytest.mark.parametrize("value", [True, "1.5x", [1]], ids=str)
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        make_options(JobOptions(), **{name: value})


def test_what_is_within_bounds_is_taken() -> None:
    options = make_options(
        JobOptions(),
        timeout=0.001,
        deadline=2**31 - 1,
        retry_delay=0,
        cpus=1,
        gpus=0,
        resources={"licence": 0},
        memory_limit="2G",
    )
    conditions = options.conditions
    assert (conditions.timeout, conditions.cpus, conditions.gpus) == (0.001, 1, 0)
    assert (conditions.memory, options.deadline) == (2 * 1024**3, 2**31 - 1)
