"""Runs a function of a file, or a program, as jobs: one for each argument of the command line."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import re
import select
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from attrs import frozen

import dispy_trio
from dispy_trio.errors import DispyError, LocalError
from dispy_trio.texts import readable

__all__ = ["RunOptions", "arguments_of_jobs", "load_computation", "run_jobs"]

log = logging.getLogger("dispy_trio")

EXIT_OK = 0
EXIT_FAILED = 1

LOOK_EVERY = 0.5
"""Seconds after which it is looked whether anybody reads what is written."""


@frozen
class RunOptions:
    """What is to be run, and where."""

    computation: str
    """``FILE.py:FUNCTION``, or a program."""
    argument_strings: Sequence[str] = ()
    arguments: Sequence[str] = ()
    """``-`` stands for the lines of standard input."""
    depends: Sequence[Path] = ()
    nodes: Sequence[str] = ()
    cleanup: bool = True
    live: bool = True
    timeout: float | None = None
    retries: int = 0
    status: bool = False
    secret_file: Path | None = None
    secret: str = ""
    certfile: Path | None = None
    keyfile: Path | None = None
    ip_addr: str | None = None
    scheduler_node: str | None = None


def run_jobs(options: RunOptions) -> int:
    """Run them all; results go to stdout, what failed to stderr. Returns the exit status.

    Raises:
        DispyError: the computation or an option can't be used; says why.
    """
    _check(options)
    computation = load_computation(options.computation)
    is_program = isinstance(computation, str)
    # Read to its end before anything is started: an error in it is told early.
    given = list(arguments_of_jobs(options, split=is_program, lines=sys.stdin))
    with _open_cluster(options, computation) as cluster:
        submit = cluster.options(timeout=options.timeout, retries=options.retries).submit
        jobs = [submit(*arguments) for arguments in given]
        succeeded = []
        for number, (job, arguments) in enumerate(zip(jobs, given, strict=True), 1):
            _wait(job, cluster._thread.live)
            if not options.live:
                typer.echo(job.stdout or "", nl=False)
                typer.echo(job.stderr or "", nl=False, err=True)
            label = f"job {number}" + (f" ({shlex.join(arguments)})" if arguments else "")
            succeeded.append(_print_outcome(label, job, is_program=is_program))
        if options.status:
            cluster.print_status()
    return EXIT_OK if all(succeeded) else EXIT_FAILED


def _check(options: RunOptions) -> None:
    """What can be told before anything is started."""
    if options.scheduler_node is not None:
        raise LocalError("--scheduler-node: comes with the shared scheduler; use --node for now")
    if options.secret and options.secret_file is not None:
        raise LocalError("--secret and --secret-file: give one of them")
    if options.timeout is not None and not options.timeout > 0:
        raise LocalError(f"--timeout: must be more than 0 seconds, not {options.timeout}")
    for name, paths in (
        ("--depends", options.depends),
        ("--certfile", [options.certfile]),
        ("--keyfile", [options.keyfile]),
    ):
        for path in paths:
            if path is not None and not path.is_file():
                raise LocalError(f"{name}: {path} is not a file")
    if options.ip_addr is not None:
        log.warning("--ip-addr has no effect: this client dials its nodes")
    if options.secret:
        log.warning("--secret can be seen by all who list processes; prefer --secret-file")


def _open_cluster(options: RunOptions, computation: Callable[..., Any] | str) -> Any:
    open_cluster: Any = dispy_trio.JobCluster
    return open_cluster(
        computation,
        nodes=list(options.nodes) or None,
        depends=[str(path) for path in options.depends],
        cleanup=options.cleanup,
        secret=options.secret,
        secret_file=_text(options.secret_file),
        certfile=_text(options.certfile),
        keyfile=_text(options.keyfile),
        live_output=options.live,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


# --- what is run -----------------------------------------------------------------------------
def load_computation(given: str) -> Callable[..., Any] | str:
    """The function that ``FILE.py:FUNCTION`` names, or the program as it is.

    Raises:
        LocalError: there is no such file, function or program.
    """
    match = re.fullmatch(r"(.*\.py):([^:/]+)", given, re.DOTALL)
    if match is not None:
        return _load_function(Path(match[1]), match[2])
    if shutil.which(given) is None and not Path(given).is_file():
        raise LocalError(f"{given} is neither a program nor FILE.py:FUNCTION")
    return given


def _load_function(path: Path, name: str) -> Callable[..., Any]:
    import cloudpickle

    module = _import_file(path)
    function = getattr(module, name, None)
    if function is None:
        raise LocalError(f"{path} does not define {name}")
    if not callable(function):
        raise LocalError(f"{name} in {path} is no function")
    # The nodes need not have the file.
    cloudpickle.register_pickle_by_value(module)
    found: Callable[..., Any] = function
    return found


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LocalError(f"{path} is not there")
    name = path.stem
    if name in sys.modules:
        # Not to stand in for a module that something else has imported by this name.
        name = f"{name}_computation"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # What lies beside it can be imported, as when the file is run.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise LocalError(f"{path} can't be imported: {type(exc).__name__}: {exc}") from exc
    return module


def arguments_of_jobs(
    options: RunOptions, *, split: bool, lines: Iterable[str]
) -> Iterator[tuple[str, ...]]:
    """The arguments of each job; a single job without any when none are given.

    Args:
        options: of the command line.
        split: split the argument strings into words, as for a program.
        lines: what ``-`` stands for.

    Raises:
        LocalError: an argument string has an open quotation.
    """
    for string in options.argument_strings:
        try:
            yield tuple(shlex.split(string)) if split else (string,)
        except ValueError as exc:
            raise LocalError(f"--args {string!r}: {exc}") from exc
    for argument in options.arguments:
        if argument == "-":
            yield from ((line.rstrip("\r\n"),) for line in lines)
        else:
            yield (argument,)
    if not options.argument_strings and not options.arguments:
        yield ()


def _wait(job: Any, live: Any) -> None:
    """Wait for its end, as long as what it prints can be told.

    Args:
        job: to be waited for.
        live: what shows the output of jobs while they run, if anything does.

    Raises:
        BrokenPipeError: whoever read what we write has seen enough (``| head``).
        DispyError: stdout or stderr can't be written; says why.
    """
    stdout = select.poll()
    stdout.register(1, 0)
    ended = False
    while not ended:
        ended = job.finish.wait(LOOK_EVERY)
        for failure in list(live.failures.values()) if live is not None else ():
            if isinstance(failure, BrokenPipeError):
                raise failure
            raise DispyError(f"what jobs print can't be shown: {failure}")
        # A pipe that nobody reads, and maybe nothing is written to it for long.
        if not ended and any(events & select.POLLERR for _, events in stdout.poll(0)):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# --- what it gave ----------------------------------------------------------------------------
def _print_outcome(label: str, job: Any, *, is_program: bool) -> bool:
    """Print what a job that has ended returned, or why it failed; whether it succeeded."""
    if job.status != dispy_trio.DispyJob.Finished:
        reason = str(job.exception or "").rstrip()
        typer.echo(f"{label}: {job.status.name}" + (f": {reason}" if reason else ""), err=True)
        return False
    if not is_program:
        typer.echo(readable(job.result) if isinstance(job.result, str) else repr(job.result))
        return True
    if job.result != 0:
        typer.echo(f"{label}: exit status {job.result}", err=True)
    return bool(job.result == 0)
