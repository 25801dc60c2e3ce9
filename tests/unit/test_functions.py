"""What a call of any function comes to, and what of it goes with each call."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from dispy_trio.child.functions import FUNCTION, PICKLED
from dispy_trio.compute.functions import is_lasting, pack_function, to_plain


class Scale:
    def times(self, number: int) -> int:
        return number

    def __call__(self, number: int) -> int:
        return number

    @classmethod
    def make(cls) -> Scale:
        return cls()


def add(number: int, other: int = 0) -> int:
    return number + other


scale = Scale()


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        (add, (add, (5,), {})),
        (functools.partial(add, other=1), (add, (5,), {"other": 1})),
        (
            functools.partial(functools.partial(add, 1, other=2), other=3),
            (add, (1, 5), {"other": 3}),
        ),
        (scale.times, (Scale.times, (scale, 5), {})),
        (functools.partial(scale.times), (Scale.times, (scale, 5), {})),
        (scale, (Scale.__call__, (scale, 5), {})),
        (Scale, (Scale, (5,), {})),
        (Scale.make, (Scale.__dict__["make"].__func__, (Scale, 5), {})),
        (abs, (abs, (5,), {})),
    ],
)
def test_objects_of_methods_and_arguments_of_partials_go_with_each_call(
    function: Any, plain: Any
) -> None:
    assert to_plain(function, (5,)) == plain


@pytest.mark.parametrize(
    "function", [add, lambda: 0, Scale, int, abs, math.sqrt, functools.cache(add)]
)
def test_what_stays_the_same_is_packed_once(function: Any) -> None:
    assert is_lasting(function)


@pytest.mark.parametrize("function", [[1].append, "text".upper, scale, iter([1]).__next__])
def test_what_holds_an_object_is_packed_for_each_call(function: Any) -> None:
    assert not is_lasting(function)


def test_a_content_has_one_digest() -> None:
    def make(value: int) -> Any:
        return lambda: value

    one, same, other = (pack_function(make(value), ()) for value in (1, 1, 2))
    assert one.digest == same.digest != other.digest


def test_the_library_s_keywords_are_no_names_that_a_function_may_have() -> None:
    assert not FUNCTION.isidentifier()
    assert not PICKLED.isidentifier()
