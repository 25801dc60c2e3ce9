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
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    def text(content: str) -> TextColumn:
        return TextColumn(content, markup=False, table_column=Column(no_wrap=True))

    with Progress(
        text("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        text("{task.fields[counts]}"),
        TimeElapsedColumn(),
        text("{task.fields[place]}"),
        console=Console(stderr=True),
        # What is a file or a pipe gets what is written to it as it is.
        redirect_stdout=sys.stdout.isatty(),
        expand=True,
    ) as progress:
        bars = {
            stage: progress.add_task(
                stage.name.lower(), total=None, visible=stage is Stage.MAP, counts="", place=""
            )
            for stage in Stage
        }

        def watch(stage: Stage, done: int, total: int, place: str) -> None:
            progress.update(
                bars[stage],
                completed=done,
                total=total,
                visible=True,
                counts=f"{done}/{total}",
                place=place,
            )

        yield watch
