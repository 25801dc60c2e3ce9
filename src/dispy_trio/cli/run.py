"""Runs a function of a file, or a program, as jobs: one for each argument of the command line."""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from attrs import field, frozen

from dispy_trio.cli.endings import EXIT_FAILED
from dispy_trio.cli.outcomes import Report, make_report
from dispy_trio.cli.reach import ClusterOptions, check_readers, open_cluster, show_status, submitter
from dispy_trio.cli.records import RecordWriter
from dispy_trio.cli.saying import remark
from dispy_trio.client.progress import Standing, show_bar
from dispy_trio.errors import LocalError

__all__ = ["RunOptions", "arguments_of_jobs", "load_computation", "run_jobs"]

log = logging.getLogger("dispy_trio")

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
    cleanup: bool = True
    live: bool = True
    retries: int = 0
    cluster: ClusterOptions = field(factory=ClusterOptions)
    ip_addr: str | None = None
    scheduler_node: str | None = None


def run_jobs(options: RunOptions, writer: RecordWriter | None = None) -> int:
    """Run them all; results go to stdout, all else to stderr. Returns the exit status.

    Args:
        options: of the command line.
        writer: takes a record of each job; None prints text.

    Raises:
        DispyError: the computation or an option can't be used, or no node can; says why.
    """
    _check(options)
    computation = load_computation(options.computation)
    is_program = isinstance(computation, str)
    # Read to its end before anything is started: an error in it is told early.
    given = list(arguments_of_jobs(options, split=is_program, lines=sys.stdin))
    began = time.monotonic()
    with open_cluster(
        options.cluster, computation, cleanup=options.cleanup, live_output=options.live
    ) as cluster:
        live = cluster._thread.live
        report = make_report(given, live, writer, is_program=is_program, again=options.retries > 0)
        submit = submitter(cluster, timeout=options.cluster.timeout, retries=options.retries)
        report.jobs = [submit(*arguments) for arguments in given]
        try:
            _await_all(report, cluster, live)
        except KeyboardInterrupt:
            remark(f"interrupted: {report.done} of {len(given)} jobs had ended")
            raise
        if options.cluster.status:
            show_status(cluster, time.monotonic() - began)
    return EXIT_FAILED if report.failed else 0


def _check(options: RunOptions) -> None:
    """What can be told before anything is started."""
    if options.scheduler_node is not None:
        raise LocalError("--scheduler-node: comes with the shared scheduler; use --node for now")
    if options.retries < 0:
        raise LocalError(f"--retries: must be at least 0, not {options.retries}")
    options.cluster.check()
    if options.ip_addr is not None:
        log.warning("--ip-addr has no effect: this client dials its nodes")


def _await_all(report: Report, cluster: Any, live: Any) -> None:
    def stand() -> Standing:
        return Standing(report.done, len(report.jobs), report.failed, cluster.status().place)

    with show_bar(cluster.name, stand):
        for job in _as_they_end(report.jobs, live):
            report.ended(job)
        check_readers(live)
    report.end()


def _as_they_end(jobs: Sequence[Any], live: Any) -> Iterator[Any]:
    """Each job once it has ended, as long as what is printed can be told."""
    done: SimpleQueue[Any] = SimpleQueue()
    for job in jobs:
        if not job.add_waiter(done.put):
            # Both may happen at the very moment it ends; below each is taken once.
            done.put(job)
    seen: set[int] = set()
    while len(seen) < len(jobs):
        try:
            job = done.get(timeout=LOOK_EVERY)
        except Empty:
            check_readers(live)
            continue
        if job.number not in seen:
            seen.add(job.number)
            yield job


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
    except (Exception, SystemExit) as exc:
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
