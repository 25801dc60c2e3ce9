"""Which nodes users mean, and how often names are looked up for that."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from attrs import define, field

from dispy_trio.client import nodes as n
from dispy_trio.client.names import HostNames
from dispy_trio.client.nodes import NodeAllocate, allocate, choose_nodes, is_meant
from dispy_trio.core.nodes import NodeRecord


@define(eq=False)
class Resolver:
    """Stands in for the name server, and counts how often it is asked."""

    addresses: dict[str, list[str]]
    asked: list[str] = field(factory=list)

    def __call__(self, host: str, port: object, **options: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, options["type"], 6, "", (a, 0))
            for a in self.addresses[host]
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver({"alpha": ["fe80::1", "10.0.0.1"], "beta": ["10.0.0.2"]})
    monkeypatch.setattr(n, "host_names", HostNames(resolver))
    monkeypatch.delenv("DISPY_TRIO_NODES", raising=False)
    return resolver


def record(key: str, name: str = "") -> NodeRecord:
    return NodeRecord(key, "i", name, 4)


# --- names -------------------------------------------------------------------------------------
def test_a_name_is_looked_up_once(resolver: Resolver) -> None:
    choice = choose_nodes(["alpha", "beta:9000", "alpha"])
    assert choice.addresses == (("10.0.0.1", 9701), ("10.0.0.2", 9000))
    choose_nodes("alpha")
    assert resolver.asked == ["alpha", "beta"]


def test_nodes_are_matched_without_a_look_up(resolver: Resolver) -> None:
    never_asked = [NodeAllocate(host) for host in ("alpha", "alpha:9701", "10.0.0.*", "10.0.0.1")]
    assert [a.matches("10.0.0.1", 9701, "x") for a in never_asked] == [False, False, True, True]
    assert NodeAllocate("alpha").matches("10.0.0.9", 9701, "alpha")
    assert allocate(never_asked[:1], None, record("10.0.0.1:9701", "x")) is None
    assert resolver.asked == []
    # Of a name that was looked up, another that means the same knows the address.
    assert never_asked[0].ip_addr == "10.0.0.1"
    assert [a.matches("10.0.0.1", 9701, "x") for a in never_asked] == [True] * 4
    assert resolver.asked == ["alpha"]


def test_a_name_that_does_not_resolve_is_told(
    resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    choice = choose_nodes(["gamma", "beta"])
    assert choice.addresses == (("10.0.0.2", 9701),)
    assert caplog.messages == ["node 'gamma' does not resolve: Name or service not known"]
    with pytest.raises(ValueError, match="none of 'gamma' can be resolved"):
        choose_nodes("gamma")


def test_ip_addr_of_an_allocation_is_that_of_its_host(resolver: Resolver) -> None:
    assert NodeAllocate("alpha").ip_addr == "10.0.0.1"
    assert NodeAllocate("10.1.2.3:9000").ip_addr == "10.1.2.3"
    assert NodeAllocate("10.1.*").ip_addr == "10.1.*"
    assert NodeAllocate("gamma").ip_addr is None
    assert NodeAllocate("alpha").ip_rex == r"10\.0\.0\.1"
    assert NodeAllocate("10.1.*").ip_rex == r"10\.1\..*"


def test_a_subclass_may_set_ip_addr_as_in_dispy(resolver: Resolver) -> None:
    class Mine(NodeAllocate):
        def __init__(self, place: str) -> None:
            super().__init__("*")
            self.ip_addr = place

    choice = choose_nodes([Mine("beta")])
    assert choice.addresses == (("10.0.0.2", 9701),)
    assert Mine("beta").matches("10.0.0.2", 9701, "")


# --- all and none ------------------------------------------------------------------------------
@pytest.mark.parametrize("nodes", [None, [], (), "*", ["*"]])
def test_no_nodes_are_all_nodes(
    nodes: Any, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_nodes(nodes).embedded
    monkeypatch.setenv("DISPY_TRIO_NODES", "alpha, 10.0.0.9:9000")
    choice = choose_nodes(nodes)
    assert (choice.embedded, choice.addresses) == (
        False,
        (("10.0.0.1", 9701), ("10.0.0.9", 9000)),
    )


@pytest.mark.parametrize("pattern", ["192.168.3.*", "192.168.0.0/16", "*:1", "node*"])
def test_a_pattern_with_nothing_to_choose_from_says_what_to_set(
    pattern: str, resolver: Resolver
) -> None:
    with pytest.raises(ValueError) as caught:
        choose_nodes([pattern])
    assert str(caught.value) == (
        f"nodes: '{pattern}': a pattern that matches none of the known nodes (none is known); name"
        " those to choose from, as host:port, in the environment variable DISPY_TRIO_NODES, or"
        " beside the pattern"
    )


def test_a_pattern_that_matches_no_known_node_says_what_is_known(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DISPY_TRIO_NODES", "alpha,10.0.0.9:9000")
    known = r"none of the known nodes \(10\.0\.0\.1:9701, 10\.0\.0\.9:9000\); name those"
    with pytest.raises(ValueError, match=rf"'192.168.3.\*': a pattern that matches {known}"):
        choose_nodes("192.168.3.*")
    with pytest.raises(
        ValueError, match=rf"'11.0.0.0/8', '10.0.0.1\*:9000': patterns that match {known}"
    ):
        choose_nodes([("10.0.0.1*", 9000), "11.0.0.0/8"])
    assert not caplog.messages
    # Beside nodes that are there it is no error, and told all the same.
    assert len(choose_nodes(["192.168.3.*", "beta"]).addresses) == 3
    assert caplog.messages[0].startswith("nodes: '192.168.3.*': a pattern that matches none")


def test_a_pattern_may_be_of_names_which_only_nodes_know(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DISPY_TRIO_NODES", "alpha")
    choice = choose_nodes(["rack1-*"])
    assert is_meant(choice.allocations, record("10.0.0.1:9701", "rack1-7"))
    assert not is_meant(choice.allocations, record("10.0.0.1:9701", "rack2-7"))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_allocate_is_called_with_keywords_as_in_dispy() -> None:
    class Turned(NodeAllocate):
        def allocate(self, cluster: Any, ip_addr: str, name: str, cpus: int, **told: Any) -> int:
            assert told == {"avail_info": None, "platform": ""}
            return 1

    allocation = allocate([Turned("10.0.0.7")], None, record("10.0.0.7:9701"))
    assert allocation is not None
    assert allocation.cpus == 1


def test_an_allocate_that_returns_true_takes_one_slot() -> None:
    class Willing(NodeAllocate):
        def allocate(self, *args: Any, **kwargs: Any) -> int:
            return True

    allocation = allocate([Willing("*")], None, record("10.0.0.7:9701"))
    assert allocation is not None
    assert type(allocation.cpus) is int


def test_a_dict_without_a_host_means_all_nodes_as_in_dispy() -> None:
    assert (n.to_allocation({"cpus": 2}).host, n.to_allocation({"cpus": 2}).cpus) == ("*", 2)
