"""What options say about a cluster, and how wrong ones are told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import dispy_trio
from dispy_trio.cli.reach import ClusterOptions, open_cluster, submitter
from dispy_trio.cli.vocabulary import SECRET_SEEN
from dispy_trio.errors import ConnectError, LocalError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ClusterOptions(secret="a", secret_file=Path("b")), "--secret and --secret-file: give one"),
        (ClusterOptions(timeout=0), "--timeout: must be more than 0 seconds, not 0"),
        (ClusterOptions(timeout=float("nan")), "--timeout: must be more than 0 seconds"),
        (ClusterOptions(timeout=float("inf")), "--timeout: must be more than 0 seconds"),
        (ClusterOptions(connect_timeout=-1), "--connect-timeout: must be more than 0 seconds"),
        (ClusterOptions(depends=[Path("gone")]), "--depends: gone is not a file"),
        (ClusterOptions(certfile=Path("gone")), "--certfile: gone is not a file"),
        (ClusterOptions(keyfile=Path("gone")), "--keyfile: needs --certfile"),
        (ClusterOptions(nodes=["host:abc"]), "--node: node 'host:abc' is not of the form"),
        (ClusterOptions(nodes=["127.0.0.1", "host:"]), "--node: node 'host:' is not of the form"),
        (ClusterOptions(nodes=[""]), "--node: host of a node is empty"),
        (ClusterOptions(nodes=["10.0.0.0/99"]), "--node: node '10.0.0.0/99' is no network"),
        (ClusterOptions(nodes=["no.such.invalid"]), "--node: no.such.invalid: "),
    ],
)
def test_a_wrong_value_is_told_with_its_option(
    options: ClusterOptions, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(LocalError) as caught:
        options.check()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not caplog.records


def test_one_node_that_can_be_found_is_enough() -> None:
    ClusterOptions(nodes=["no.such.invalid", "127.0.0.1"]).check()
    ClusterOptions(nodes=["no.such.invalid", "*"]).check()
    ClusterOptions().check()


@pytest.mark.parametrize("error", [ValueError("nodes: x"), TypeError("nodes: x")])
def test_what_a_cluster_finds_wrong_is_a_wrong_value(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(dispy_trio, "JobCluster", refuse, raising=False)
    with pytest.raises(LocalError, match="nodes: x"):
        open_cluster(ClusterOptions(), abs)


def test_an_error_of_the_library_s_own_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise ConnectError("nobody there")

    monkeypatch.setattr(dispy_trio, "JobCluster", refuse, raising=False)
    with pytest.raises(ConnectError):
        open_cluster(ClusterOptions(), abs)


def test_a_secret_that_others_can_see_is_told_by_all_commands_that_use_a_cluster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispy_trio, "JobCluster", lambda *_args, **_kwargs: None, raising=False)
    open_cluster(ClusterOptions(secret="s"), abs)
    assert caplog.messages == [SECRET_SEEN]


class FakeCluster:
    """Tells which way a job went."""

    def __init__(self, way: object = None) -> None:
        self.way = way

    def options(self, **options: object) -> FakeCluster:
        return FakeCluster(options)

    def submit(self) -> object:
        return self.way


def test_jobs_without_options_go_the_plain_way() -> None:
    cluster = FakeCluster()
    assert submitter(cluster, timeout=None, retries=0)() is None
    assert submitter(cluster, timeout=3.0, retries=0)() == {"timeout": 3.0}
