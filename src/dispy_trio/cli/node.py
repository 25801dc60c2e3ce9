"""Runs a node for the command line: signals, the line that says where it listens, the port file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio
import typer

from dispy_trio.config import NodeSettings
from dispy_trio.errors import DispyError
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import real_outside

__all__ = ["run"]


def run(settings: NodeSettings, port_file: Path | None) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        DispyError: the node can't start; says why.
    """
    outside = real_outside(settings)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                host, port = await nursery.start(run_node, settings, outside)
                typer.echo(f"listening on {host}:{port}")
                if port_file is not None:
                    _write_port(port_file, port)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break

    try:
        trio.run(main)
    except* DispyError as group:
        raise _innermost(group) from group
    finally:
        if port_file is not None:
            port_file.unlink(missing_ok=True)


def _write_port(path: Path, port: int) -> None:
    """Whole or not at all: scripts wait for the file to appear."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(f"{port}\n")
    draft.replace(path)


def _innermost(group: BaseExceptionGroup[DispyError]) -> DispyError:
    first = group.exceptions[0]
    return _innermost(first) if isinstance(first, BaseExceptionGroup) else first
