"""`map` and `as_completed` of a Trio program's cluster."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, Unpack
from weakref import WeakSet

from dispy_trio.client.completing import JobFlow
from dispy_trio.client.engine import Engine
from dispy_trio.client.handles import JobHandle
from dispy_trio.client.mapping import CallFlow, Errors, MapOptions
from dispy_trio.client.progress import Counter, count_of, watch_counter
from dispy_trio.client.streams import Stream
from dispy_trio.compute.packaging import Parts

__all__ = ["Streaming"]

T = TypeVar("T")


class Streaming(Generic[T]):
    """The part of a Trio program's cluster that is about many jobs at a time."""

    __slots__ = ()

    _engine: Engine
    _maps: WeakSet[CallFlow[Any]]

    def _check_process(self) -> None:
        raise NotImplementedError

    def _submitter(self) -> Callable[[bytes | Parts], JobHandle[Any]]:
        raise NotImplementedError

    def map(
        self,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        errors: Errors = "raise",
        source_in_thread: bool = False,
        progress: bool = False,
    ) -> Stream[T]:
        """Call the computation with the items of the iterables, and give the results.

        >>> async for value in cluster.map(range(10)): ...

        Cheap calls travel many in one job, by their measured duration. The iterables are read
        only as far as needed to keep the nodes busy. Leaving the loop early stops what is under way;
        ``async with cluster.map(...) as values:`` also waits until it has stopped.

        Args:
            iterables: one for each argument; the shortest one ends it. Async iterables, as the
                receiving ends of memory channels, are read by a task of the cluster's, and async
                generators closed by it.
            buffersize: calls that may be read ahead of the results taken; None for at most 20 000 a
                slot and 10 000 more, and of jobs of a millisecond and longer far fewer.
            chunksize: calls in one job; None chooses by measured duration.
            ordered: give the results in the order of the calls, else as they come.
            errors: ``"raise"`` what a call raised in the place of its result, and stop; give it as one
                of the ``"values"``; or make all calls, and raise all errors as a ``"group"``.
            source_in_thread: read the iterables in one thread, because they block.
            progress: show a bar of the calls on stderr, if that is a terminal.

        Raises:
            Exception: what a call raised, with the remote traceback as its cause.
            ExceptionGroup: all that calls raised, with ``errors="group"``, after the last result.
            ClusterClosed: the cluster takes no more jobs.
            TypeError, ValueError: name the argument that can't be used, and what is allowed.
        """
        return self._map(
            self._submitter(),
            iterables,
            buffersize=buffersize,
            chunksize=chunksize,
            ordered=ordered,
            errors=errors,
            source_in_thread=source_in_thread,
            progress=progress,
        )

    def _map(
        self,
        submit: Callable[[bytes | Parts], JobHandle[Any]],
        iterables: tuple[Any, ...],
        *,
        progress: bool,
        **options: Unpack[MapOptions],
    ) -> Stream[T]:
        self._check_process()
        counter = Counter(count_of(iterables)) if progress else None
        bar = self._bar(counter)
        flow: CallFlow[T] = CallFlow(
            self._engine, iterables, submit, counter=counter, bar=bar, **options
        )
        self._maps.add(flow)
        return Stream(flow)

    def as_completed(
        self,
        jobs: Iterable[JobHandle[T]] | AsyncIterable[JobHandle[T]],
        *,
        progress: bool = False,
    ) -> Stream[JobHandle[T]]:
        """Give the jobs, each once, in the order in which they end.

        Args:
            jobs: to wait for; of an async iterable, as a memory channel's receiving end, as they come.
            progress: show a bar on stderr, if that is a terminal.
        """
        self._check_process()
        counter = Counter(count_of((jobs,))) if progress else None
        return Stream(JobFlow(self._engine, jobs, counter=counter, bar=self._bar(counter)))

    def _bar(self, counter: Counter | None) -> AbstractContextManager[None] | None:
        if counter is None:
            return None
        return watch_counter(self._engine.work.opening.name, self._engine, counter)

    def _end_maps(self) -> None:
        """Nothing more is read for those whose results are not waited for, and nothing more run."""
        for flow in list(self._maps):
            flow.cluster_left()

    def _on_node(self) -> None:
        """A node has come."""
        for flow in list(self._maps):
            flow.look_again()
