"""Runs a map_reduce program for the command line."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from dispy_trio.cli.outcomes import show_on_stderr
from dispy_trio.cli.reach import ClusterOptions, open_cluster, show_status, submitter
from dispy_trio.cli.records import RecordWriter
from dispy_trio.cli.saying import remark, say, spell
from dispy_trio.errors import DispyError, LocalError

__all__ = ["MapReduceOptions", "run"]


@frozen
class MapReduceOptions:
    """What is to be run, and where."""

    program: str
    inputs: Sequence[str]
    """``-`` stands for standard input."""
    output: Path | None = None
    partitions: int | None = None
    cluster: ClusterOptions = field(factory=ClusterOptions)


def run(options: MapReduceOptions, writer: RecordWriter | None = None) -> None:
    """Run it; results go to stdout, or as part files into a folder, whose paths go to stdout.

    Args:
        options: of the command line.
        writer: takes a record of each key, or part file; None prints text.

    Raises:
        DispyError: says what is wrong with the program, its inputs or the cluster.
    """
    import dispy_mapreduce

    if options.partitions is not None and options.partitions < 1:
        raise LocalError(f"--partitions: must be at least 1, not {options.partitions}")
    options.cluster.check()
    try:
        with _files(options.inputs) as inputs:
            result = dispy_mapreduce.run_program(
                options.program,
                inputs,
                output=None if options.output is None else str(options.output),
                cluster=lambda runner: _open(options.cluster, runner),
                partitions=options.partitions,
            )
            _print(result, writer, is_files=options.output is not None)
    except (
        dispy_mapreduce.InputError,
        dispy_mapreduce.OutputError,
        dispy_mapreduce.BadProgram,
    ) as exc:
        raise LocalError(str(exc)) from exc
    except dispy_mapreduce.MapReduceError as exc:
        text = str(exc)
        if exc.__cause__ is not None and exc.__cause__.__cause__ is not None:
            text += str(exc.__cause__.__cause__)
        raise DispyError(text) from exc
    except KeyboardInterrupt:
        remark("interrupted: there is no result")
        raise


@contextmanager
def _files(inputs: Sequence[str]) -> Iterator[Sequence[str]]:
    """The inputs, with what comes from standard input as a file that tasks can read parts of."""
    if "-" not in inputs:
        yield inputs
        return
    if inputs.count("-") > 1:
        raise LocalError("-: standard input can be read once")
    with tempfile.TemporaryDirectory(prefix="dispy-trio-") as folder:
        path = Path(folder, "standard-input")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield [str(path) if name == "-" else name for name in inputs]


def _print(result: Any, writer: RecordWriter | None, *, is_files: bool) -> None:
    if writer is None:
        for element in result:
            say(element if is_files else "\t".join(spell(part, str) for part in element))
        return
    for element in result:
        writer.write(
            {"path": str(element)} if is_files else {"key": element[0], "value": element[1]}
        )
    writer.end()


# --- the cluster -----------------------------------------------------------------------------
@define(eq=False)
class _Tasks:
    """A cluster as a map_reduce needs it, with what the command line says about its jobs."""

    cluster: Any
    options: ClusterOptions
    submit: Callable[..., Any]
    began: float

    def as_completed(self, jobs: Sequence[Any]) -> Iterator[Any]:
        ended: Iterator[Any] = self.cluster.as_completed(jobs)
        return ended

    def status(self) -> Any:
        return self.cluster.status()

    def close(self, *, terminate: bool) -> None:
        if self.options.status and not terminate:
            show_status(self.cluster, time.monotonic() - self.began)
        self.cluster.close(terminate=terminate)


def _open(options: ClusterOptions, runner: Any) -> _Tasks:
    began = time.monotonic()
    # Tasks are functions of their arguments: a lost node's may run again elsewhere.
    cluster = open_cluster(options, runner, reentrant=True, name=runner.__name__, live_output=True)
    show_on_stderr(cluster._thread.live)
    return _Tasks(cluster, options, submitter(cluster, timeout=options.timeout), began)
