"""The process of an embedded node: `run_node` with the client's settings, without a command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from dispy_trio.config import NodeSettings
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import real_outside

__all__ = ["main"]


async def _run(lifeline: trio.socket.SocketType, settings: NodeSettings) -> None:
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(run_node, settings, real_outside(settings))
        await lifeline.send(f"{host}:{port}\n".encode())
        try:
            # Nothing is ever written to us: this waits for the client's end, however it ends.
            await lifeline.recv(1)
        except ConnectionResetError:
            pass
        nursery.cancel_scope.cancel()


def main() -> None:
    """Run until the client at the other end of the inherited socket is gone."""
    lifeline = trio.socket.from_stdlib_socket(_inherited(int(sys.argv[1])))
    given = json.loads(sys.argv[2])
    secret_file = given["secret_file"]
    settings = NodeSettings(
        host="127.0.0.1",
        port=0,
        cpus=given["cpus"],
        secret_file=Path(secret_file) if secret_file else None,
    )
    trio.run(_run, lifeline, settings)


def _inherited(descriptor: int):  # type: ignore[no-untyped-def]
    import socket

    inherited = socket.socket(fileno=descriptor)
    inherited.set_inheritable(False)
    return inherited
