"""Nodes as users name and see them: `NodeAllocate` chooses them, `DispyNode` shows them."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from attrs import define, frozen

from dispy_trio import config
from dispy_trio.client.names import host_names
from dispy_trio.core.nodes import NodeRecord, NodeState
from dispy_trio.logs import log
from dispy_trio.messages import NodeStatus
from dispy_trio.models import SlotHolder

__all__ = [
    "ClusterStatus",
    "DispyNode",
    "DispyNodeAvailInfo",
    "NodeAllocate",
    "NodeChoice",
    "allocate",
    "choose_nodes",
    "describe_place",
    "is_meant",
    "node_key",
    "parse_node",
    "to_allocation",
    "unmatched_text",
]

NODES_VARIABLE = "DISPY_TRIO_NODES"
"""Names the nodes of programs that name none: ``host:port``, separated by commas."""
EMBEDDED_HOST = "127.0.0.1"


class DispyNodeAvailInfo(NamedTuple):
    """What is free on a node's machine."""

    cpu: float
    """Percent of all its processors together that is idle."""
    memory: int
    """Bytes that programs may still use."""
    disk: int
    """Bytes, where computations have their files."""
    swap: float
    """Percent that is free."""


def _avail_info(status: NodeStatus | None) -> DispyNodeAvailInfo | None:
    if status is None:
        return None
    return DispyNodeAvailInfo(status.cpu, status.memory, status.disk, status.swap)


class NodeAllocate:
    """Which nodes to use, and how.

    Subclasses may override `allocate`, to decide for each node that is found.
    """

    def __init__(
        self,
        host: str,
        port: int | None = None,
        cpus: int = 0,
        depends: Sequence[str | os.PathLike[str]] = (),
        setup_args: tuple[Any, ...] = (),
    ) -> None:
        """Name a node or a pattern of nodes.

        Args:
            host: a host name, an IP address, ``host:port``, a pattern with ``*`` that matches a
                whole address or name, or a network such as ``10.0.0.0/8``.
            port: of the node; None for the default.
            cpus: slots to use, at most; 0 for all, negative to leave that many free.
            depends: paths of files that the node is sent before setup.
            setup_args: what setup and cleanup are called with there.

        Raises:
            TypeError: an argument has the wrong type; names it.
            ValueError: an argument has a wrong value; names it.
        """
        if not isinstance(host, str):
            raise TypeError(f"host of a node is a str, not {type(host).__name__}")
        if not host:
            raise ValueError("host of a node is empty")
        if port is not None and (not isinstance(port, int) or isinstance(port, bool)):
            raise TypeError(f"port of node {host!r} is an int, not {type(port).__name__}")
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"port of node {host!r} is {port}; it has to be 1 to 65535")
        if not isinstance(cpus, int) or isinstance(cpus, bool):
            raise TypeError(f"cpus of node {host!r} is an int, not {type(cpus).__name__}")
        if isinstance(depends, str) or not isinstance(depends, (list, tuple)):
            raise TypeError(f"depends of node {host!r} is a list of paths of files")
        for path in depends:
            if not isinstance(path, (str, os.PathLike)):
                raise TypeError(f"depends of node {host!r}: {path!r} is not the path of a file")
            if not os.path.isfile(path):
                raise ValueError(f"depends of node {host!r}: {os.fspath(path)!r} is not a file")
        if not isinstance(setup_args, tuple):
            raise TypeError(
                f"setup_args of node {host!r} is a tuple, not {type(setup_args).__name__}"
            )
        self.host = host
        if self.is_pattern:
            _network(host)
        else:
            self.host, named = parse_node(host)
            port = port if named is None else named
        self.port = port
        self.cpus = cpus
        self.depends: Sequence[str | os.PathLike[str]] = list(depends)
        self.setup_args = setup_args

    @property
    def is_pattern(self) -> bool:
        """May it be many nodes?"""
        return "*" in self.host or "/" in self.host

    @property
    def ip_addr(self) -> str | None:
        """IP address of the host, looked up when nobody has done so before; None when its name has
        none. A pattern is its own. Setting it names another host."""
        return self.host if self.is_pattern else host_names.look_up(self.host)

    @ip_addr.setter
    def ip_addr(self, host: str) -> None:
        self.host = host

    @property
    def ip_rex(self) -> str:
        """A regular expression for the addresses of such nodes, which has to match whole."""
        return _to_expression(self.ip_addr or self.host)

    def matches(self, ip_addr: str, port: int, name: str) -> bool:
        """Is this such a node? Looks up no names: one that nobody has looked up matches by itself."""
        if self.port is not None and self.port != port:
            return False
        if (network := _network(self.host)) is not None:
            try:
                return ipaddress.ip_address(ip_addr) in network
            except ValueError:
                return False
        pattern = re.compile(_to_expression(self.host))
        names = [ip_addr, name]
        if not self.is_pattern:
            names += [host for host in (self.host,) if host_names.known_address(host) == ip_addr]
        return any(pattern.fullmatch(text) for text in names)

    def may_match(self, ip_addr: str, port: int) -> bool:
        """As `matches`, of a node whose name only itself can tell."""
        may_be_name = self.port in (None, port) and not re.search(r"[:/]", self.host)
        return self.matches(ip_addr, port, "") or (
            may_be_name and self.host.strip("0123456789.*") != ""
        )

    def allocate(
        self,
        cluster: Any,
        ip_addr: str,
        name: str,
        cpus: int,
        avail_info: DispyNodeAvailInfo | None = None,
        platform: str = "",
    ) -> int:
        """How many slots of a node to use; 0 not to use it.

        Called for every node that is found, and again for `JobCluster.resetup_node`. May set
        `depends` and `setup_args` for this very node.

        Args:
            cluster: the cluster that wants to know.
            ip_addr: of the node.
            name: of the node.
            cpus: slots it has.
            avail_info: what is free on its machine.
            platform: as `platform.platform` tells there.
        """
        if self.cpus > 0:
            return min(cpus, self.cpus)
        return max(0, cpus + self.cpus) if self.cpus < 0 else cpus

    @property
    def is_plain(self) -> bool:
        """Does it decide by its attributes alone?"""
        return type(self).allocate is NodeAllocate.allocate

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host!r}, port={self.port}, cpus={self.cpus})"


def _to_expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*")


def parse_node(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port`` or ``[ipv6]:port``; the port is None when it is not named.

    Raises:
        ValueError: names what is wrong with it.
    """
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1], None
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host or (colon and port == "" and text.endswith(":")):
        raise ValueError(f"node {text!r} is not of the form host or host:port")
    if not port:
        return host, None
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"node {text!r} is not of the form host or host:port")
    return host, int(port)


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network that a pattern names; None for other patterns.

    Raises:
        ValueError: it looks like one and is none.
    """
    if "/" not in host:
        return None
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError as exc:
        raise ValueError(f"node {host!r} is no network such as 10.0.0.0/8: {exc}") from exc


def to_allocation(node: Any) -> NodeAllocate:
    """What users give for a node, as a `NodeAllocate`.

    Raises:
        TypeError: it is of no kind that names a node.
        ValueError: it names none, or a dict has keys that are not known.
    """
    if isinstance(node, NodeAllocate):
        return node
    if isinstance(node, DispyNode):
        return NodeAllocate(node.address)
    if isinstance(node, str):
        return NodeAllocate(node)
    if isinstance(node, (tuple, list)):
        if not 1 <= len(node) <= 5:
            raise ValueError(f"node {node!r} is not (host, port, cpus, depends, setup_args)")
        return NodeAllocate(*node)
    if isinstance(node, dict):
        known = {"host", "port", "cpus", "depends", "setup_args"}
        if unknown := set(node) - known:
            raise ValueError(f"node {node!r}: {sorted(unknown)} are not among {sorted(known)}")
        return NodeAllocate(**{"host": "*", **node})
    raise TypeError(
        f"a node is a str, a tuple, a dict, a NodeAllocate or a DispyNode, not"
        f" {type(node).__name__}"
    )


@frozen
class NodeChoice:
    """Which nodes a cluster may use, and where to look for them."""

    allocations: tuple[NodeAllocate, ...]
    """In the order in which they are asked: names before patterns."""
    addresses: tuple[tuple[str, int], ...]
    """IP address and port of the nodes to dial."""
    embedded: bool
    """Start a local node of our own."""


def choose_nodes(nodes: Any) -> NodeChoice:
    """Make sense of a cluster's ``nodes``; may look up names, which takes its time.

    Patterns need addresses to choose from: those in the environment variable DISPY_TRIO_NODES.
    Without it, ``*`` is an embedded local node, as are None and an empty list.

    Raises:
        TypeError: one is of no kind that names a node.
        ValueError: one can't be meant, or none of them is left.
    """
    if nodes is not None and not isinstance(nodes, (list, tuple)):
        nodes = [nodes]
    given = [to_allocation(node) for node in nodes or ["*"]]
    usable = [a for a in given if a.ip_addr is not None]
    if not usable:
        names = ", ".join(repr(a.host) for a in given)
        raise ValueError(f"nodes: none of {names} can be resolved to an address")
    # As in dispy: what names one node is asked before what names many.
    usable.sort(key=lambda a: (a.is_pattern, -len(a.host) if a.is_pattern else 0))
    addresses = [_address_of(a) for a in usable if not a.is_pattern]
    patterns = [a for a in usable if a.is_pattern]
    if not patterns:
        return NodeChoice(tuple(usable), tuple(dict.fromkeys(addresses)), embedded=False)
    listed = [text.strip() for text in os.environ.get(NODES_VARIABLE, "").split(",")]
    addresses += [_address_of(NodeAllocate(text)) for text in listed if text]
    embedded = not addresses
    if embedded:
        unmatched = [a for a in patterns if not a.matches(EMBEDDED_HOST, a.port or 0, "")]
    else:
        unmatched = [a for a in patterns if not any(a.may_match(*known) for known in addresses)]
    if unmatched:
        text = unmatched_text(unmatched, [node_key(*address) for address in addresses])
        if len(unmatched) == len(usable):
            raise ValueError(text)
        log.warning("%s", text)
    return NodeChoice(tuple(usable), tuple(dict.fromkeys(addresses)), embedded)


def unmatched_text(patterns: Sequence[NodeAllocate], known: Sequence[str]) -> str:
    """What to tell of patterns that match none of the nodes that are known."""
    names = ", ".join(repr(a.host if a.port is None else f"{a.host}:{a.port}") for a in patterns)
    several = "patterns that match" if len(patterns) > 1 else "a pattern that matches"
    return (
        f"nodes: {names}: {several} none of the known nodes ({', '.join(known) or 'none is known'});"
        f" name those to choose from, as host:port, in the environment variable {NODES_VARIABLE},"
        " or beside the pattern"
    )


def node_key(host: str, port: int) -> str:
    """What a node is called by its address: ``host:port``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address_of(allocation: NodeAllocate) -> tuple[str, int]:
    host = allocation.ip_addr
    if host is None:
        raise ValueError(f"node {allocation.host!r} does not resolve")
    return host, allocation.port or config.node_port()


class DispyNode:
    """A node of a cluster, as it is at the moment; the attributes are dispy's."""

    Initialized: ClassVar[int] = 4
    """It is ready to run jobs of the cluster."""
    Closed: ClassVar[int] = 16
    """It is not used any more; `error` tells why, if something went wrong."""
    AvailInfo: ClassVar[int] = 17
    """It has told what is free on its machine."""

    def __init__(self, key: str, find: Callable[[str], NodeRecord | None]) -> None:
        self.address = key
        """``host:port``"""
        self._find = find
        self._record = find(key)
        self.update_time = time.time()
        """When something was heard of it last; seconds since the epoch."""

    def _now(self) -> NodeRecord:
        self._record = self._find(self.address) or self._record
        if self._record is None:
            return NodeRecord(self.address, "", "", 0, state=NodeState.LOST)
        return self._record

    @property
    def ip_addr(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def name(self) -> str:
        return self._now().name

    @property
    def cpus(self) -> int:
        """Slots that are used."""
        return self._now().cpus

    @property
    def avail_cpus(self) -> int:
        """Slots it has."""
        return self._now().offered

    @property
    def busy(self) -> int:
        """Jobs sent there that have not ended."""
        return len(self._now().outstanding)

    @property
    def jobs_done(self) -> int:
        return self._now().jobs_done

    @property
    def cpu_time(self) -> float:
        """Seconds of wall time its jobs took, summed."""
        return self._now().cpu_time

    @property
    def tx(self) -> int:
        """Bytes of arguments and files sent there."""
        return self._now().sent

    @property
    def rx(self) -> int:
        """Bytes of results and files received from there."""
        return self._now().received

    @property
    def platform(self) -> str:
        return self._now().platform

    @property
    def connected(self) -> bool:
        return self._now().state is NodeState.CONNECTED

    @property
    def error(self) -> str | None:
        """Why it can't run the computation: the traceback of its setup, say."""
        return self._now().error

    @property
    def avail_info(self) -> DispyNodeAvailInfo | None:
        """What is free on its machine, as it told last."""
        return _avail_info(self._now().status)

    @property
    def slot_holders(self) -> list[SlotHolder]:
        """Other clients that take slots of it, as it told last, those that are away first."""
        status = self._now().status
        return [] if status is None else status.holders

    def __repr__(self) -> str:
        from dispy_trio.client.showing import node_text

        return node_text(self)

    def _repr_html_(self) -> str:
        from dispy_trio.client.showing import node_html

        return node_html(self)


class ClusterStatus(NamedTuple):
    """What `JobCluster.status` returns; a named tuple, as in dispy."""

    nodes: list[DispyNode]
    jobs_pending: int
    """Jobs submitted that have not ended."""

    @property
    def place(self) -> str:
        """Where jobs run now: ``2 slots on this machine``."""
        slots = {node.address: node.cpus for node in self.nodes if node.connected and node.cpus}
        return describe_place(slots)


def describe_place(slots: Mapping[str, int]) -> str:
    """Where jobs run, in words.

    Args:
        slots: of each node that can be used, by its address.
    """
    if not slots:
        return "no slots yet"
    count = sum(slots.values())
    where = next(iter(slots)) if len(slots) == 1 else f"{len(slots)} nodes"
    if all(map(_is_here, slots)):
        where = "this machine"
    return f"{count} slot{'' if count == 1 else 's'} on {where}"


def _is_here(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@define
class Allocation:
    """What was decided for one node."""

    cpus: int
    depends: Sequence[str | os.PathLike[str]]
    setup_args: tuple[Any, ...]


def is_meant(allocations: Sequence[NodeAllocate], record: NodeRecord) -> bool:
    """Does one of them match the node?"""
    return any(a.matches(*_place(record), record.name) for a in allocations)


def _place(record: NodeRecord) -> tuple[str, int]:
    """The IP address and the port of a node."""
    host, _, port = record.key.rpartition(":")
    return host.strip("[]"), int(port)


def allocate(
    allocations: Sequence[NodeAllocate], cluster: Any, record: NodeRecord
) -> Allocation | None:
    """Ask those that match a node; the first that wants some of it decides. None when nobody does.

    Raises:
        Exception: what an overridden `allocate` raised.
    """
    host, port = _place(record)
    for candidate in allocations:
        if not candidate.matches(host, port, record.name):
            continue
        # It may be the user's own code, which returns anything.
        cpus: object = candidate.allocate(
            cluster,
            host,
            record.name,
            record.offered,
            avail_info=_avail_info(record.status),
            platform=record.platform,
        )
        if not isinstance(cpus, int):
            raise TypeError(
                f"allocate of {candidate!r} returned {cpus!r}; it has to return a number of CPUs"
            )
        if cpus > 0:
            arguments: Any = candidate.setup_args
            if not isinstance(arguments, tuple):
                # `allocate` may set anything.
                arguments = tuple(arguments) if isinstance(arguments, list) else (arguments,)
            # True is a number, too, but not on the wire.
            return Allocation(min(int(cpus), record.offered), list(candidate.depends), arguments)
    return None
