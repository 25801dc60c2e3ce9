"""Settings: those of a node, read once by the command line and passed down, and dispy's own names
for ports and limits, which programs set before they make a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from attrs import field, frozen

__all__ = [
    "DEFAULT_PORT",
    "PULSE_INTERVAL",
    "ClientPort",
    "DispyPort",
    "HTTPServerPort",
    "IPv4MulticastGroup",
    "IPv6MulticastGroup",
    "Java",
    "MaxFileSize",
    "MsgTimeout",
    "NodePort",
    "NodeSettings",
    "SharedSchedulerPort",
    "node_port",
]

DispyPort = 9700
"""The first of the ports; the others count from it."""
ClientPort: str | int = "DispyPort"
"""Has no effect: clients listen nowhere."""
NodePort: str | int = "DispyPort + 1"
"""Where nodes are looked for that are named without a port."""
SharedSchedulerPort: str | int = "DispyPort + 2"
HTTPServerPort = 8181
IPv6MulticastGroup = "ff05::b409:3171:9705:5134:6159"
IPv4MulticastGroup = "239.255.61.59"
MsgTimeout = 10
"""Has no effect: a node has ``--msg-timeout``, and what a job sends can be given one."""
MaxFileSize = 0
"""Bytes of a file that a job may send here; 0 for no limit."""
Java = "/usr/bin/java"

DEFAULT_PORT = 9701
"""dispy's node port: DispyPort + 1."""


def node_port() -> int:
    """The port of nodes that are named without one, by `NodePort` and `DispyPort`.

    Raises:
        ValueError: `NodePort` is neither a number nor ``DispyPort + N``.
    """
    if isinstance(NodePort, int):
        return NodePort
    found = re.fullmatch(r"\s*DispyPort\s*(?:\+\s*(\d+))?\s*", NodePort)
    if found is None:
        raise ValueError(f"config.NodePort is {NodePort!r}; it has to be a number or DispyPort + N")
    return DispyPort + int(found[1] or 0)


PULSE_INTERVAL = 5.0
"""Seconds between signs of life; three missed ones are a death."""


@frozen
class NodeSettings:
    """What a node is started with."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = DEFAULT_PORT
    """0 lets the system choose."""
    cpus: int = 0
    """Slots; 0 for all processors, negative to leave that many free."""
    name: str = ""
    """Empty for the host's name."""
    secret_file: Path | None = None
    dest_path_prefix: Path | None = None
    """Where computations have their directories; None for a folder of the user's own."""
    pulse_interval: float = PULSE_INTERVAL
    zombie_interval: float = 3600.0
    """Seconds after which a client without contact and without running jobs is forgotten; 0: never."""
    zombie_jobs: Literal["run", "end"] = "run"
    """What becomes of a client's running jobs then: they run on, or end with it."""
    secret: str = ""
    """The secret itself, instead of a file; dispy's way."""
    certfile: Path | None = None
    keyfile: Path | None = None
    max_file_size: int = 0
    """Bytes of one file, in either direction; 0 for no limit."""
    message_timeout: float = 10.0
    """Seconds that a client has to answer when a job waits for it."""
    client_shutdown: bool = False
    """The cleanup function of a client may end the node."""
    force_cleanup: bool = False
    """Remove the files of computations that ask for theirs to be kept."""
    serve: int = -1
    """Clients to serve before the node ends by itself; negative for no limit."""
    gpus: int = 0
    resources: dict[str, int] = field(factory=dict)
    """Amounts of named resources that jobs may ask for."""
    embedded: bool = False
    """It is one client's own, and ends with it."""
    init: Path | None = None
    """A Python file whose `init` runs in every computation's process before all else."""
