"""What a node's machine gives to worker processes, and what it hears of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, frozen

__all__ = [
    "TemplateDied",
    "TemplateEvent",
    "TemplateFailed",
    "TemplateReady",
    "WorkerCall",
    "WorkerDied",
    "WorkerJob",
    "WorkerRecalled",
    "WorkerRefused",
    "WorkerResult",
    "WorkerResults",
    "WorkerStarted",
]


@define(eq=False)
class WorkerJob:
    """One job on its way into a worker process."""

    sequence: int
    """Counts the jobs given to this worker from 1."""
    payload: bytes | None
    """The pickled arguments; None when `segment` carries them."""
    segment: int | None = None
    """A memfd that carries the parts. It stays the caller's: a recalled job is sent again."""
    sizes: Sequence[int] = ()
    settings: dict[str, Any] | None = None
    """How the worker has to be while it runs: ``environment``, ``memory``, ``directory``,
    and ``left``, the seconds that it may run."""


@define(eq=False)
class WorkerResult:
    """One job as it came out of a worker process."""

    sequence: int
    outcome: int
    """Value of `models.Outcome`."""
    start: float
    end: float
    payload: bytes
    """When it is not empty, a segment carries the output only."""
    stdout: bytes = b""
    stderr: bytes = b""
    segment: int | None = None
    """A file that carries the result's parts, stdout and stderr, owned by the receiver."""
    sizes: Sequence[int] = ()
    """Of the parts; the last two are stdout and stderr."""


@frozen
class TemplateReady:
    """The bundle is loaded; workers can be forked."""


@frozen
class TemplateFailed:
    """The bundle can't be loaded; the template is gone."""

    text: str


@frozen
class WorkerStarted:
    """A worker is forked and waits for jobs."""

    worker: int
    pid: int


@frozen
class WorkerResults:
    """Jobs ended, in the order in which they ran."""

    worker: int
    results: Sequence[WorkerResult]


@frozen
class WorkerRecalled:
    """The worker answered a recall: it has started nothing beyond `started`, and will not."""

    worker: int
    started: int


@define(eq=False)
class WorkerDied:
    """A worker ended. All results it completed were delivered before this."""

    worker: int
    started: int
    """Sequence of the last job it started, 0 for none."""
    how: str
    """For people: ``killed by SIGSEGV (11)``, ``exit code 3 without a result``…"""
    stderr: bytes = b""
    """What the job wrote to stderr."""
    stdout: bytes = b""
    start: float = 0.0
    """When the last job it started did so, by the node's clock, seconds since the epoch."""
    end: float = 0.0
    """When the end was noticed."""
    segment: int | None = None
    """A file with what it wrote, when that is long; as of `WorkerResult`."""
    sizes: Sequence[int] = ()


@frozen
class WorkerRefused:
    """A worker could not be started: there are no descriptors, processes or memory for it now."""

    worker: int
    text: str


@frozen
class TemplateDied:
    """The template ended by itself, and its workers with it."""

    text: str
    workers: Sequence[WorkerDied] = ()
    """What became of them. All results they completed were delivered before this."""


@frozen
class WorkerCall:
    """The running job asks its node for something (see `dispy_trio.job`)."""

    worker: int
    call: int
    """Goes back with the answer."""
    kind: str
    body: dict[str, Any]
    sequence: int = 0
    """Of the job that asks."""
    data: bytes = b""
    """What came with it as a memory file."""


TemplateEvent = (
    TemplateReady
    | TemplateFailed
    | TemplateDied
    | WorkerStarted
    | WorkerResults
    | WorkerRecalled
    | WorkerDied
    | WorkerRefused
    | WorkerCall
)
