"""The process of an embedded node: `run_node` with the client's settings, without a command line.

It is started for every cluster that names no node, so its start-up counts: the first template is
started before Trio and all else is imported.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from dispy_trio.compute.starting import TemplateProcess, start_template_process

__all__ = ["main"]


def main() -> None:
    """Run until the client at the other end of the inherited socket is gone."""
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    given = json.loads(sys.argv[2])
    warm = start_template_process()
    try:
        _run(lifeline, given, warm)
    except BaseException:
        # A template ends by itself when we do; this only makes sure that nobody is surprised.
        if warm.process.poll() is None:
            warm.process.kill()
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed and said: taking the interpreter apart would only keep our client.
    os._exit(0)


def _run(lifeline: socket.socket, given: dict[str, object], warm: TemplateProcess) -> None:
    import trio

    from dispy_trio.config import NodeSettings
    from dispy_trio.services.node import run_node
    from dispy_trio.services.outside import real_outside

    secret_file = given["secret_file"]
    settings = NodeSettings(
        host="127.0.0.1",
        port=0,
        cpus=int(str(given["cpus"])),
        secret_file=Path(str(secret_file)) if secret_file else None,
    )

    async def serve() -> None:
        line = trio.socket.from_stdlib_socket(lifeline)
        async with trio.open_nursery() as nursery:
            host, port = await nursery.start(run_node, settings, real_outside(settings, warm))
            await line.send(f"{host}:{port}\n".encode())
            try:
                # Nothing is ever written to us: this waits for the client's end, however it ends.
                await line.recv(1)
            except ConnectionResetError:
                pass
            nursery.cancel_scope.cancel()

    trio.run(serve)
