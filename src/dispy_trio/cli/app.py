"""``dispy-trio``: one command with a subcommand for each role.

Each subcommand reads its options, makes settings and runs a service; what a service does is
imported only when it is asked for, so that ``--help`` is quick.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from dispy_trio import __version__
from dispy_trio.config import DEFAULT_PORT

__all__ = ["app", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4
EXIT_MISMATCH = 6
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="dispy-trio",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug = False


def _version(value: bool) -> None:
    if value:
        import trio

        from dispy_trio.protocol.auth import PROTOCOL_VERSION

        python = ".".join(map(str, sys.version_info[:3]))
        typer.echo(
            f"dispy-trio {__version__} (Python {python}, trio {trio.__version__},"
            f" protocol {PROTOCOL_VERSION})"
        )
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv says everything.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say errors only.")] = False,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print versions and exit."
        ),
    ] = False,
) -> None:
    """Run Python functions on the processors of one or many machines.

    Example: [bold]dispy-trio node[/] on each machine, then
    [bold]JobCluster(function, nodes=["machine"])[/] in a program.
    """
    global _debug
    _debug = debug
    del version
    level = logging.ERROR if quiet else max(logging.DEBUG, logging.WARNING - 10 * verbose)
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )


@app.command(
    epilog="Example: [bold]dispy-trio node --host 192.168.1.7 --cpus -1[/] listens on that address"
    " and leaves one processor free."
)
def node(
    host: Annotated[str, typer.Option("--host", "-i", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for any.")
    ] = DEFAULT_PORT,
    cpus: Annotated[
        int,
        typer.Option(
            "--cpus", "-c", help="Jobs to run at a time; 0: all processors, -N: leave N free."
        ),
    ] = 0,
    name: Annotated[str, typer.Option(help="Name of the node; the host's when empty.")] = "",
    secret_file: Annotated[
        Path | None,
        typer.Option(help="The secret shared with clients; made on first use when not given."),
    ] = None,
    dest_path_prefix: Annotated[
        Path | None, typer.Option(help="Folder for the files of computations.")
    ] = None,
    port_file: Annotated[
        Path | None,
        typer.Option(help="Write the port to this file once listening, for scripts."),
    ] = None,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="For services; a node reads nothing from the terminal.")
    ] = False,
) -> None:
    """Run jobs of clients on this machine, until Ctrl-C."""
    from dispy_trio.cli.node import run
    from dispy_trio.config import NodeSettings

    del daemon  # Nothing is read from the terminal in any case.
    run(
        NodeSettings(
            host=host,
            port=port,
            cpus=cpus,
            name=name,
            secret_file=secret_file,
            dest_path_prefix=dest_path_prefix,
        ),
        port_file,
    )


@app.command(
    epilog="Example: [bold]dispy-trio mapreduce wordcount.py 'books/*.txt' --output counts[/]"
)
def mapreduce(
    program: Annotated[
        str,
        typer.Argument(
            metavar="MODULE_OR_FILE",
            help="Defines mapper, reducer and, if it likes, combiner.",
            show_default=False,
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Files or patterns, read as lines.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Write part files into this folder instead of lines to stdout."),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT", help="Run on this node, repeatable; on this machine when absent."
        ),
    ] = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Parts of the result; chosen when not given.")
    ] = None,
) -> None:
    """Run a map_reduce over files: prints a line KEY TAB VALUE for each key."""
    from dispy_trio.cli.mapreduce import run

    run(program, inputs, output, node, partitions)


@app.command(epilog='Example: [bold]scp "$(dispy-trio secret)" other:.config/dispy-trio/secret[/]')
def secret() -> None:
    """Print the path of the secret file that nodes and clients share; make it when missing."""
    from dispy_trio.runtime.secret import load_secret

    typer.echo(load_secret().path)


def main() -> None:
    """Run the command; turn our own errors into one line and an exit status."""
    from dispy_trio.errors import (
        AuthenticationError,
        ConnectError,
        DispyError,
        LocalError,
        PythonMismatch,
        VersionMismatch,
    )

    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except DispyError as exc:
        if _debug:
            raise
        typer.echo(f"dispy-trio: {exc}", err=True)
        match exc:
            case AuthenticationError():
                status = EXIT_REFUSED
            case VersionMismatch() | PythonMismatch():
                status = EXIT_MISMATCH
            case ConnectError():
                status = EXIT_UNREACHABLE
            case LocalError():
                status = EXIT_USAGE
            case _:
                status = EXIT_FAILED
        sys.exit(status)
