"""Nodes as programs name them: by names that take their time to look up, by patterns, too early."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field

import dispy_trio as dispy
from dispy_trio.client import nodes as client_nodes
from dispy_trio.client.names import HostNames

from .conftest import LIMIT, Node, World

Served = tuple[World, list[Node]]


@define(eq=False)
class Resolver:
    """A name server that knows one name, and is slow to say that it does not know another."""

    asked: list[tuple[str, str]] = field(factory=list)
    """Names, and the threads that waited for the answer."""
    was_asked: threading.Event = field(factory=threading.Event)
    answer: threading.Event = field(factory=threading.Event)

    def __call__(self, host: str, port: object, **_: Any) -> list[Any]:
        self.asked.append((host, threading.current_thread().name))
        if host == "here":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0))]
        self.was_asked.set()
        assert self.answer.wait(LIMIT)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(client_nodes, "host_names", HostNames(resolver))
    return resolver


def where(n: int = 0) -> str:
    return str(dispy_node_ip_addr)  # type: ignore[name-defined]  # noqa: F821


def open_cluster(world: World, nodes: Any, **options: Any) -> Any:
    return dispy.JobCluster(where, nodes=nodes, secret_file=world.secret_file, **options)


def test_names_that_are_known_are_not_looked_up_again(served: Served, resolver: Resolver) -> None:
    world, nodes = served
    port = nodes[0].address.rpartition(":")[2]
    with open_cluster(world, f"here:{port}", connect_timeout=LIMIT) as cluster:
        own_name = cluster.status().nodes[0].name
        for name in ("here", own_name, "127.0.0.2", f"here:{port}", "127.0.0.*"):
            assert cluster.submit_node(name)() == "127.0.0.2"
            assert cluster.node_jobs(name) == []
            assert cluster.set_node_cpus(name, 2) == 2
    assert resolver.asked == [("here", threading.current_thread().name)]


def test_a_slow_look_up_holds_up_nobody_else(served: Served, resolver: Resolver) -> None:
    world, nodes = served
    with open_cluster(world, nodes[0].address, connect_timeout=LIMIT) as cluster:
        answers: list[object] = []
        asking = threading.Thread(
            target=lambda: answers.append(cluster.submit_node("elsewhere")), name="the user's own"
        )
        asking.start()
        assert resolver.was_asked.wait(LIMIT)
        assert cluster.submit()() == "127.0.0.2"
        assert cluster.node_jobs("127.0.0.2") == []
        assert answers == []
        resolver.answer.set()
        asking.join()
    assert answers == [None]
    assert resolver.asked == [("elsewhere", "the user's own")]


def test_a_job_for_a_named_node_waits_until_it_is_there(
    served: Served, free_port: Callable[[], int]
) -> None:
    world, _ = served
    port = free_port()
    address = f"127.0.0.4:{port}"
    with open_cluster(world, address) as cluster:
        jobs = [
            cluster.submit_node(address),
            cluster.submit_job_id_node("mine", "127.0.0.4"),
            cluster.options(priority=1).submit_node("127.0.0.4"),
        ]
        assert [job.status for job in jobs] == [dispy.DispyJob.Created] * 3
        assert cluster.submit_node("127.0.0.3") is None
        assert cluster.node_jobs(address) == -1
        world.start_node("127.0.0.4", "--port", str(port))
        assert [job() for job in jobs] == ["127.0.0.4"] * 3


def test_a_job_for_a_node_that_is_not_wanted_says_so(served: Served) -> None:
    world, nodes = served

    class Never(dispy.NodeAllocate):
        def allocate(self, *args: Any, **kwargs: Any) -> int:
            return 0

    address = nodes[0].address
    with open_cluster(world, [Never(address)]) as cluster:
        job = cluster.submit_node(address)
        job()
        assert job.status == dispy.DispyJob.Terminated
        assert "which it was to run on: the cluster does not use it" in job.exception
        assert cluster.submit_node(address) is None


def test_a_pattern_of_names_that_matches_no_node_is_told_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, nodes = served
    told = threading.Event()
    texts: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())
            if "a pattern that matches none of the known nodes" in texts[-1]:
                told.set()

    monkeypatch.setenv("DISPY_TRIO_NODES", ",".join(node.address for node in nodes))
    ear = Ear()
    logger = logging.getLogger("dispy_trio")
    logger.addHandler(ear)
    try:
        cluster = open_cluster(world, ["rack1-*"])
        assert told.wait(LIMIT), texts
        cluster.close(terminate=True)
    finally:
        logger.removeHandler(ear)
    (text,) = (text for text in texts if "matches none" in text)
    for node in nodes:
        assert node.address in text
    assert "in the environment variable DISPY_TRIO_NODES" in text
