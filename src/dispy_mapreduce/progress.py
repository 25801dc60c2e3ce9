"""A bar for each stage, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dispy_mapreduce.graph import Stage
from dispy_mapreduce.run import Watcher

__all__ = ["show_progress"]


@contextmanager
def show_progress(wanted: bool | None) -> Iterator[Watcher | None]:
    """Something that tells how a run goes; None when nobody looks.

    Args:
        wanted: None shows bars when stderr is a terminal.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=console.is_terminal
    ) as progress:
        bars = {
            stage: progress.add_task(stage.name.lower(), total=None, visible=stage is Stage.MAP)
            for stage in Stage
        }

        def watch(stage: Stage, done: int, total: int) -> None:
            progress.update(bars[stage], completed=done, total=total, visible=True)

        yield watch
