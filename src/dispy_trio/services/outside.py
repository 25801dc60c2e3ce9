"""Everything of the outside world that a service is given, in one place."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from attrs import define

from dispy_trio import seams
from dispy_trio.compute.descriptors import raise_limit
from dispy_trio.compute.orphans import Orphans
from dispy_trio.compute.processes import WORKER_DESCRIPTORS, ProcessSpawner
from dispy_trio.compute.starting import TemplateProcess
from dispy_trio.config import NodeSettings
from dispy_trio.messages import NodeStatus
from dispy_trio.protocol.auth import NONCE_SIZE, PROTOCOL_VERSION, Hello, Kind, Role
from dispy_trio.runtime.net import TcpNet
from dispy_trio.runtime.secret import Secret, choose_secret
from dispy_trio.runtime.store import DiskStore
from dispy_trio.services.resources import read_status as read

__all__ = ["Outside", "default_prefix", "most_workers", "real_outside"]

RESERVE = 256
"""Descriptors for all that is no worker, of a limit that is not low itself."""


@define(eq=False)
class Outside:
    """The doors of `seams`, and the secret."""

    net: seams.Net
    spawner: seams.Spawner
    store: seams.Store
    secret: Secret
    processors: int
    most_workers: int
    """There are descriptors for, at a time."""
    draw_token: Callable[[int], str]
    """Draws that many random hex digits."""
    read_status: Callable[[float | None], Awaitable[NodeStatus]]
    """Tells what is free on this machine; see `services.resources`."""

    def hello(self, role: Role, kind: Kind, identity: str) -> Hello:
        """What this side says at the start of a connection."""
        return Hello(
            PROTOCOL_VERSION,
            sys.version_info[:2],
            role,
            kind,
            identity,
            bytes.fromhex(self.draw_token(2 * NONCE_SIZE)),
        )


def default_prefix() -> Path:
    """The user's own folder for the files of computations."""
    return Path(tempfile.gettempdir()) / f"dispy-trio-{os.getuid()}"


def most_workers(descriptors: int) -> int:
    """How many workers a node can have with that many descriptors."""
    return max(1, (descriptors - min(RESERVE, descriptors // 2)) // WORKER_DESCRIPTORS)


def real_outside(
    settings: NodeSettings, warm: TemplateProcess | None = None, *, alone: bool = False
) -> Outside:
    """The doors of a real machine.

    Args:
        settings: of the node.
        warm: a template process that was started already.
        alone: this process is the node's: what comes to it from below may be ended.

    Raises:
        SecretFileError: the secret can't be had.
    """
    store = DiskStore(settings.dest_path_prefix or default_prefix())

    async def read_status(seconds: float | None) -> NodeStatus:
        return await trio.to_thread.run_sync(lambda: read(store.free_bytes(), seconds))

    return Outside(
        net=TcpNet(certfile=settings.certfile, keyfile=settings.keyfile),
        spawner=ProcessSpawner(warm, Orphans() if alone else None),
        store=store,
        secret=choose_secret(
            text=settings.secret,
            file=settings.secret_file,
            key=settings.keyfile or settings.certfile,
        ),
        processors=len(os.sched_getaffinity(0)),
        most_workers=most_workers(raise_limit()),
        draw_token=lambda digits: secrets.token_hex(digits // 2),
        read_status=read_status,
    )
