"""Runs a map_reduce program for the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from dispy_trio.errors import DispyError, LocalError

__all__ = ["run"]


def run(
    program: str,
    inputs: Sequence[str],
    output: Path | None,
    nodes: Sequence[str] | None,
    partitions: int | None,
) -> None:
    """Run it; results go to stdout, or as part files into `output`.

    Raises:
        DispyError: says what is wrong with the program, its inputs or the cluster.
    """
    import dispy_mapreduce

    try:
        result = dispy_mapreduce.run_program(
            program,
            inputs,
            output=None if output is None else str(output),
            nodes=nodes,
            partitions=partitions,
        )
        if output is not None:
            for path in result:
                typer.echo(path)
            return
        for key, value in result:
            typer.echo(f"{key}\t{value}")
    except (dispy_mapreduce.InputError, dispy_mapreduce.BadProgram) as exc:
        raise LocalError(str(exc)) from exc
    except dispy_mapreduce.MapReduceError as exc:
        text = str(exc)
        if exc.__cause__ is not None and exc.__cause__.__cause__ is not None:
            text += str(exc.__cause__.__cause__)
        raise DispyError(text) from exc
    except BrokenPipeError:
        # Whoever reads us has seen enough (`| head`); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
