"""``dispy-trio``: one command with a subcommand for each role.

Each subcommand reads its options, makes settings and runs a service; what a service does is
imported only when it is asked for, so that ``--help`` is quick.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from dispy_trio import __version__
from dispy_trio.cli import vocabulary as v
from dispy_trio.cli.endings import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    STATUSES,
    UsageError,
    explain,
    explain_usage,
)
from dispy_trio.cli.saying import remark, say
from dispy_trio.config import DEFAULT_PORT

__all__ = ["app", "main"]

app = typer.Typer(
    cls=v.Group,
    name="dispy-trio",
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
        say(
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
    debug: v.Debug = False,
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
    del version
    level = logging.ERROR if quiet else max(logging.DEBUG, logging.WARNING - 10 * verbose)
    handler = _OnStderr()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=level, handlers=[handler])
    if debug:
        _say_all()


class _OnStderr(logging.StreamHandler[TextIO]):
    """Logs to what is stderr at the moment: a bar that is shown puts itself in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("it is always stderr")


def _dashes(name: str) -> str:
    """dispy spells its options with underscores; both are fine."""
    return name.replace("_", "-")


def _say_all() -> None:
    """What --debug does."""
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
    cls=v.Command,
    context_settings={"token_normalize_func": _dashes},
    epilog="Example: [bold]dispy-trio node --host 192.168.1.7 --cpus -1[/] listens on that address"
    " and leaves one processor free.\n\nExit status: 0: it has ended by itself, or by its console; 2:"
    " the command line is wrong; 128 and the number of the signal that ended it:"
    " 130: Ctrl-C, 143: SIGTERM.",
)
def node(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Take options that are not given here from this TOML file.",
        ),
    ] = None,
    save_config: Annotated[
        Path | None,
        typer.Option(
            "--save-config", metavar="FILE", help="Write the options to this TOML file, and end."
        ),
    ] = None,
    host: Annotated[
        list[str],
        typer.Option(
            "--host", "-i", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all."
        ),
    ] = ["127.0.0.1"],  # noqa: B006 - Typer copies it
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="Port to listen on; 0 for any.")
    ] = DEFAULT_PORT,
    dispy_port: Annotated[
        int | None,
        typer.Option(
            "--dispy-port", "-p", metavar="N", help="dispy's base port: listen on the next one."
        ),
    ] = None,
    cpus: Annotated[
        int,
        typer.Option(
            "--cpus",
            "-c",
            metavar="N",
            help="Jobs to run at a time; 0: all processors, -N: leave N free.",
        ),
    ] = 0,
    gpus: Annotated[
        int, typer.Option("--gpus", metavar="N", help="GPUs that jobs may ask for.")
    ] = 0,
    resource: Annotated[
        list[str] | None,
        typer.Option(
            "--resource", metavar="NAME=N", help="An amount that jobs may ask for; repeatable."
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="Name of the node; the host's when not given."),
    ] = "",
    dest_path_prefix: Annotated[
        Path | None,
        typer.Option(
            "--dest-path-prefix", metavar="FOLDER", help="Folder for the files of computations."
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="FILE",
            help="Python file whose init() runs first in each computation's process.",
        ),
    ] = None,
    max_file_size: Annotated[
        str,
        typer.Option(
            "--max-file-size",
            metavar="N[kmgt]",
            help="Largest file to take or to send; 0: any size.",
        ),
    ] = "0",
    zombie_interval: Annotated[
        float,
        typer.Option(
            "--zombie-interval",
            metavar="MINUTES",
            help="Forget a client that is away so long; at least 1, 0: never.",
        ),
    ] = 60,
    zombie_jobs: Annotated[
        str,
        typer.Option(
            "--zombie-jobs",
            metavar="run|end",
            help="What jobs of such a client do: run to their end, or end then.",
        ),
    ] = "run",
    msg_timeout: Annotated[
        float,
        typer.Option(
            "--msg-timeout", metavar="SECONDS", help="Time that a client has to answer a job."
        ),
    ] = 10,
    client_shutdown: Annotated[
        bool,
        typer.Option("--client-shutdown/--no-client-shutdown", help="Clients may end the node."),
    ] = False,
    force_cleanup: Annotated[
        bool,
        typer.Option(
            "--force-cleanup/--no-force-cleanup",
            help="Remove files of computations also when they ask to keep them.",
        ),
    ] = False,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean/--no-clean",
            help="First end another node on this port, and remove what nodes left.",
        ),
    ] = False,
    daemon: Annotated[
        bool, typer.Option("--daemon/--no-daemon", help="Read no commands from the terminal.")
    ] = False,
    port_file: Annotated[
        Path | None,
        typer.Option(
            "--port-file",
            metavar="FILE",
            help="Write the port to this file once listening, for scripts.",
        ),
    ] = None,
    as_json: v.Json = False,
    as_lines: v.JsonLines = False,
    debug: v.Debug = False,
    secret_file: v.SecretFile = None,
    secret: v.Secret = "",
    certfile: v.Certfile = None,
    keyfile: v.Keyfile = None,
    service_start: Annotated[
        str | None,
        typer.Option(
            "--service-start",
            metavar="HH:MM",
            help="Take jobs from this time of the day on.",
            rich_help_panel=v.HOURS,
        ),
    ] = None,
    service_stop: Annotated[
        str | None,
        typer.Option(
            "--service-stop",
            metavar="HH:MM",
            help="Take no new jobs from then on.",
            rich_help_panel=v.HOURS,
        ),
    ] = None,
    service_end: Annotated[
        str | None,
        typer.Option(
            "--service-end",
            metavar="HH:MM",
            help="Terminate the jobs that run then.",
            rich_help_panel=v.HOURS,
        ),
    ] = None,
    serve: Annotated[
        int,
        typer.Option(
            "--serve",
            metavar="N",
            help="End after so many clients; -1: never, 0: only clean, and end.",
            rich_help_panel=v.HOURS,
        ),
    ] = -1,
    # Without effect, for dispy's sake: neither the help nor a completion offers them.
    ext_host: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    ipv4_udp_multicast: Annotated[
        bool, typer.Option("--ipv4-udp-multicast/--no-ipv4-udp-multicast", hidden=True)
    ] = False,
    scheduler_host: Annotated[
        str | None, typer.Option("--scheduler-host", "--scheduler-node", hidden=True)
    ] = None,
    ping_interval: Annotated[float, typer.Option(hidden=True)] = 0,
    admin_secret: Annotated[str, typer.Option(hidden=True)] = "",
    unsafe_setup: Annotated[bool, typer.Option("--unsafe-setup/--safe-setup", hidden=True)] = False,
) -> None:
    """Run jobs of clients on this machine, until Ctrl-C.

    On stdout there is the line "listening on ADDRESS:PORT", once clients may come. On a terminal it
    takes commands: type [bold]help[/]. With [bold]--json[/] it is an object with the keys event,
    address, name, slots and process; with [bold]--jsonl[/] one follows for each event, which is
    listening, ending or ended.
    """
    from dispy_trio.cli.node import Voice, run, save
    from dispy_trio.cli.node_config import gather_options
    from dispy_trio.cli.records import check_choice

    check_choice(as_json=as_json, as_lines=as_lines)
    given = _given(context)
    for no_setting in ("config", "save_config", "as_json", "as_lines"):
        given.pop(no_setting, None)
    options = gather_options(given, config)
    if options.debug:
        _say_all()
    if save_config is not None:
        save(save_config, options)
    else:
        raise typer.Exit(run(options, Voice(as_json=as_json, as_lines=as_lines)))


@app.command(
    cls=v.Command,
    context_settings={"token_normalize_func": _dashes},
    epilog="Examples: [bold]dispy-trio run compute.py:square 1 2 3[/] calls a function three times;"
    ' [bold]dispy-trio run ./render -a "--scene 1" -a "--scene 2" -n machine[/] runs a program'
    f" twice on that node.\n\n{STATUSES}",
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
            metavar="TEXT",
            help="A job with these arguments, split as a shell does; repeatable. A function gets"
            " them as one string.",
        ),
    ] = None,
    nodes: v.Nodes = None,
    depends: v.Depends = None,
    timeout: v.Timeout = None,
    retries: Annotated[
        int,
        typer.Option("--retries", metavar="N", help="Run a job that failed so many times again."),
    ] = 0,
    connect_timeout: v.ConnectTimeout = v.CONNECT_TIMEOUT,
    live: Annotated[
        bool,
        typer.Option(
            "--live/--no-live",
            help="Show what jobs print while they run, which is the default, or when they have"
            " ended.",
        ),
    ] = True,
    no_cleanup: Annotated[
        bool, typer.Option("--no-cleanup", "-c", help="Leave the files on the nodes.")
    ] = False,
    status: v.Status = False,
    as_json: v.Json = False,
    as_lines: v.JsonLines = False,
    debug: v.Debug = False,
    secret_file: v.SecretFile = None,
    secret: v.Secret = "",
    certfile: v.Certfile = None,
    keyfile: v.Keyfile = None,
    ip_addr: Annotated[str | None, typer.Option(hidden=True)] = None,
    scheduler_node: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a function or a program as jobs, one for each argument.

    On stdout there is nothing but results, in the order of the arguments: what functions return,
    and what programs write to stdout. What else jobs print goes to stderr, with the job before each
    line. With [bold]--jsonl[/] there is a line of JSON for each job as soon as it has ended, with
    the keys job, arguments, status, result, error, stdout, stderr, node, start_time and end_time;
    with [bold]--json[/] an array of these, in the order of the arguments.
    """
    from dispy_trio.cli.reach import ClusterOptions
    from dispy_trio.cli.records import choose_writer
    from dispy_trio.cli.run import RunOptions, run_jobs

    if debug:
        _say_all()
    options = RunOptions(
        computation=computation,
        argument_strings=args or [],
        arguments=arguments or [],
        cleanup=not no_cleanup,
        live=live,
        retries=retries,
        cluster=ClusterOptions(
            nodes=nodes or [],
            depends=depends or [],
            timeout=timeout,
            connect_timeout=connect_timeout,
            status=status,
            secret_file=secret_file,
            secret=secret,
            certfile=certfile,
            keyfile=keyfile,
        ),
        ip_addr=ip_addr,
        scheduler_node=scheduler_node,
    )
    raise typer.Exit(run_jobs(options, choose_writer(as_json=as_json, as_lines=as_lines)))


@app.command(
    cls=v.Command,
    context_settings={"token_normalize_func": _dashes},
    epilog="Example: [bold]dispy-trio mapreduce wordcount.py 'books/*.txt' --output counts[/]"
    f" writes the part files into a folder.\n\n{STATUSES}",
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
            metavar="INPUT",
            help="Files or patterns, read as lines; - for standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write part files there, and print their paths.",
        ),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions", metavar="N", help="Parts of the result; chosen when not given."
        ),
    ] = None,
    nodes: v.Nodes = None,
    depends: v.Depends = None,
    timeout: v.Timeout = None,
    connect_timeout: v.ConnectTimeout = v.CONNECT_TIMEOUT,
    status: v.Status = False,
    as_json: v.Json = False,
    as_lines: v.JsonLines = False,
    debug: v.Debug = False,
    secret_file: v.SecretFile = None,
    secret: v.Secret = "",
    certfile: v.Certfile = None,
    keyfile: v.Keyfile = None,
) -> None:
    """Map the lines of files to pairs of key and value, and reduce the values of each key to one.

    On stdout there is nothing but results: a line KEY TAB VALUE for each key. What jobs print goes
    to stderr, with the job before each line. With [bold]--jsonl[/] there is a line of JSON for each
    key, with the keys key and value; with [bold]--json[/] an array of these. Part files have the
    key path there.
    """
    from dispy_trio.cli.mapreduce import MapReduceOptions
    from dispy_trio.cli.mapreduce import run as run_map_reduce
    from dispy_trio.cli.reach import ClusterOptions
    from dispy_trio.cli.records import choose_writer

    if debug:
        _say_all()
    options = MapReduceOptions(
        program=program,
        inputs=inputs,
        output=output,
        partitions=partitions,
        cluster=ClusterOptions(
            nodes=nodes or [],
            depends=depends or [],
            timeout=timeout,
            connect_timeout=connect_timeout,
            status=status,
            secret_file=secret_file,
            secret=secret,
            certfile=certfile,
            keyfile=keyfile,
        ),
    )
    run_map_reduce(options, choose_writer(as_json=as_json, as_lines=as_lines))


@app.command(
    cls=v.Command,
    epilog='Example: [bold]scp "$(dispy-trio secret)" other:.config/dispy-trio/secret[/] lets two'
    " machines trust each other.",
)
def secret(as_json: v.Json = False, as_lines: v.JsonLines = False) -> None:
    """Print the path of the secret file that nodes and clients share; make it when missing.

    With [bold]--json[/] or [bold]--jsonl[/] it is an object with the key path.
    """
    from dispy_trio.cli.records import check_choice, to_json
    from dispy_trio.runtime.secret import load_secret

    check_choice(as_json=as_json, as_lines=as_lines)
    path = str(load_secret().path)
    say(to_json({"path": path}) if as_json or as_lines else path)


def main() -> None:
    """Run the command; turn our own errors into one line and an exit status."""
    from dispy_trio.errors import DispyError

    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except UsageError as exc:
        remark(f"dispy-trio: {explain_usage(exc)}")
        status = EXIT_USAGE
    except DispyError as exc:
        if _debug:
            raise
        status, text = explain(exc)
        remark(f"dispy-trio: {text}")
    except OSError as exc:
        if _debug:
            raise
        remark(f"dispy-trio: {exc}")
        status = EXIT_FAILED
    sys.exit(status)
