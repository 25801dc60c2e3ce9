"""Whatever a job's options may be, the node takes them; what it would not take is told at once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dispy_trio import messages
from dispy_trio.client.options import make_options
from dispy_trio.models import JobOptions
from dispy_trio.protocol.codec import decode, encode


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 10**9},
        {"timeout": 0.001},
        {"cpus": 1_000_000, "gpus": 1_000_000},
        {"resources": {"x" * 250: 2**62, "": 0}},
        {"resources": {str(number): 1 for number in range(100)}},
        {"max_jobs_per_worker": 2**62},
        {"memory_limit": 2**62},
        {"grace": 0},
        {"grace": 10**9},
        {"priority": 2**62},
        {"priority": -(2**31), "retries": 10**6, "retry_delay": 0, "deadline": math.inf},
    ],
)
def test_the_most_that_may_be_asked_for_travels(options: Any) -> None:
    conditions = make_options(JobOptions(), **options).conditions
    message = messages.RunJobs(1, [1], [0], [b""], [], conditions)
    frame = encode(message)
    assert decode(frame[4], memoryview(frame)[5:], "p") == message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 2e9}, "timeout is 2000000000.0; it can't be more than 1000000000"),
        ({"timeout": math.nan}, "timeout is nan; it has to be at least 0.001"),
        ({"deadline": math.nan}, "deadline is nan"),
        ({"retry_delay": math.nan}, "retry_delay is nan"),
        ({"cpus": 1_000_001}, "cpus is 1000001; it can't be more than 1000000"),
        ({"gpus": 2**70}, "gpus is"),
        ({"priority": 2**70}, "priority is"),
        ({"max_jobs_per_worker": 2**70}, "max_jobs_per_worker is"),
        ({"memory_limit": 2**63}, "memory_limit is"),
        ({"grace": 2e9}, "grace is 2000000000.0; it can't be more than 1000000000"),
        ({"grace": math.inf}, "grace is inf; a job that is stopped has to end some time"),
        ({"memory_limit": "9999999999T"}, "memory_limit is"),
        ({"resources": {"disk": 2**63}}, r"resources\['disk'\] is"),
        ({"resources": {"x" * 10**7: 1}}, "resources: 'x{250}' is no name of a resource"),
        ({"resources": {"caf\udce9": 1}}, "is no name of a resource"),
        ({"resources": {str(number): 1 for number in range(101)}}, "resources has 101 names"),
    ],
)
def test_what_no_node_would_take_is_told_at_once(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_options(JobOptions(), **options)


def test_a_timeout_without_end_is_none() -> None:
    assert make_options(JobOptions(), timeout=math.inf).conditions.timeout == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpus", 0),
        ("cpus", -1),
        ("gpus", -1),
        ("resources", {"licence": -1}),
        ("max_jobs_per_worker", 0),
        ("memory_limit", -1),
        ("grace", -0.1),
        ("retries", -1),
        ("timeout", 0),
        ("timeout", -1.0),
        *[
            (name, value)
            for name in ("timeout", "deadline", "retry_delay", "grace")
            for value in (math.nan, -math.inf, 10**400)
        ],
    ],
    ids=str,
)
def test_what_no_node_could_keep_to_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make_options(JobOptions(), **{name: value})


@pytest.mark.parametrize("name", ["cpus", "gpus", "timeout", "memory_limit", "retries", "grace"])
@pytest.mark.parametrize("value", [True, "1.5x", [1]], ids=str)
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        make_options(JobOptions(), **{name: value})
