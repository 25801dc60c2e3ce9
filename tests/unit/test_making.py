"""Classes that come by value are made as they were defined."""

from __future__ import annotations

import enum
import gc
import pickle
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pytest

from dispy_trio.child import pickling

T = TypeVar("T")


class Plugin:
    """It can be imported, so it is not made anew."""

    registry: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls) -> None:
        Plugin.registry[cls.label] = cls  # type: ignore[attr-defined]


class Labelling(type):
    def __new__(cls, name: str, bases: Any, space: dict[str, Any]) -> Any:
        return super().__new__(cls, name, bases, {**space, "shown": int(space["label"])})


def make_slots() -> Any:
    class Slots:
        __slots__ = ("__hidden", "shown")

        def __init__(self) -> None:
            self.shown = self.__hidden = 1

        def hidden(self) -> int:
            return self.__hidden

    return Slots


def make_generic_slots() -> Any:
    class Slots(Generic[T]):
        __slots__ = "shown"

        def __init__(self) -> None:
            self.shown = 1

    return Slots


def make_record() -> Any:
    class Record(NamedTuple):
        shown: int = 1

    return Record


def make_hooked() -> Any:
    class Base:
        seen: ClassVar[list[str]] = []

        def __init_subclass__(cls, *, tag: int) -> None:
            Base.seen.append(cls.__name__)
            cls.shown = tag

    class Hooked(Base, tag=1):
        pass

    return Hooked


def make_with_metaclass() -> Any:
    class Meta(type):
        def __new__(cls, name: str, bases: Any, space: Any, *, tag: int) -> Any:
            return super().__new__(cls, name, bases, {**space, "shown": tag})

        def __init__(cls, name: str, bases: Any, space: Any, *, tag: int) -> None:
            super().__init__(name, bases, space)

    class Made(metaclass=Meta, tag=1):
        pass

    return Made


def make_planets() -> Any:
    class Planet(enum.Enum):
        EARTH = (6.0, 2.0)
        TERRA = EARTH

        def __init__(self, mass: float, radius: float) -> None:
            self.density = mass / radius

    return Planet


def make_rights() -> Any:
    class Right(enum.Flag):
        READ = 1
        WRITE = 2
        BOTH = 3

    return Right


def make_plugin() -> Any:
    class Plug(Plugin):
        label = "plug"
        shown = 1

    return Plug


def make_labelled() -> Any:
    class Labelled(metaclass=Labelling):
        label = "1"

    return Labelled


def elsewhere(make: Any) -> Any:
    """The class, as it is where it comes to."""
    data = pickling.dumps(make())
    Plugin.registry.clear()
    gc.collect()
    assert not any(kind.__qualname__ == make().__qualname__ for kind in pickling._keys)
    return pickle.loads(data)


@pytest.mark.parametrize(
    "make",
    [
        make_slots,
        make_generic_slots,
        make_record,
        make_hooked,
        make_with_metaclass,
        make_plugin,
        make_labelled,
    ],
)
def test_a_class_is_made_as_it_was_defined(make: Any) -> None:
    defined, made = make(), elsewhere(make)
    assert made.__qualname__ == defined.__qualname__
    assert made().shown == 1
    assert hasattr(made(), "__dict__") == hasattr(defined(), "__dict__")


def test_slots_may_have_hidden_names() -> None:
    assert elsewhere(make_slots)().hidden() == 1


def test_hooks_are_not_called_again() -> None:
    made = elsewhere(make_hooked)
    assert made.seen == ["Hooked"]
    with pytest.raises(TypeError, match="tag"):
        type("Another", (made,), {})


def test_hooks_that_were_imported_see_what_is_plain() -> None:
    made = elsewhere(make_plugin)
    assert Plugin.registry == {"plug": made}


def test_members_of_enumerations_keep_what_they_hold_and_all_their_names() -> None:
    planets, rights = elsewhere(make_planets), elsewhere(make_rights)
    assert planets.EARTH.density == 3.0
    assert planets["TERRA"] is planets.TERRA is planets.EARTH
    assert rights["BOTH"] is rights.READ | rights.WRITE
