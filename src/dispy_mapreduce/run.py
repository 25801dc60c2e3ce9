"""Walks the graph of a plan over an engine.

`Walk` decides and does nothing: it says which tasks to run next and takes their answers. The loops
that carry tasks to an engine and answers back, one for threads and one for Trio, are a few lines
each and hold no decisions.

Theory of operation. Map tasks are made as the inputs are drawn. When the plan gathers, each hands
over its partial result, which the walk merges into one table; that is least work when results come
to the client anyway. A map task whose result is too large for that leaves blocks instead, and when
all map tasks are done there are reduce tasks, one a partition, each reading the blocks of all map
tasks. What was gathered before joins them as one more block. Without gathering all leave blocks.

A reduce task whose blocks are gone names the map tasks that made them. These run again under a new
attempt number, and the reduce task after them. Its blocks are those of the newest attempts at the
time it is issued; it reads no others.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Protocol, assert_never

import trio
from attrs import define, field

from dispy_mapreduce.blocks import Block, bytes_block
from dispy_mapreduce.columns import decode
from dispy_mapreduce.errors import (
    BlocksLost,
    MapperFailed,
    ReducerFailed,
    RemoteTraceback,
    TaskLost,
)
from dispy_mapreduce.folding import Fold
from dispy_mapreduce.graph import JobGraph, Stage, TaskName
from dispy_mapreduce.partition import partition_columns
from dispy_mapreduce.plan import Plan
from dispy_mapreduce.result import Sink
from dispy_mapreduce.splitting import FileSplit, Split, read_in
from dispy_mapreduce.tables import FoldTable
from dispy_mapreduce.tasks import (
    BlocksGone,
    FilesDiffer,
    MapDone,
    MapTask,
    Place,
    Recipe,
    ReduceDone,
    ReduceTask,
    Task,
    TaskDone,
    UserCodeRaised,
)

__all__ = ["AsyncEngine", "Engine", "Walk", "Watcher", "walk_async", "walk_blocking"]

MAX_ATTEMPTS = 5
"""Of one map task, before its blocks count as lost for good."""
_GATHER_GROWTH = 4
"""The client's table may take so many times the budget of a worker; then gathering ends."""
_TASKS_PER_SLOT = 3
"""Tasks handed to an engine ahead of their answers."""

Watcher = Callable[[Stage, int, int, str], None]
"""Told after each task: its stage, how many of them are done, how many there are so far, and where
they run, as far as the engine tells."""


class Engine(Protocol):
    """Runs tasks, for a program that blocks."""

    @property
    def slots(self) -> int:
        """How many tasks run at the same time, as far as is known yet."""
        ...

    def open(self, recipe: Recipe) -> None:
        """Get ready to run tasks of this recipe."""
        ...

    def submit(self, task: Task) -> None:
        """Run it some time."""
        ...

    def next_done(self) -> TaskDone:
        """Wait until a task has ended.

        Raises:
            TaskLost: it has, but not with an answer.
        """
        ...

    def close(self, *, terminate: bool) -> None:
        """Stop what runs, and remove all blocks."""
        ...


class AsyncEngine(Protocol):
    """Runs tasks, for a Trio program."""

    @property
    def slots(self) -> int: ...

    def submit(self, task: Task) -> None: ...

    async def next_done(self) -> TaskDone: ...


@define(eq=False)
class Walk:
    """One run of a plan."""

    plan: Plan
    slots: int
    sink: Sink
    graph: JobGraph = field(factory=JobGraph)
    gathered: FoldTable | None = field(init=False)
    """What the client merged itself; all of the result when there are no blocks."""
    partitions: int = field(init=False)
    _splits: Iterator[Split] = field(init=False)
    _open: dict[int, Split] = field(factory=dict)
    """Shares of the map tasks that may have to run again."""
    _attempts: dict[int, int] = field(factory=dict)
    _blocks: dict[int, tuple[Block | None, ...]] = field(factory=dict)
    _gathering: bool = field(init=False)
    _drawn: bool = False
    _reducing: bool = False
    _gathered_blocks: list[Block | None] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        reducer = self.plan.recipe.reducer
        self._gathering = self.plan.gather
        self.gathered = FoldTable(reducer) if isinstance(reducer, Fold) else None
        self.partitions = self.plan.partitions(self.slots)
        self._splits = self.plan.splits(self.slots)

    def is_over(self) -> bool:
        """All is done."""
        return self._drawn and self.graph.is_over()

    def take(self, flying: int) -> Iterator[Task]:
        """Tasks to submit now, when so many are on their way already."""
        room = max(1, self.slots) * _TASKS_PER_SLOT - flying
        while room > 0 and (name := self._next_name()) is not None:
            yield self._issue(name)
            room -= 1

    def _next_name(self) -> TaskName | None:
        while (name := self.graph.take_ready()) is None and not self._drawn:
            split = next(self._splits, None)
            if split is None:
                self._drawn = True
                self._maps_may_be_over()
            else:
                number = len(self._attempts)
                self._open[number] = split
                self._attempts[number] = 0
                self.graph.add(TaskName(Stage.MAP, number))
        return name

    def _issue(self, name: TaskName) -> Task:
        number = name.number
        if name.stage is Stage.MAP:
            attempt, split = self._attempts[number], self._open[number]
            return MapTask(number, attempt, split, self.partitions, self._gathering)
        mapped = [blocks[number] for _, blocks in sorted(self._blocks.items())]
        if self._gathered_blocks:
            mapped.append(self._gathered_blocks[number])
        return ReduceTask(number, tuple(block for block in mapped if block is not None))

    # --- answers -------------------------------------------------------------------------------
    def done(self, answer: TaskDone) -> Stage:
        """Take an answer; tells of which stage it was.

        Raises:
            MapperFailed: names the record; its cause is what the mapper raised.
            ReducerFailed: names the key; its cause is what the reducer or combiner raised.
            BlocksLost: blocks went missing too often.
            InputError: a file changed since the run began.
        """
        match answer:
            case MapDone(number=number):
                self._map_done(answer)
                self.graph.finish(TaskName(Stage.MAP, number))
                self._maps_may_be_over()
                return Stage.MAP
            case FilesDiffer(number=number):
                split = self._open[number]
                assert isinstance(split, FileSplit)
                self._open[number] = FileSplit(tuple(map(read_in, split.pieces)))
                self.graph.put_back(TaskName(Stage.MAP, number))
                return Stage.MAP
            case ReduceDone(number=number, content=content, in_order=in_order):
                self.sink.put(number, content, in_order=in_order)
                self.graph.finish(TaskName(Stage.REDUCE, number))
                return Stage.REDUCE
            case BlocksGone():
                self._remake(answer)
                return Stage.REDUCE
            case UserCodeRaised():
                raise _error_of(answer) from _cause_of(answer)
            case _:
                assert_never(answer)

    def _map_done(self, answer: MapDone) -> None:
        if answer.partial is None:
            self._blocks[answer.number] = answer.blocks
            return
        assert self.gathered is not None
        self.gathered.merge(*decode(answer.partial))
        # Its result is here and can't be lost.
        del self._open[answer.number]
        if self.gathered.size() > self.plan.recipe.memory * _GATHER_GROWTH:
            self._gathering = False

    def _maps_may_be_over(self) -> None:
        """Once all map tasks are done, and have left blocks, there is something to reduce."""
        done, total = self.graph.count(Stage.MAP)
        if not self._drawn or done < total or self._reducing:
            return
        if self.plan.gather and not self._blocks:
            return
        self._reducing = True
        if self.gathered is not None and self.gathered.entries:
            keys, values = self.gathered.take()
            self._gathered_blocks = [
                bytes_block(-1, 0, columns)
                for columns in partition_columns(keys, values, self.partitions)
            ]
        maps = [TaskName(Stage.MAP, number) for number in self._attempts]
        for partition in range(self.partitions):
            self.graph.add(TaskName(Stage.REDUCE, partition), maps)

    def _remake(self, answer: BlocksGone) -> None:
        """Run the map tasks again whose blocks are gone; others may have asked for some before."""
        for number, attempt in answer.sources:
            if self._attempts[number] != attempt:
                continue
            if attempt + 1 == MAX_ATTEMPTS:
                raise BlocksLost(
                    f"map task {number} was run {MAX_ATTEMPTS} times, and its blocks were lost"
                    f" each time: {answer.reason}"
                )
            self._attempts[number] = attempt + 1
            del self._blocks[number]
            self.graph.redo(TaskName(Stage.MAP, number))
        self.graph.put_back(TaskName(Stage.REDUCE, answer.number))


# --- what the user's code raised ---------------------------------------------------------------
def _error_of(answer: UserCodeRaised) -> MapperFailed | ReducerFailed:
    if answer.place is None:
        return ReducerFailed(f"the {answer.culprit} failed at key {answer.key}")
    return MapperFailed(f"the mapper failed at {_tell(answer.place)}")


def _cause_of(answer: UserCodeRaised) -> BaseException:
    there = RemoteTraceback(answer.text)
    if answer.error is None:
        return there
    try:
        cause: BaseException = pickle.loads(answer.error)
        cause.__cause__ = there
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: ASYNC103 - whatever it does when unpickled: no await is here
        return there  # noqa: ASYNC104 - its text is there
    return cause


def _tell(place: Place) -> str:
    if place.path is None:
        whole = "the records from number" if not place.record else "record"
        return f"{whole} {place.index}" + (f": {place.record}" if place.record else "")
    lines = _lines_before(place.path, place.offset)
    if lines is None:
        where = f"{place.path}, line {place.index + 1} of those after byte {place.offset}"
    else:
        where = f"{place.path}, line {lines + place.index + 1}"
    return f"{where}: {place.record}" if place.record else f"the block that begins at {where}"


def _lines_before(path: str, offset: int) -> int | None:
    """Newlines in front of that byte; counted only now that someone wants to know."""
    count = 0
    try:
        with open(path, "rb") as file:
            while offset > 0 and (piece := file.read(min(offset, 1 << 20))):
                count += piece.count(b"\n")
                offset -= len(piece)
    except OSError:
        return None  # gone since; the caller still says which byte
    return count


# --- the two loops -----------------------------------------------------------------------------
def walk_blocking(walk: Walk, engine: Engine, watcher: Watcher | None) -> None:
    """Run all tasks on an engine that is open."""
    flying = 0
    while not walk.is_over():
        for task in walk.take(flying):
            engine.submit(task)
            flying += 1
        if walk.is_over():
            break
        if not flying:
            raise TaskLost("tasks wait for others that nobody runs")
        answer = engine.next_done()
        flying -= 1
        stage = walk.done(answer)
        if watcher is not None:
            watcher(stage, *walk.graph.count(stage), getattr(engine, "place", ""))


async def walk_async(walk: Walk, engine: AsyncEngine, watcher: Watcher | None) -> None:
    """The same in a Trio program; merging, which takes its time, is done in a thread.

    So is the drawing of inputs, which may wait for others: whoever is cancelled leaves it there.
    """
    flying = 0
    # Not of the program's own, which may all be busy; and one that draws for ever keeps no other.
    drawing, merging = trio.CapacityLimiter(1), trio.CapacityLimiter(1)
    while not walk.is_over():
        for task in await trio.to_thread.run_sync(
            list, walk.take(flying), limiter=drawing, abandon_on_cancel=True
        ):
            engine.submit(task)
            flying += 1
        if walk.is_over():
            break
        if not flying:
            raise TaskLost("tasks wait for others that nobody runs")
        answer = await engine.next_done()
        flying -= 1
        stage = await trio.to_thread.run_sync(walk.done, answer, limiter=merging)
        if watcher is not None:
            watcher(stage, *walk.graph.count(stage), getattr(engine, "place", ""))
