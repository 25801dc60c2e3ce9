"""Settings, read once by the command line and passed down."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

__all__ = ["DEFAULT_PORT", "PULSE_INTERVAL", "NodeSettings"]

DEFAULT_PORT = 9701
"""dispy's node port: DispyPort + 1."""

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
    init: Path | None = None
    """A Python file whose `init` runs in every computation's process before all else."""
