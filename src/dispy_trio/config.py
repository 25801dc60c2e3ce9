"""Settings, read once by the command line and passed down."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

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
    """Seconds after which a client without contact and without running jobs is forgotten."""
    keep_running: bool = True
    """False for an embedded node: it ends when its one client does."""
