"""What stands for something that a node does not have, until it is used."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["StandIn"]

_OPERATIONS = """
    call iter next reversed len length_hint getitem setitem delitem contains enter exit aenter aexit
    aiter anext await bool int float complex index round bytes eq ne lt le gt ge hash mro_entries
    neg pos abs invert add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or
    radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror
    iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ixor ior
"""


class StandIn:
    """Raises NameError when it is used in any way, and says what it stands for."""

    __slots__ = ("_what", "_why")
    _what: str
    _why: str

    def __init__(self, what: str, why: str) -> None:
        object.__setattr__(self, "_what", what)
        object.__setattr__(self, "_why", why)

    def __reduce__(self) -> tuple[type[StandIn], tuple[str, str]]:
        return StandIn, (self._what, self._why)

    def __repr__(self) -> str:
        return f"<stands for {self._what}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # Somebody wants to know what it can do, no more.
        _refuse(self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        _refuse(self)

    def __delattr__(self, name: str) -> NoReturn:
        _refuse(self)


def _refuse(stand_in: StandIn, *_args: Any, **_kwargs: Any) -> NoReturn:
    raise NameError(f"{stand_in._what}: not here, for {stand_in._why}")


for _name in _OPERATIONS.split():
    setattr(StandIn, f"__{_name}__", _refuse)
