"""`map_reduce`, and the same as a coroutine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, cast, overload

from attrs import frozen

from dispy_mapreduce.engines.cluster import ClusterEngine, open_cluster_engine
from dispy_mapreduce.errors import EngineMisused
from dispy_mapreduce.plan import DEFAULT_MEMORY, Plan, plan
from dispy_mapreduce.progress import show_progress
from dispy_mapreduce.result import MapReduceResult, PartFiles, ResultParts
from dispy_mapreduce.run import Engine, Walk, walk_async, walk_blocking
from dispy_mapreduce.splitting import Files

__all__ = ["map_reduce", "map_reduce_async"]

R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")

Inputs = Files | str | os.PathLike[str] | Iterable[R]
PathName = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """What both calls take by keyword; `map_reduce` explains them."""

    combiner: Callable[..., Any] | None
    partitions: int | None
    nodes: Sequence[str] | None
    cluster: Any
    memory: int
    split_size: int | None
    encoding: str
    errors: str
    progress: bool | None


@overload
def map_reduce(
    mapper: Callable[[R], Iterable[tuple[K, V]]],
    reducer: Callable[[K, Iterable[V]], W],
    inputs: Inputs[R],
    *,
    output: None = None,
    **options: Unpack[Options],
) -> MapReduceResult[K, W]: ...
@overload
def map_reduce(
    mapper: Callable[[R], Iterable[tuple[K, V]]],
    reducer: Callable[..., Any],
    inputs: Inputs[R],
    *,
    output: None = None,
    **options: Unpack[Options],
) -> MapReduceResult[K, Any]: ...
@overload
def map_reduce(
    mapper: Callable[[Any], Any],
    reducer: Callable[..., Any],
    inputs: Inputs[Any],
    *,
    output: PathName,
    **options: Unpack[Options],
) -> list[Path]: ...
def map_reduce(
    mapper: Callable[[Any], Any],
    reducer: Callable[..., Any],
    inputs: Inputs[Any],
    *,
    output: PathName | None = None,
    **options: Unpack[Options],
) -> MapReduceResult[Any, Any] | list[Path]:
    """Map all inputs to pairs of key and value, and reduce the values of each key to one.

    >>> def words(line):
    ...     for word in line.split():
    ...         yield word, 1
    >>> counts = map_reduce(words, sum, "books/*.txt").to_dict()

    Tasks must be functions of their input: one whose node is lost is run again. The order in which
    the reducer sees the values of a key is not defined.

    Args:
        mapper: called with each record; returns or yields pairs. Or a `block_mapper`.
        reducer: ``reducer(key, values)`` or ``reducer(values)``, or ``sum``, ``max``, ``min`` or
            an operator such as ``operator.add``, which are applied while mapping already.
        inputs: the name of a file, a pattern, a list of `pathlib.Path`, or ``files(...)``: their
            lines, without newline, are the records. Any other iterable holds the records.
        combiner: of the reducer's shape; makes the values of a key fewer before they travel. Its
            results are values to the reducer, and to itself.
        partitions: parts of the result, each sorted by key. By default one for folds such as
            ``sum``, else one a processor, and more for large inputs.
        nodes: ``"host"`` or ``"host:port"`` each. Without them, all processors of this machine.
        cluster: instead of nodes: an engine, such as ``InlineEngine()``, or a function that makes
            a cluster of a computation, such as ``partial(JobCluster, nodes=[...])``.
        output: directory for ``part-00000``…, a line ``key TAB value`` each: all or none of them.
        memory: bytes a task may use for its tables; what does not fit is spilled to disk.
        split_size: bytes of input for a map task; chosen by the number of processors when None.
        encoding: of the lines.
        errors: what to do with bytes that are none in that encoding; see `str.encode`.
        progress: show bars on stderr; None does when it is a terminal.

    Returns:
        A `MapReduceResult`, or with `output` the paths of the part files.

    Raises:
        InputError: an input is missing or can't be read. Nothing was started.
        OutputError: the output directory can't be used. Nothing was started.
        BadProgram: a function has the wrong shape. Nothing was started.
        MapperFailed: names file, line and record; its cause is what the mapper raised.
        ReducerFailed: names the key; its cause is what the reducer or combiner raised.
        TaskLost: a task's process died, or its node was lost, more often than is made up for.
        BlocksLost: intermediate data went missing again and again.
    """
    call = _prepare(mapper, reducer, inputs, output=output, **options)
    engine = _engine_of(call.nodes, call.cluster)
    completed = False
    try:
        with show_progress(call.progress) as watcher:
            engine.open(call.plan.recipe)
            walk = Walk(call.plan, engine.slots, call.sink)
            walk_blocking(walk, engine, watcher)
        completed = True
    finally:
        engine.close(terminate=not completed)
        if not completed:
            call.sink.abandon()
    return call.outcome(walk)


@overload
async def map_reduce_async(
    mapper: Callable[[R], Iterable[tuple[K, V]]],
    reducer: Callable[[K, Iterable[V]], W],
    inputs: Inputs[R],
    *,
    output: None = None,
    **options: Unpack[Options],
) -> MapReduceResult[K, W]: ...
@overload
async def map_reduce_async(
    mapper: Callable[[R], Iterable[tuple[K, V]]],
    reducer: Callable[..., Any],
    inputs: Inputs[R],
    *,
    output: None = None,
    **options: Unpack[Options],
) -> MapReduceResult[K, Any]: ...
@overload
async def map_reduce_async(
    mapper: Callable[[Any], Any],
    reducer: Callable[..., Any],
    inputs: Inputs[Any],
    *,
    output: PathName,
    **options: Unpack[Options],
) -> list[Path]: ...
async def map_reduce_async(
    mapper: Callable[[Any], Any],
    reducer: Callable[..., Any],
    inputs: Inputs[Any],
    *,
    output: PathName | None = None,
    **options: Unpack[Options],
) -> MapReduceResult[Any, Any] | list[Path]:
    """The same as `map_reduce` for Trio programs. Cancelling it stops everything it started.

    Args:
        cluster: nodes, or a function that makes a cluster of a computation, an async context
            manager such as ``partial(open_cluster, nodes=[...])`` does.
    """
    call = _prepare(mapper, reducer, inputs, output=output, **options)
    nodes, factory = call.nodes, call.cluster
    if hasattr(factory, "next_done"):
        raise EngineMisused("an engine for programs that block can't serve a Trio program")
    completed = False
    failures: list[BaseException] = []
    try:
        with show_progress(call.progress) as watcher, _alone(failures):
            async with open_cluster_engine(call.plan.recipe, nodes, factory) as engine:
                walk = Walk(call.plan, engine.slots, call.sink)
                try:
                    await walk_async(walk, engine, watcher)
                except Exception as error:
                    failures.append(error)
                    raise
        completed = True
    finally:
        if not completed:
            call.sink.abandon()
    return call.outcome(walk)


@contextmanager
def _alone(failures: list[BaseException]) -> Iterator[None]:
    """Raise the failure, or Ctrl-C, itself, not the groups that nurseries put round it."""
    try:
        yield
    except BaseExceptionGroup as group:
        interrupts, others = group.split(KeyboardInterrupt)
        if others is not None:
            _, others = others.split(lambda error: error in failures)
        if others is not None:
            raise
        found: BaseException | None = interrupts
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if found is not None:
            failures.insert(0, found)
    else:
        return
    raise failures[0]


@frozen
class _Call:
    """The arguments of a call, checked."""

    plan: Plan
    sink: ResultParts | PartFiles
    nodes: Sequence[str] | None
    cluster: Any
    progress: bool | None

    def outcome(self, walk: Walk) -> MapReduceResult[Any, Any] | list[Path]:
        """What the caller gets."""
        if isinstance(self.sink, PartFiles):
            return self.sink.publish()
        if self.sink.parts:
            return MapReduceResult(None, self.sink)
        return MapReduceResult({} if walk.gathered is None else walk.gathered.entries)


def _prepare(
    mapper: Callable[[Any], Any],
    reducer: Callable[..., Any],
    inputs: Inputs[Any],
    *,
    combiner: Callable[..., Any] | None = None,
    partitions: int | None = None,
    nodes: Sequence[str] | None = None,
    cluster: Any = None,
    output: PathName | None = None,
    memory: int = DEFAULT_MEMORY,
    split_size: int | None = None,
    encoding: str = "utf-8",
    errors: str = "surrogateescape",
    progress: bool | None = None,
) -> _Call:
    planned = plan(
        mapper,
        reducer,
        inputs,
        combiner=combiner,
        partitions=partitions,
        text_output=output is not None,
        memory=memory,
        split_size=split_size,
        encoding=encoding,
        errors=errors,
    )
    if isinstance(cluster, list | tuple):
        nodes, cluster = cluster, None
    if output is None:
        return _Call(planned, ResultParts(planned.recipe.memory), nodes, cluster, progress)
    parts = PartFiles(Path(output))
    parts.prepare()
    return _Call(planned, parts, nodes, cluster, progress)


def _engine_of(nodes: Sequence[str] | None, cluster: Any) -> Engine:
    if cluster is None:
        return ClusterEngine(nodes)
    if hasattr(cluster, "next_done"):
        return cast("Engine", cluster)
    return ClusterEngine(factory=cluster)
