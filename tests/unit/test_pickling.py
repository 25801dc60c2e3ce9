"""What goes by name, what by value, and what becomes of classes that both sides have."""

from __future__ import annotations

import enum
import functools
import pickle
import sys
import threading
from typing import Any

import pytest

from dispy_trio.child import homes, pickling
from dispy_trio.compute.pickling import NOTHING_CARRIED, Carried

LOCK = threading.Lock()


def make_class() -> Any:
    class Local:
        seen = 0

        def __init__(self, x: int) -> None:
            self.x = x

    return Local


def make_main_class(monkeypatch: pytest.MonkeyPatch, name: str = "Main") -> Any:
    """A class as if the program had defined it."""
    made = type(name, (), {"__module__": "__main__", "seen": 0})
    monkeypatch.setattr(sys.modules["__main__"], name, made, raising=False)
    return made


# --- by name -----------------------------------------------------------------------------------
def test_a_class_that_was_carried_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    main = make_main_class(monkeypatch)
    data, carried = Carried.with_computation({"function": lambda: main})
    assert pickle.loads(data)["classes"] == [main]
    assert main in carried
    assert carried.dumps(main()) == pickle.dumps(main(), 5)
    assert carried.dumps(main()) != NOTHING_CARRIED.dumps(main())


def test_a_class_redefined_since_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_main_class(monkeypatch)
    _, carried = Carried.with_computation({"function": lambda: first})
    second = make_main_class(monkeypatch)
    assert first not in carried
    assert second not in carried
    for kind in (first, second):
        assert type(pickle.loads(carried.dumps(kind()))) is kind


def test_a_class_whose_name_leads_elsewhere_is_not_carried() -> None:
    local = make_class()
    data, carried = Carried.with_computation({"function": lambda: local})
    assert local not in carried
    assert pickle.loads(data)["classes"] == []


def test_a_class_within_another_is_carried_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = make_main_class(monkeypatch, "Outer")
    inner = type("Inner", (), {"__module__": "__main__", "__qualname__": "Outer.Inner"})
    outer.Inner = inner
    assert inner not in Carried.with_computation({"function": lambda: inner})[1]
    assert inner in Carried.with_computation({"function": lambda: outer})[1]


def test_classes_settle_where_their_names_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setitem(sys.modules, "__mp_main__", main)
    monkeypatch.delitem(sys.modules, "__mp_main__")
    kinds = [
        type("SettledHere", (), {"__module__": "__main__"}),
        type("SettledThere", (), {"__module__": "__mp_main__"}),
        type("SettledElsewhere", (), {"__module__": "module_that_nobody_has"}),
    ]
    try:
        homes.settle(kinds)
        for kind in kinds:
            assert homes.is_found(kind)
            assert type(pickle.loads(pickle.dumps(kind()))) is kind
        json = type("Known", (), {"__module__": "json"})
        homes.settle([json])
        assert not homes.is_found(json), "a module of the node's own stays as it is"
    finally:
        del sys.modules["module_that_nobody_has"]
        for kind in kinds[:2]:
            delattr(main, kind.__name__)


# --- by value ----------------------------------------------------------------------------------
def test_what_comes_from_a_node_leaves_the_class_as_it_is() -> None:
    local = make_class()
    coming = pickling.dumps(local(3))
    local.seen = 5
    made = pickle.loads(coming)
    assert type(made) is local
    assert (made.x, local.seen) == (3, 5)


def test_what_comes_from_the_client_brings_the_state_of_its_class() -> None:
    local = make_class()
    coming = NOTHING_CARRIED.dumps(local(3))
    local.seen = 5
    assert type(pickle.loads(coming)) is local
    assert local.seen == 0


def test_a_class_that_is_not_here_is_made_once() -> None:
    def pickled_elsewhere() -> list[bytes]:
        local = make_class()
        return [pickling.dumps(local(n)) for n in range(2)]

    first, second = (pickle.loads(data) for data in pickled_elsewhere())
    assert type(first) is type(second)
    assert (first.x, second.x, type(first).seen) == (0, 1, 0)


def test_enumerations_by_value_stay_what_they_are() -> None:
    colour = enum.Enum("colour", "RED GREEN")
    colour.__qualname__ = "nowhere.colour"
    assert pickle.loads(pickling.dumps(colour["RED"])) is colour["RED"]


def test_results_go_by_name_where_that_will_do() -> None:
    assert pickling.dump_best([1]) == pickle.dumps([1], 5)
    assert pickle.loads(pickling.dump_best(lambda: 3))() == 3


# --- wrappers ----------------------------------------------------------------------------------
@functools.lru_cache(3)
def importable(n: int) -> int:
    return n


def test_a_cached_function_that_can_be_imported_goes_by_name() -> None:
    assert pickle.loads(NOTHING_CARRIED.dumps(importable)) is importable
    assert b"lru_cache" not in NOTHING_CARRIED.dumps(importable)


def test_wrappers_of_functions_go_by_value_with_them() -> None:
    @functools.lru_cache(maxsize=7, typed=True)
    def count(n: int) -> int:
        return n if n < 2 else count(n - 1) + 1

    @functools.singledispatch
    def tell(_: Any) -> str:
        return "other"

    tell.register(int, lambda _: f"int {tell('x')}")
    counted = pickle.loads(NOTHING_CARRIED.dumps(count))
    assert counted(5) == 5
    assert counted.cache_parameters() == {"maxsize": 7, "typed": True}
    told = pickle.loads(NOTHING_CARRIED.dumps(tell))
    assert (told(1), told("x")) == ("int other", "other")


# --- stand-ins ---------------------------------------------------------------------------------
def from_main(text: str, **names: Any) -> Any:
    """A function of the program."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile(text, "<program>", "exec", dont_inherit=True), space)
    return space["f"]


def test_names_of_types_go_by_value_with_what_they_annotate() -> None:
    f = from_main(
        """
from typing import Callable, NewType, ParamSpec, TypeVarTuple
Number = NewType("Number", int)
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")
def f(n: Number, call: Callable[P, int] = abs, *rest: *Ts) -> Number:
    return Number(n)
"""
    )
    made = pickle.loads(NOTHING_CARRIED.dumps(f))
    assert made(3) == 3
    hints = made.__annotations__
    assert hints["n"] is hints["return"] is made.__globals__["Number"]
    assert (hints["n"].__name__, hints["n"].__module__) == ("Number", "__main__")
    assert repr(hints["call"]) == repr(f.__annotations__["call"])
    assert repr(hints["rest"]) == repr(f.__annotations__["rest"])


def test_aliases_of_types_go_by_value_where_there_are_such() -> None:
    is_there = sys.version_info >= (3, 12)
    alias = "type Alias = list[int]" if is_there else "Alias = list[int]"
    made = pickle.loads(NOTHING_CARRIED.dumps(from_main(f"{alias}\ndef f(n: Alias): return n")))
    assert getattr(made.__annotations__["n"], "__value__", list[int]) == list[int]


def test_a_global_that_cannot_be_pickled_is_no_reason_to_refuse() -> None:
    f = from_main(
        "def f(use=False, deep=False):\n"
        "    if deep: return g()\n"
        "    return shared['lock'] if use else fine\n"
        "def g():\n"
        "    return f, lock.acquire()\n",
        shared={"lock": LOCK},
        lock=LOCK,
        fine=[1],
    )
    there = pickle.loads(NOTHING_CARRIED.dumps(f))
    assert there() == [1]
    with pytest.raises(
        NameError,
        match=r"global `shared`, a dict: not here, for it cannot be pickled \(TypeError: cannot"
        r" pickle '_thread.lock' object\)",
    ):
        there(use=True)
    with pytest.raises(NameError, match="global `lock`, a lock: not here"):
        there(deep=True)


def test_what_is_not_a_global_is_refused_as_before() -> None:
    with pytest.raises(TypeError, match="lock"):
        NOTHING_CARRIED.dumps(lambda lock=LOCK: lock)


def test_a_computation_that_uses_it_first_of_all_is_refused() -> None:
    straight = from_main("def f(n):\n    with lock:\n        return n\n", lock=LOCK)
    branch = from_main("def f(n):\n    if n: return lock.acquire()\n", lock=LOCK)
    for wrapped in (straight, functools.partial(straight, 1), functools.cache(straight)):
        with pytest.raises(
            pickle.PicklingError,
            match=r"^global `lock`, a lock: it cannot be pickled \(TypeError: cannot pickle",
        ):
            Carried.with_computation({"function": wrapped})
    data, _ = Carried.with_computation({"function": branch})
    assert pickle.loads(data)["function"](0) is None
