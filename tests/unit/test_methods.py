"""Methods as computations: with their own object, and with one that the job brings."""

from __future__ import annotations

import pickle

import pytest
from attrs import define

from dispy_trio.child.methods import to_function


@define(eq=False)
class Scale:
    factor: int

    def times(self, x: int, plus: int = 0) -> int:
        return self.factor * x + plus

    def add(self, other: Scale, minus: int = 0) -> int:
        return self.factor + other.factor - minus

    def compare(self, other: Scale | None = None) -> int:
        return self.factor - (other.factor if other else 0)

    @classmethod
    def of(cls, x: int) -> int:
        return cls(x).factor

    @staticmethod
    def plain(x: int) -> int:
        return x


OWN, OTHER = Scale(10), Scale(3)


def test_a_method_is_called_with_its_own_object() -> None:
    times = to_function(OWN.times)
    assert (times(2), times(2, plus=1), times(x=2), times(2, 1)) == (20, 21, 20, 21)


def test_a_method_is_called_with_the_object_that_comes_first_as_in_dispy() -> None:
    times = to_function(OWN.times)
    assert (times(OTHER, 2), times(OTHER, 2, plus=1), times(OTHER, x=2)) == (6, 7, 6)
    assert to_function(OWN.compare)(OTHER) == 3


def test_an_object_that_leaves_an_argument_out_is_an_argument_itself() -> None:
    add = to_function(OWN.add)
    assert (add(OTHER), add(OTHER, minus=1), add(OTHER, OTHER)) == (13, 12, 6)


def test_wrong_arguments_are_told_as_those_of_the_method() -> None:
    with pytest.raises(TypeError, match=r"times\(\) missing 1 required positional argument: 'x'"):
        to_function(OWN.times)()


def test_what_is_no_bound_method_is_left_alone() -> None:
    for function in (Scale.of, Scale.plain, Scale.times, len, OWN):
        assert to_function(function) is function  # type: ignore[arg-type]


def test_it_is_the_same_on_the_other_side() -> None:
    times = pickle.loads(pickle.dumps(to_function(OWN.times)))
    assert (times(2), times(OTHER, 2)) == (20, 6)
