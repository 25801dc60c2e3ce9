"""Tasks are taken once, after those they need, and again when those are lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_mapreduce.graph import JobGraph, Stage, TaskName


def m(number):
    return TaskName(Stage.MAP, number)


def r(number):
    return TaskName(Stage.REDUCE, number)


@pytest.fixture
def graph():
    made = JobGraph()
    yield made
    made.validate()


def drained(graph):
    names = []
    while (name := graph.take_ready()) is not None:
        names.append(name)
    return names


def test_a_task_waits_for_those_it_needs(graph):
    """And is ready the moment the last of them has finished."""
    graph.add(m(0))
    graph.add(m(1))
    graph.add(r(0), [m(0), m(1)])
    assert drained(graph) == [m(0), m(1)]
    graph.finish(m(1))
    assert drained(graph) == []
    graph.finish(m(0))
    assert drained(graph) == [r(0)]
    assert not graph.is_over()
    graph.finish(r(0))
    assert graph.is_over()
    assert graph.count(Stage.MAP) == (2, 2)


def test_needs_that_have_finished_are_not_waited_for(graph):
    """Tasks may be added late."""
    graph.add(m(0))
    drained(graph)
    graph.finish(m(0))
    graph.add(r(0), [m(0)])
    assert drained(graph) == [r(0)]


def test_a_lost_task_runs_again_and_the_others_wait(graph):
    """Of two reduce tasks one ran into the loss, one had not begun."""
    graph.add(m(0))
    graph.add(m(1))
    for number in range(2):
        graph.add(r(number), [m(0), m(1)])
    assert drained(graph) == [m(0), m(1)]
    graph.finish(m(0))
    graph.finish(m(1))
    assert graph.take_ready() == r(0)
    graph.redo(m(1))
    graph.put_back(r(0))
    assert graph.take_ready() == m(1)
    assert graph.take_ready() is None
    graph.finish(m(1))
    assert drained(graph) == [r(0), r(1)]


def test_maps_are_preferred(graph):
    """Reduce tasks of a running graph never hold up the maps they wait for."""
    graph.add(r(0))
    graph.add(m(5))
    assert drained(graph) == [m(5), r(0)]


def test_misuse_is_refused(graph):
    """A name twice, or a need that is not there."""
    graph.add(m(0))
    with pytest.raises(ValueError, match="already"):
        graph.add(m(0))
    with pytest.raises(ValueError, match="not in the graph"):
        graph.add(r(0), [m(1)])


@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 4))
def test_any_order_of_ends_and_losses_gets_to_the_end(random, maps, reduces):
    """Every reduce task finishes, and each after the newest attempt of every map task."""
    graph = JobGraph()
    for number in range(maps):
        graph.add(m(number))
    for number in range(reduces):
        graph.add(r(number), [m(other) for other in range(maps)])
    running, mapped, losses = [], set(), 10
    while not graph.is_over():
        graph.validate()
        if (name := graph.take_ready()) is not None:
            if name.stage is Stage.REDUCE:
                assert len(mapped) == maps
            running.append(name)
            continue
        name = running.pop(random.randrange(len(running)))
        if name.stage is Stage.REDUCE and losses and random.random() < 0.5:
            losses -= 1
            lost = m(random.randrange(maps))
            if lost.number in mapped:
                mapped.remove(lost.number)
                graph.redo(lost)
            graph.put_back(name)
            continue
        graph.finish(name)
        if name.stage is Stage.MAP:
            mapped.add(name.number)
        else:
            assert graph.count(Stage.REDUCE)[1] == reduces
    assert graph.count(Stage.REDUCE) == (reduces, reduces)
