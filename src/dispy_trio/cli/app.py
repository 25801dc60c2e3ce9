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

# Headings in the help of node and run.
TRUST = "Who may use it"
HOURS = "When it serves"
UNUSED = "Without effect, for dispy's sake"

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


def _dashes(name: str) -> str:
    """dispy spells its options with underscores; both are fine."""
    return name.replace("_", "-")


def _say_all() -> None:
    """What --debug of a subcommand does, as in dispy."""
    global _debug
    _debug = True
    logging.getLogger().setLevel(logging.DEBUG)


def _given(context: typer.Context) -> dict[str, object]:
    """What the command line names itself; the rest are defaults, which a file may replace."""
    given = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        # By name: Typer brings a Click of its own, or uses the one that is installed.
        if source is not None and source.name == "COMMANDLINE":
            given[name] = value
    return given


@app.command(
    context_settings={"token_normalize_func": _dashes},
    epilog="Example: [bold]dispy-trio node --host 192.168.1.7 --cpus -1[/] listens on that address"
    " and leaves one processor free.",
)
def node(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="Take options that are not given here from this TOML file."),
    ] = None,
    save_config: Annotated[
        Path | None, typer.Option(help="Write the options to this TOML file, and exit.")
    ] = None,
    host: Annotated[
        list[str], typer.Option("--host", "-i", metavar="ADDRESS", help="Address to listen on.")
    ] = ["127.0.0.1"],  # noqa: B006 - Typer copies it
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 for any.")
    ] = DEFAULT_PORT,
    dispy_port: Annotated[
        int | None,
        typer.Option("--dispy-port", "-p", help="dispy's base port: listen on the next one."),
    ] = None,
    cpus: Annotated[
        int,
        typer.Option(
            "--cpus", "-c", help="Jobs to run at a time; 0: all processors, -N: leave N free."
        ),
    ] = 0,
    gpus: Annotated[int, typer.Option(help="GPUs that jobs may ask for.")] = 0,
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="An amount that jobs may ask for; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the node; the host's when empty.")] = "",
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="The secret shared with clients; made on first use when not given.",
            rich_help_panel=TRUST,
        ),
    ] = None,
    secret: Annotated[
        str,
        typer.Option(
            "--secret",
            "-s",
            help="The secret itself; others can see it. Better: a file.",
            rich_help_panel=TRUST,
        ),
    ] = "",
    certfile: Annotated[
        Path | None,
        typer.Option(
            help="Certificate (PEM), to encrypt connections with TLS.", rich_help_panel=TRUST
        ),
    ] = None,
    keyfile: Annotated[
        Path | None,
        typer.Option(help="Its key, when that is not in the same file.", rich_help_panel=TRUST),
    ] = None,
    dest_path_prefix: Annotated[
        Path | None, typer.Option(help="Folder for the files of computations.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Python file whose init() runs first in each computation's process."),
    ] = None,
    max_file_size: Annotated[
        str,
        typer.Option(metavar="N[kmgt]", help="Largest file to take or to send; 0: any size."),
    ] = "0",
    zombie_interval: Annotated[
        float,
        typer.Option(
            metavar="MINUTES", help="Forget a client that is away so long; at least 1, 0: never."
        ),
    ] = 60,
    zombie_jobs: Annotated[
        str,
        typer.Option(
            metavar="run|end", help="What jobs of such a client do: run to their end, or end then."
        ),
    ] = "run",
    msg_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time that a client has to answer a job.")
    ] = 10,
    service_start: Annotated[
        str | None,
        typer.Option(
            metavar="HH:MM", help="Take jobs from this time of the day on.", rich_help_panel=HOURS
        ),
    ] = None,
    service_stop: Annotated[
        str | None,
        typer.Option(metavar="HH:MM", help="Take no new jobs from then on.", rich_help_panel=HOURS),
    ] = None,
    service_end: Annotated[
        str | None,
        typer.Option(
            metavar="HH:MM", help="Terminate the jobs that run then.", rich_help_panel=HOURS
        ),
    ] = None,
    serve: Annotated[
        int,
        typer.Option(
            help="End after so many clients; -1: never, 0: only clean, and exit.",
            rich_help_panel=HOURS,
        ),
    ] = -1,
    client_shutdown: Annotated[
        bool,
        typer.Option(
            "--client-shutdown/--no-client-shutdown",
            show_default=False,
            help="Clients may end the node.",
        ),
    ] = False,
    force_cleanup: Annotated[
        bool,
        typer.Option(
            "--force-cleanup/--no-force-cleanup",
            show_default=False,
            help="Remove files of computations also when they ask to keep them.",
        ),
    ] = False,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean/--no-clean",
            show_default=False,
            help="First end another node on this port, and remove what nodes left.",
        ),
    ] = False,
    daemon: Annotated[
        bool,
        typer.Option(
            "--daemon/--no-daemon", show_default=False, help="Read no commands from the terminal."
        ),
    ] = False,
    port_file: Annotated[
        Path | None,
        typer.Option(help="Write the port to this file once listening, for scripts."),
    ] = None,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug/--no-debug", "-d", show_default=False, help="Say everything, with tracebacks."
        ),
    ] = False,
    ext_host: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Address seen from outside.", rich_help_panel=UNUSED),
    ] = None,
    ipv4_udp_multicast: Annotated[
        bool,
        typer.Option(
            "--ipv4-udp-multicast/--no-ipv4-udp-multicast",
            show_default=False,
            help="For discovery.",
            rich_help_panel=UNUSED,
        ),
    ] = False,
    scheduler_host: Annotated[
        str | None,
        typer.Option(
            "--scheduler-host",
            "--scheduler-node",
            help="Scheduler to announce to.",
            rich_help_panel=UNUSED,
        ),
    ] = None,
    ping_interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="For discovery, at least 10.", rich_help_panel=UNUSED),
    ] = 0,
    admin_secret: Annotated[
        str, typer.Option(help="For administration from afar.", rich_help_panel=UNUSED)
    ] = "",
    unsafe_setup: Annotated[
        bool,
        typer.Option(
            "--unsafe-setup/--safe-setup",
            show_default=False,
            help="Setup always has a process of its own.",
            rich_help_panel=UNUSED,
        ),
    ] = False,
) -> None:
    """Run jobs of clients on this machine, until Ctrl-C.

    On a terminal it takes commands: type [bold]help[/].
    """
    from dispy_trio.cli.node import run, save
    from dispy_trio.cli.node_config import gather_options

    given = _given(context)
    for name_of_file in ("config", "save_config"):
        given.pop(name_of_file, None)
    options = gather_options(given, config)
    if options.debug:
        _say_all()
    if save_config is not None:
        save(save_config, options)
    else:
        run(options)


@app.command(
    context_settings={"token_normalize_func": _dashes},
    epilog="Examples: [bold]dispy-trio run compute.py:square 1 2 3[/] calls a function three times;"
    ' [bold]dispy-trio run ./render -a "--scene 1" -a "--scene 2" -n machine[/] runs a program'
    " twice on that node.",
)
def run(
    computation: Annotated[
        str,
        typer.Argument(
            metavar="COMPUTATION",
            help="FILE.py:FUNCTION, or a program: its path, or its name on $PATH.",
            show_default=False,
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGUMENT",
            help="A job for each; - for each line of standard input.",
            show_default=False,
        ),
    ] = None,
    args: Annotated[
        list[str] | None,
        typer.Option(
            "--args",
            "-a",
            help="A job with these arguments, split as a shell does; repeatable. A function gets"
            " them as one string.",
        ),
    ] = None,
    depends: Annotated[
        list[Path] | None,
        typer.Option("--depends", "-f", help="File that the jobs need; repeatable."),
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            "--nodes",
            "-n",
            metavar="HOST[:PORT]",
            help="Run on this node, repeatable; on this machine when absent.",
        ),
    ] = None,
    no_cleanup: Annotated[
        bool, typer.Option("--no-cleanup", "-c", help="Leave the files on the nodes.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="Show what jobs print while they run.")
    ] = True,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Terminate a job that runs longer.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Run a job that failed so many times again.")
    ] = 0,
    status: Annotated[
        bool, typer.Option("--status", help="Print a table of the nodes at the end.")
    ] = False,
    secret_file: Annotated[
        Path | None, typer.Option(help="The secret shared with the nodes.", rich_help_panel=TRUST)
    ] = None,
    secret: Annotated[
        str,
        typer.Option(
            help="The secret itself; others can see it. Better: a file.", rich_help_panel=TRUST
        ),
    ] = "",
    certfile: Annotated[
        Path | None,
        typer.Option(help="Certificate (PEM) for connections with TLS.", rich_help_panel=TRUST),
    ] = None,
    keyfile: Annotated[
        Path | None,
        typer.Option(help="Its key, when that is not in the same file.", rich_help_panel=TRUST),
    ] = None,
    ip_addr: Annotated[
        str | None, typer.Option(help="Address of this machine.", rich_help_panel=UNUSED)
    ] = None,
    scheduler_node: Annotated[
        str | None,
        typer.Option(help="A shared scheduler; there is none yet.", rich_help_panel=UNUSED),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", "-d", help="Say everything, with tracebacks.")
    ] = False,
) -> None:
    """Run a function or a program as jobs, one for each argument.

    Results are printed in the order of the arguments. The exit status is 0 when all jobs succeeded.
    """
    from dispy_trio.cli.run import RunOptions, run_jobs

    if debug:
        _say_all()
    code = run_jobs(
        RunOptions(
            computation=computation,
            argument_strings=args or [],
            arguments=arguments or [],
            depends=depends or [],
            nodes=nodes or [],
            cleanup=not no_cleanup,
            live=live,
            timeout=timeout,
            retries=retries,
            status=status,
            secret_file=secret_file,
            secret=secret,
            certfile=certfile,
            keyfile=keyfile,
            ip_addr=ip_addr,
            scheduler_node=scheduler_node,
        )
    )
    raise typer.Exit(code)


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
