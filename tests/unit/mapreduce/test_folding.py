"""Reducers in all spellings become one shape."""

import operator
import statistics
from functools import partial

import pytest

from dispy_mapreduce import BadProgram
from dispy_mapreduce.folding import Fold, OfKeyAndValues, OfValues, understand


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        (sum, 10),
        (max, 4),
        (min, 1),
        (operator.add, 10),
        (operator.mul, 24),
        (operator.or_, 7),
        (operator.xor, 4),
        (len, 4),
        (sorted, [1, 2, 3, 4]),
        (list, [3, 1, 2, 4]),
        (set, {1, 2, 3, 4}),
        (any, True),
        (statistics.mean, 2.5),
        (lambda values: next(iter(values)), 3),
        (lambda key, values: (key, sum(values)), ("k", 10)),
        (partial(sorted, reverse=True), [4, 3, 2, 1]),
        (lambda key, values, scale=2: scale * sum(values), 20),
    ],
)
def test_every_spelling_reduces_an_iterator(reducer, expected):
    """Called with a key and an iterator of values, whatever the function itself takes."""
    assert understand(reducer, "reducer")("k", iter([3, 1, 2, 4])) == expected


def test_folds_are_known_by_identity():
    """Only of these is it known that grouping does not matter."""
    assert understand(sum, "reducer") == Fold(operator.add, adds=True)
    assert understand(max, "reducer") == Fold(max)
    assert isinstance(understand(lambda a, b: a + b, "reducer"), OfKeyAndValues)
    assert isinstance(understand(statistics.mean, "reducer"), OfValues)


def test_shapes_that_do_not_fit_are_refused():
    """Before any work."""
    with pytest.raises(BadProgram, match=r"the reducer must take .*\(a, b, c\)"):
        understand(lambda a, b, c: None, "reducer")
    with pytest.raises(BadProgram, match="combiner 3 can't be called"):
        understand(3, "combiner")
    with pytest.raises(BadProgram, match="does not tell its arguments"):
        understand(int, "reducer")
