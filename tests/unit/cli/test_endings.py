"""Exit statuses, and the line that an error is told in."""

from __future__ import annotations

import pytest
import typer

from dispy_trio.cli.endings import UsageError, explain, explain_usage
from dispy_trio.errors import (
    AuthenticationError,
    ClusterFailed,
    ConnectError,
    ConnectionLost,
    DispyError,
    JobFailed,
    LocalError,
    PickleArgumentError,
    PythonMismatch,
    SecretFileError,
    VersionMismatch,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (LocalError, 2),
        (SecretFileError, 2),
        (PickleArgumentError, 2),
        (ConnectError, 3),
        (AuthenticationError, 3),
        (VersionMismatch, 3),
        (PythonMismatch, 3),
        (ClusterFailed, 1),
        (ConnectionLost, 1),
        (JobFailed, 1),
    ],
)
def test_each_error_has_its_status(kind: type[DispyError], status: int) -> None:
    assert explain(kind("what happened")) == (status, "what happened")


@pytest.mark.parametrize(("kind", "status"), [(LocalError, 2), (ConnectError, 3)])
def test_a_cluster_that_failed_has_the_status_of_the_reason(
    kind: type[DispyError], status: int
) -> None:
    inner = ClusterFailed("the cluster failed: no")
    inner.__cause__ = ExceptionGroup("nursery", [ExceptionGroup("another", [kind("no")])])
    outer = ClusterFailed("cluster abs failed: the cluster failed: no")
    outer.__cause__ = inner
    assert explain(outer) == (status, "no")


def test_a_cluster_that_failed_for_a_reason_not_ours_says_so_itself() -> None:
    failed = ClusterFailed("the cluster failed: bug")
    failed.__cause__ = ExceptionGroup("nursery", [RuntimeError("bug")])
    assert explain(failed) == (1, "the cluster failed: bug")


def test_a_wrong_word_is_told_on_one_line() -> None:
    wrong = typer.BadParameter("it is\nno number.", param_hint="--timeout")
    assert isinstance(wrong, UsageError)
    assert explain_usage(wrong) == "Invalid value for --timeout: it is no number"
