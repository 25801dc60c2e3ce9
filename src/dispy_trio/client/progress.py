"""A bar on stderr that tells how far jobs are and where they run; on a terminal alone.

Nothing is counted for it but failures, once a batch: it looks at what is known anyway, a few times
a second, on a thread of its own. What draws it is imported when there is something to draw.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from dispy_trio.client.unseen import has_failed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dispy_trio.client.engine import Engine

__all__ = [
    "Counter",
    "Standing",
    "count_of",
    "describe_counts",
    "show_bar",
    "watch_counter",
    "watch_engine",
]

REFRESHES = 10
"""A second."""
NAME_LIMIT = 20
"""Columns for what runs: a terminal may have 80 in all."""

_drawing = threading.Lock()
"""A terminal has room for one bar: what begins while one is shown shows none."""


@frozen
class Standing:
    """How far something is."""

    done: int
    total: int | None
    """None when nobody can know yet."""
    failed: int = 0
    """Of those that are done."""
    place: str = ""
    """Where it runs."""


@define(eq=False)
class Counter:
    """Counts what is done of something."""

    total: int | None = None
    done: int = 0
    failed: int = 0

    def ended(self, jobs: Sequence[Any], again: bool) -> None:
        """These jobs have ended; with `again` for the second time, after having been abandoned."""
        # Their state, and not their status: nobody has looked at them yet.
        failed = sum(map(has_failed, jobs))
        self.failed += failed - (len(jobs) if again else 0)
        self.done += 0 if again else len(jobs)

    def took(self, _value: Any) -> None:
        """One more is done."""
        self.done += 1

    def took_job(self, job: Any) -> None:
        """A job has ended."""
        self.ended([job], again=False)


def count_of(iterables: Sequence[Iterable[Any] | AsyncIterable[Any]]) -> int | None:
    """How many calls `map` makes of them; None when one does not tell its length."""
    lengths = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
    return min(lengths) if lengths and len(lengths) == len(iterables) else None


# --- in words --------------------------------------------------------------------------------
def describe_counts(standing: Standing) -> str:
    """``12/100, 1 failed``"""
    of_all = "" if standing.total is None else f"/{standing.total}"
    return f"{standing.done}{of_all}" + (f", {standing.failed} failed" if standing.failed else "")


# --- the bar ---------------------------------------------------------------------------------
def watch_counter(name: str, engine: Engine, counter: Counter) -> AbstractContextManager[None]:
    """Show a bar for what is counted, of an engine's."""
    return show_bar(
        name, lambda: Standing(counter.done, counter.total, counter.failed, engine.status().place)
    )


def watch_engine(
    name: str, engine: Engine, read: Callable[[], tuple[int, int]]
) -> AbstractContextManager[None]:
    """Show a bar for all jobs of an engine.

    Args:
        name: of what runs.
        engine: it is counted which of its jobs fail.
        read: tells how many of its jobs were submitted, and how many of them have ended.
    """
    before = read()[1]
    counter = Counter()

    def stand() -> Standing:
        submitted, ended = read()
        return Standing(
            ended - before, submitted - before or None, counter.failed, engine.status().place
        )

    return _watch(name, engine, counter, stand)


@contextmanager
def _watch(
    name: str, engine: Engine, counter: Counter, stand: Callable[[], Standing]
) -> Iterator[None]:
    engine.counters.append(counter)
    try:
        with show_bar(name, stand):
            yield
    finally:
        engine.counters.remove(counter)


@contextmanager
def show_bar(name: str, stand: Callable[[], Standing]) -> Iterator[None]:
    """Show a bar on stderr, if that is a terminal and no other bar is shown there.

    Args:
        name: of what runs.
        stand: tells how far it is; called on a thread of its own.
    """
    if not _is_terminal(sys.stderr) or not _drawing.acquire(blocking=False):
        yield
        return
    try:
        with _draw(name, stand):
            yield
    finally:
        _drawing.release()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False  # There is none, or it is closed.


def _draw(name: str, stand: Callable[[], Standing]) -> AbstractContextManager[Any]:
    from rich.console import Console
    from rich.constrain import Constrain
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    def text(content: str) -> TextColumn:
        return TextColumn(content, markup=False, table_column=Column(no_wrap=True))

    console = Console(stderr=True)

    class Bar(Progress):
        """Looks how far it is whenever it is drawn."""

        def get_renderables(self) -> Iterable[RenderableType]:
            now = stand()
            for task in self.task_ids:
                self.update(
                    task,
                    completed=now.done,
                    total=now.total,
                    counts=describe_counts(now),
                    place=now.place,
                )
            for table in super().get_renderables():
                # Room for ^C, which the terminal shows at the end of the line.
                yield Constrain(table, console.width - 2)

    columns = (
        text("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        text("{task.fields[counts]}"),
        TimeElapsedColumn(),
        text("{task.fields[place]}"),
    )
    bar = Bar(
        *columns,
        console=console,
        refresh_per_second=REFRESHES,
        # What is a file or a pipe gets what is written to it as it is.
        redirect_stdout=_is_terminal(sys.stdout),
        expand=True,
    )
    bar.add_task(name[:NAME_LIMIT], total=None, counts="", place="")
    return bar
