"""Random numbers in processes that are forks of one."""

from __future__ import annotations

import os
import pickle
import random
import warnings
from collections.abc import Callable

import numpy
import pytest

from dispy_trio.child import pickling
from dispy_trio.child.randomness import draw_anew


def in_a_fork(draw: Callable[[], float]) -> float:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Numpy has threads, which do not survive; nobody needs them here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        draw_anew()
        os.write(writing, pickle.dumps(draw()))
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        drawn: float = pickle.load(pipe)
        return drawn


def test_forks_draw_different_numbers_from_numpy() -> None:
    numpy.random.set_bit_generator(numpy.random.MT19937())
    drawn = [in_a_fork(numpy.random.rand) for _ in range(4)]
    assert len({*drawn, numpy.random.rand()}) == 5


def test_a_seed_that_the_user_has_set_stays() -> None:
    numpy.random.seed(17)
    first, second = in_a_fork(numpy.random.rand), in_a_fork(numpy.random.rand)
    assert first == second == numpy.random.rand()
    numpy.random.set_bit_generator(numpy.random.MT19937())


@pytest.mark.parametrize(
    "function",
    [random.random, random.randint, random.shuffle, numpy.random.rand, numpy.random.normal],
    ids=lambda function: function.__name__,
)
def test_functions_of_modules_travel_by_name(function: object) -> None:
    assert pickle.loads(pickling.dumps({"f": function}))["f"] == function


def test_a_generator_of_the_user_s_own_travels_with_its_state() -> None:
    for mine in (random.Random(3), numpy.random.RandomState(3)):
        copy = pickle.loads(pickling.dumps(mine))
        assert copy is not mine
        assert [copy.random() for _ in range(3)] == [mine.random() for _ in range(3)]
