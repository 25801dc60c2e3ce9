"""What stands for something that a node does not have."""

from __future__ import annotations

import copy
import inspect
import math
import operator
import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest

from dispy_trio.child.standins import StandIn

SUBJECT: Any = StandIn("global `lock`, a lock", "it cannot be pickled")
USES: list[Callable[[Any], object]] = [
    lambda x: x(),
    lambda x: x.acquire,
    lambda x: x[0],
    lambda x: setattr(x, "y", 1),
    lambda x: delattr(x, "y"),
    lambda x: x + 1,
    lambda x: 1 - x,
    lambda x: -x,
    lambda x: x == 3,
    lambda x: x < 3,
    lambda x: 3 in x,
    bool,
    hash,
    int,
    float,
    len,
    list,
    next,
    operator.index,
    math.floor,
    lambda x: x.__enter__(),
    lambda x: types.new_class("Window", (x,)),
]


@pytest.mark.parametrize("use", USES)
def test_says_what_it_stands_for_when_it_is_used(use: Callable[[Any], object]) -> None:
    with pytest.raises(
        NameError, match=r"^global `lock`, a lock: not here, for it cannot be pickled$"
    ):
        use(SUBJECT)


def test_may_be_looked_at_handed_on_and_copied() -> None:
    assert repr(SUBJECT) == str(SUBJECT) == "<stands for global `lock`, a lock>"
    assert SUBJECT is not None
    assert not isinstance(SUBJECT, str)
    assert not inspect.isfunction(SUBJECT)
    assert not hasattr(SUBJECT, "__wrapped__")
    for again in (pickle.loads(pickle.dumps(SUBJECT)), copy.copy(SUBJECT)):
        assert repr(again) == repr(SUBJECT)
