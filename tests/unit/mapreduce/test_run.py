"""A walk gets to the right end by whatever way: gathered, reduced, or with blocks lost between."""

import operator
import os
from collections import Counter, defaultdict

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy_mapreduce import (
    BlocksLost,
    InlineEngine,
    MapperFailed,
    ReducerFailed,
    block_mapper,
    map_reduce,
)
from dispy_mapreduce.errors import EngineMisused, RemoteTraceback
from dispy_mapreduce.graph import Stage
from dispy_mapreduce.plan import plan
from dispy_mapreduce.result import ResultParts
from dispy_mapreduce.run import Walk, walk_blocking
from dispy_mapreduce.splitting import FileSplit
from dispy_mapreduce.tasks import FilesDiffer, MapTask, ReduceTask


def words(line):
    for word in line.split():
        yield word, 1


@define(eq=False)
class LossyEngine(InlineEngine):
    """Removes blocks before reduce tasks run, as nodes do that are lost with their disks."""

    losses: int = 3
    tasks: list = field(factory=list)

    def next_done(self):
        task = self._waiting[0]
        self.tasks.append(task)
        if isinstance(task, ReduceTask) and self.losses and task.blocks:
            self.losses -= 1
            block = task.blocks[self.losses % len(task.blocks)]
            if os.path.exists(block.reference):
                os.unlink(block.reference)
        return super().next_done()


def oracle(records, mapper, reducer):
    """One loop and a dict."""
    groups = defaultdict(list)
    for record in records:
        for key, value in mapper(record):
            groups[key].append(value)
    return {key: reducer(values) for key, values in groups.items()}


pairs = st.tuples(st.sampled_from(["a", "b", 1, 1.0, True, None, ("x", 2), b"b"]), st.integers())


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.lists(pairs, max_size=4), max_size=40),
    reducer=st.sampled_from([sum, max, operator.add, sorted, len]),
    partitions=st.sampled_from([None, 1, 3]),
    slots=st.integers(1, 4),
    losses=st.integers(0, 4),
)
def test_every_run_gives_what_one_loop_would(records, reducer, partitions, slots, losses):
    """Also when blocks are lost on the way."""
    by_values = sum if reducer is operator.add else reducer
    engine = LossyEngine(slots, losses=losses)
    result = map_reduce(iter, reducer, records, partitions=partitions, cluster=engine)
    expected = oracle(records, iter, by_values)
    assert result.to_dict() == dict(result) == expected
    assert len(list(result)) == len(expected)


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_lost_blocks_are_made_again_by_their_map_tasks_alone(losses):
    """Under a new attempt number; the reduce task reads the newest."""
    engine = LossyEngine(2, losses=losses)
    result = map_reduce(words, sum, ["a b", "b c"] * 50, partitions=2, cluster=engine)
    assert result.to_dict() == {"a": 50, "b": 100, "c": 50}
    maps = [task for task in engine.tasks if isinstance(task, MapTask)]
    assert len(maps) == 8 + losses
    assert sum(task.attempt > 0 for task in maps) == losses
    for task in engine.tasks:
        if isinstance(task, ReduceTask):
            assert len({block.source for block in task.blocks}) == len(task.blocks)


def test_blocks_that_are_always_lost_end_the_run():
    """Rather than it going on for ever."""
    with pytest.raises(BlocksLost, match="was run 5 times"):
        map_reduce(words, sum, ["a"], partitions=1, cluster=LossyEngine(losses=100))


def test_gathering_ends_where_memory_does(tmp_path):
    """What was merged here joins what was left on the nodes."""
    path = tmp_path / "input.txt"
    path.write_text("".join(f"{number} common\n" for number in range(60_000)))
    planned = plan(words, sum, path, memory=1 << 20, split_size=10_000)
    walk = Walk(planned, 2, ResultParts(1 << 30))
    engine = InlineEngine(2)
    engine.open(planned.recipe)
    walk_blocking(walk, engine, None)
    engine.close(terminate=False)
    assert walk.graph.count(Stage.REDUCE) == (walk.partitions, walk.partitions)
    assert any(walk._gathered_blocks)
    assert not walk.gathered.entries
    result = map_reduce(
        words, sum, path, memory=1 << 20, split_size=10_000, cluster=InlineEngine(2)
    )
    assert result.to_dict() == Counter(path.read_text().split())


def test_a_node_that_sees_another_file_is_sent_the_lines(tmp_path):
    """The same task again, with its input in it."""
    path = tmp_path / "input.txt"
    path.write_text("a b\n" * 100)
    sent = []

    @define(eq=False)
    class BlindEngine(InlineEngine):
        def next_done(self):
            task = self._waiting[0]
            sent.append(task)
            pieces = task.split.pieces
            if any(piece.content is None for piece in pieces):
                self._waiting.popleft()
                return FilesDiffer(task.number, task.attempt, "not here")
            return super().next_done()

    result = map_reduce(words, sum, path, split_size=100, cluster=BlindEngine())
    assert result.to_dict() == {"a": 100, "b": 100}
    assert len(sent) == 8
    assert all(isinstance(task.split, FileSplit) for task in sent)


def test_a_failing_mapper_names_file_line_and_record(tmp_path):
    """Far into the file, behind other ranges and blocks."""
    path = tmp_path / "input.txt"
    path.write_text("fine\n" * 12_345 + "bad one\n" + "fine\n" * 5000)

    def fails(line):
        if line.startswith("bad"):
            raise KeyError("what is this")
        yield line, 1

    with pytest.raises(MapperFailed) as caught:
        map_reduce(fails, sum, path, split_size=1000, cluster=InlineEngine())
    assert str(caught.value) == f"the mapper failed at {path}, line 12346: 'bad one'"
    assert isinstance(caught.value.__cause__, KeyError)
    assert isinstance(caught.value.__cause__.__cause__, RemoteTraceback)
    assert "what is this" in str(caught.value.__cause__.__cause__)


def test_a_failing_block_mapper_names_the_block(tmp_path):
    """There is no record to name."""
    path = tmp_path / "input.txt"
    path.write_text("fine\n" * 100)

    @block_mapper(size=50)
    def fails(block):
        raise ValueError

    with pytest.raises(MapperFailed, match=r"the block that begins at .*input\.txt, line 1$"):
        map_reduce(fails, sum, path, cluster=InlineEngine())


def test_a_failing_reducer_names_the_key():
    """And the exception is the cause."""

    def fails(key, values):
        raise ValueError("no good")

    with pytest.raises(ReducerFailed, match="the reducer failed at key 'a'") as caught:
        map_reduce(words, fails, ["a"], cluster=InlineEngine())
    assert repr(caught.value.__cause__) == "ValueError('no good')"


def test_endless_inputs_are_drawn_as_needed():
    """No further ahead than there is room for."""
    drawn = 0

    def records():
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn

    def fails(record):
        return [(record, 1)] if record < 1000 else 1 / 0

    with pytest.raises(MapperFailed, match="record 999: 1000"):
        map_reduce(fails, sum, records(), cluster=InlineEngine())
    assert drawn < 10_000


def test_a_watcher_is_told_of_each_task():
    """For progress bars."""
    seen = []
    planned = plan(words, sum, ["a", "b", "c"], partitions=2)
    engine = InlineEngine()
    engine.open(planned.recipe)
    walk_blocking(Walk(planned, 1, ResultParts(1)), engine, lambda *told: seen.append(told))
    engine.close(terminate=False)
    assert [told[:2] for told in seen] == [
        *((Stage.MAP, done) for done in (1, 2, 3)),
        *((Stage.REDUCE, done) for done in (1, 2)),
    ]
    assert seen[-1] == (Stage.REDUCE, 2, 2, "")


def test_an_inline_engine_runs_one_at_a_time():
    """And can be used again when it is closed; its blocks are gone then."""
    engine = InlineEngine()
    planned = plan(words, sum, [])
    engine.open(planned.recipe)
    with pytest.raises(EngineMisused):
        engine.open(planned.recipe)
    directory = engine._store.directory
    engine.close(terminate=True)
    assert not os.path.exists(directory)
    assert map_reduce(words, sum, ["a"], cluster=engine).to_dict() == {"a": 1}


def test_progress_is_shown_when_asked_for(capsys):
    """On stderr, which is no terminal here."""
    map_reduce(words, sum, ["a"], cluster=InlineEngine(), progress=True)
    assert "map" in capsys.readouterr().err
    map_reduce(words, sum, ["a"], cluster=InlineEngine())
    assert capsys.readouterr().err == ""
