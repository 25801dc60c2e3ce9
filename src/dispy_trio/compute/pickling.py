"""How the client pickles: what nodes can't import by value, but what they were sent by its name.

With a computation go the classes that its code refers to, and nodes keep them (`child.homes`).
Later, in arguments, their names are enough.

A global that can't be pickled is no reason to refuse a function that mentions it, which may do so
only where it runs here: `child.standins` go in place of such. What a computation uses as soon as it
is called is another matter.
"""

from __future__ import annotations

import dis
import io
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar

import cloudpickle
from attrs import define, field

from dispy_trio.child.homes import MAINS, is_found
from dispy_trio.child.pickling import Pickler, take_state
from dispy_trio.child.standins import StandIn

__all__ = ["NOTHING_CARRIED", "Carried"]

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


@define(eq=False)
class Carried:
    """The classes that a computation brings to its nodes."""

    _classes: dict[int, type] = field(factory=dict)
    """By identity: what a class is equal to is its own business."""

    def __contains__(self, kind: type) -> bool:
        """Will nodes find it by its name? Not when that has become another's meanwhile."""
        return id(kind) in self._classes and kind.__module__ in MAINS and is_found(kind)

    def __len__(self) -> int:
        return len(self._classes)

    def record(self, kind: type) -> bool:
        """Remember a class that goes by value; False when its name does not lead to it."""
        outer, _, inner = kind.__qualname__.partition(".")
        if not is_found(kind):
            return False
        home = sys.modules[kind.__module__]
        if inner and id(getattr(home, outer)) not in self._classes:
            return False
        self._classes[id(kind)] = kind
        return True

    def dumps(self, value: Any, protocol: int = 5, buffer_callback: Any = None) -> bytes:
        """Pickle for a node that has them.

        Raises:
            Exception: whatever pickling raises.
        """
        try:
            return _dump(_ClientPickler, value, protocol, buffer_callback, carried=self)
        except Exception:
            return _dump(_LenientPickler, value, protocol, buffer_callback, carried=self)

    @classmethod
    def with_computation(cls, contents: dict[str, Any]) -> tuple[bytes, Carried]:
        """Pickle a computation; the list of what it carries is added to its contents.

        Raises:
            Exception: whatever pickling raises.
        """
        try:
            return cls._carry(_ClientPickler, contents)
        except Exception:
            return cls._carry(_LenientPickler, contents, strict=_code_of(contents["function"]))

    @classmethod
    def _carry(
        cls, pickler: type[_ClientPickler], contents: dict[str, Any], **options: Any
    ) -> tuple[bytes, Carried]:
        carried = cls()
        recorded: list[type] = []

        def record(kind: type) -> None:
            if carried.record(kind):
                recorded.append(kind)

        # The list is filled while what comes before it is pickled.
        data = _dump(pickler, {**contents, "classes": recorded}, record=record, **options)
        return data, carried


NOTHING_CARRIED = Carried()


def _code_of(function: Any) -> types.CodeType | None:
    """Of what is called in the end."""
    while not isinstance(function, types.FunctionType):
        for name in ("func", "__func__", "__wrapped__"):
            inner = getattr(function, name, None)
            if inner is not None:
                break
        else:
            return None
        function = inner
    return function.__code__


def _used_first(code: types.CodeType) -> list[str]:
    """The globals that are used before the code decides anything, so whatever its arguments are."""
    used: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            break
        if instruction.opname == "LOAD_GLOBAL":
            used.append(str(instruction.argval))
    return used


def _dump(
    pickler: type[_ClientPickler],
    value: Any,
    protocol: int = 5,
    buffer_callback: Any = None,
    **options: Any,
) -> bytes:
    main = sys.modules.get("__mp_main__")
    if main is not None:
        # To cloudpickle, that is a module like others.
        cloudpickle.register_pickle_by_value(main)
    with io.BytesIO() as file:
        pickler(file, protocol, buffer_callback, **options).dump(value)
        return file.getvalue()


def _refuse_file(file: Any) -> Any:
    if file is sys.stdout or file is sys.stderr:
        return Pickler.dispatch_table[io.TextIOWrapper](file)
    raise TypeError(
        f"the open file {getattr(file, 'name', '?')!r} stays here: give the job its path, and the"
        " file itself by depends= or dispy_job_depends="
    )


_FILES = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)


class _ClientPickler(Pickler):
    """Takes by value what nodes can neither import nor were sent."""

    dispatch_table: ClassVar[Any] = ChainMap(
        # cloudpickle makes copies of them in memory.
        dict.fromkeys(_FILES, _refuse_file),
        Pickler.dispatch_table,
    )

    def __init__(
        self,
        file: Any,
        protocol: int,
        buffer_callback: Any,
        carried: Carried = NOTHING_CARRIED,
        record: Callable[[type], None] | None = None,
    ) -> None:
        super().__init__(file, protocol, buffer_callback)
        self.set_state = take_state
        self._carried = carried
        self._record = record

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and obj in self._carried:
            return NotImplemented
        reduced = super().reducer_override(obj)
        if self._record and isinstance(obj, type) and reduced is not NotImplemented:
            self._record(obj)
        return reduced


class _LenientPickler(_ClientPickler):
    """The same, with stand-ins for globals of functions that can't be pickled.

    Each is tried by itself, which takes its time: only for what can't be pickled otherwise.
    """

    def __init__(
        self,
        *args: Any,
        tried: dict[int, StandIn | None] | None = None,
        strict: types.CodeType | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._tried = {} if tried is None else tried
        """Identity of a global to what stands for it, or None when it is fine, or being tried."""
        self._strict = strict
        """Code that is given no stand-in for what it uses first of all."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType) and reduced is not NotImplemented:
            for part in reduced[2]:
                if isinstance(part, dict) and "__globals__" in part:
                    space = part["__globals__"]
                    fit = {name: self._fit(name, value) for name, value in space.items()}
                    if obj.__code__ is self._strict:
                        self._check(fit)
                    part["__globals__"] = fit
        return reduced

    def _check(self, space: dict[str, Any]) -> None:
        assert self._strict is not None
        for name in _used_first(self._strict):
            if isinstance(space.get(name), StandIn):
                # What it tells may be had without using it.
                raise pickle.PicklingError(": ".join(space[name].__reduce__()[1]))

    def _fit(self, name: str, value: Any) -> Any:
        """The value, or what stands for it."""
        if type(value) in _PLAIN:
            return value
        if id(value) not in self._tried:
            self._tried[id(value)] = None
            try:
                _dump(_LenientPickler, value, carried=self._carried, tried=self._tried)
            except Exception as exc:
                self._tried[id(value)] = StandIn(
                    f"global `{name}`, a {type(value).__qualname__}",
                    f"it cannot be pickled ({type(exc).__name__}: {exc})",
                )
        stand_in = self._tried[id(value)]
        return value if stand_in is None else stand_in
