"""The process of an embedded node: `run_node` with the client's settings, without a command line.

It is started for every cluster that names no node, so its start-up counts: the first template is
started before Trio and all else is imported.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from pathlib import Path

from dispy_trio.compute.descriptors import set_usual_limit
from dispy_trio.compute.starting import TemplateProcess, start_template_process

__all__ = ["main"]


def main() -> None:
    """Run until the client at the other end of the inherited socket is gone."""
    # Of what is imported nothing is garbage, and looking costs a twentieth of it.
    gc.disable()
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    # We have inherited the limit that our client has raised for itself.
    set_usual_limit(int(sys.argv[2]))
    warm = start_template_process()
    given: dict[str, object] = {}
    try:
        if line := _read_line(lifeline):
            given = json.loads(line)
            _run(lifeline, given, warm)
        else:
            warm.discard()
    except BaseException as exc:  # noqa: ASYNC103 - Trio has ended, and so do we
        # A template ends by itself when we do; this only makes sure that nobody is surprised.
        if warm.process.poll() is None:
            warm.process.kill()
        _tell_failure(lifeline, exc)
        if given.get("debug", True):
            raise
        sys.exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed and said: taking the interpreter apart would only keep our client.
    os._exit(0)


def _read_line(lifeline: socket.socket) -> bytes:
    """Our settings; nothing when the client ended before it told them."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            data = lifeline.recv(4096)
        except ConnectionResetError:
            data = b""
        if not data:
            return b""
        line += data
    return line


def _tell_failure(lifeline: socket.socket, exc: BaseException) -> None:
    """Tell our client in a line why we end; it sees whether we were up before."""
    from dispy_trio.errors import LocalError, innermost
    from dispy_trio.texts import fit_note

    exc = innermost(exc)
    text = f"{exc}" if isinstance(exc, LocalError) else f"{type(exc).__name__}: {exc}"
    failure = {"failure": fit_note(text), "is_local": isinstance(exc, LocalError)}
    try:
        lifeline.sendall(json.dumps(failure).encode() + b"\n")
    except OSError:
        pass  # It has ended already.


def _path(value: object) -> Path | None:
    return Path(str(value)) if value else None


def _run(lifeline: socket.socket, given: dict[str, object], warm: TemplateProcess) -> None:
    import trio

    from dispy_trio.config import NodeSettings
    from dispy_trio.services.node import run_node
    from dispy_trio.services.outside import real_outside

    gc.enable()
    settings = NodeSettings(
        host="127.0.0.1",
        port=0,
        cpus=int(str(given["cpus"])),
        secret_file=_path(given["secret_file"]),
        secret=str(given["secret"]),
        certfile=_path(given["certfile"]),
        keyfile=_path(given["keyfile"]),
        embedded=True,
    )

    async def serve() -> None:
        line = trio.socket.from_stdlib_socket(lifeline)
        async with trio.open_nursery() as nursery:
            control = await nursery.start(
                run_node, settings, real_outside(settings, warm, alone=True)
            )
            try:
                address = {"address": f"{control.host}:{control.port}"}
                await line.send(json.dumps(address).encode() + b"\n")
                # Nothing is ever written to us: this waits for the client's end, however it ends.
                await line.recv(1)
            except (BrokenPipeError, ConnectionResetError):
                pass  # It has ended already.
            # Whose end it may be with jobs waiting: none of them is to be started any more.
            control.terminate_jobs()
            nursery.cancel_scope.cancel()

    trio.run(serve)
