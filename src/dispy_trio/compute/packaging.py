"""A computation as bytes, arguments as bytes, and results back from bytes.

What the user wrote himself travels without being listed: things defined in ``__main__`` by value
(`compute.pickling`), once, with the computation; modules that lie beside his script as their
sources, so that on the node they are imported as here. What is installed (in site-packages or the
standard library) does not travel. Classes of either kind are the same class on both sides.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

from attrs import define, field, frozen

from dispy_trio.child import alias, parts
from dispy_trio.child.methods import to_function
from dispy_trio.compute.blame import blame
from dispy_trio.compute.depends import NO_DEPENDS, Depends, by_value, unimported_names
from dispy_trio.compute.luggage import pack_data
from dispy_trio.compute.pickling import NOTHING_CARRIED, Carried
from dispy_trio.compute.sources import own_sources
from dispy_trio.errors import (
    JobFailed,
    PickleArgumentError,
    RemoteTraceback,
    ResultUnpicklable,
)
from dispy_trio.messages import BULK_THRESHOLD
from dispy_trio.models import JobFile
from dispy_trio.texts import NOTE_LIMIT

__all__ = [
    "Bundle",
    "Parts",
    "Raised",
    "check_kind",
    "exception_line",
    "map_private",
    "name_of",
    "pack_arguments",
    "pack_calls",
    "pack_code",
    "pack_computation",
    "pack_setup_arguments",
    "pickle_contents",
    "rewrite_segment",
    "split_parts",
    "unpack_calls",
    "unpack_exception",
    "unpack_result",
    "write_segment",
]

split_parts = parts.split
write_segment = parts.write_segment
rewrite_segment = parts.rewrite_segment
map_private = parts.map_private

_BIG_TYPES = frozenset({bytes, bytearray, tuple})


@frozen
class Bundle:
    """A computation on its way to nodes."""

    name: str
    digest: str
    """SHA-256, hex."""
    data: bytes
    files: tuple[JobFile, ...] = ()
    """To be put on each node before it is opened there."""
    carried: Carried = field(default=NOTHING_CARRIED, eq=False)
    """The classes that nodes know by it."""


@define(eq=False)
class Parts:
    """A large pickle: the stream first, then its out-of-band buffers."""

    buffers: list[memoryview | bytes]
    size: int
    """Bytes, all together."""
    copied: bool = False
    """Whoever unpickles it keeps nothing of the memory it lies in."""

    @property
    def sizes(self) -> list[int]:
        return [len(buffer) for buffer in self.buffers]

    def padded(self) -> list[memoryview]:
        """As they travel."""
        return parts.padded(self.buffers)


# --- computations ------------------------------------------------------------------------------
def pack_computation(
    computation: Callable[..., Any],
    depends: Depends = NO_DEPENDS,
    setup: Callable[..., Any] | None = None,
    cleanup: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Bundle:
    """Pack a callable, what it depends on, and the user's own modules.

    All of it is one pickle, so that functions of one module share their globals on the node too.

    Raises:
        PickleArgumentError: names what can't be pickled.
        TypeError: it is not callable, or what it returns can't be a result.
    """
    if not callable(computation):
        raise TypeError(
            f"a computation is a function or another callable, or the path of a program,"
            f" not {type(computation).__name__}"
        )
    name = name or name_of(computation)
    is_async = check_kind(computation, f"the computation {name!r}", may_be_async=True)
    code = dict(depends.code)
    function = to_function(computation)
    if is_async:
        from dispy_trio.child.coroutines import Coroutine  # It imports Trio.

        function = Coroutine(function)
    contents = {"function": function, "code": code, "setup": setup, "cleanup": cleanup}
    own = own_sources()
    sources = {**own.modules, **depends.sources}
    objects = [computation, *code.values(), *filter(None, (setup, cleanup))]
    with by_value(code.values(), objects, sources):
        pickled, carried = pickle_contents(computation, name, contents)
    data, files = pack_data({**own.data, **depends.data})
    bundle = {
        "sources": sources,
        "data": data,
        "pickled": pickled,
        "unimported": unimported_names(objects),
        "as_dispy": alias.is_installed(),
    }
    packed = pickle.dumps(bundle, 5)
    digest = hashlib.sha256(packed).hexdigest()
    return Bundle(name, digest, packed, (*depends.files, *files), carried)


def pickle_contents(
    computation: Callable[..., Any], name: str, contents: dict[str, Any]
) -> tuple[bytes, Carried]:
    """Pickle a computation and what goes with it, all in one.

    Raises:
        PickleArgumentError: names what can't be pickled.
    """
    try:
        return Carried.with_computation(contents)
    except Exception as exc:
        for part, value in (*contents["code"].items(), *contents.items()):
            if part in ("function", "code"):
                continue
            try:
                NOTHING_CARRIED.dumps(value)
            except Exception as reason:
                raise PickleArgumentError(
                    f"{part!r}, which goes with the computation {name!r}, cannot be pickled:"
                    f" {blame(value, reason)}"
                ) from exc
        raise PickleArgumentError(
            f"the computation {name!r} cannot be pickled: {blame(computation, exc)}"
        ) from exc


def pack_code(
    depends: Depends,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    carried: Carried = NOTHING_CARRIED,
) -> bytes | Parts:
    """Pickle the arguments of a job that brings code of its own.

    Raises:
        PickleArgumentError: says what can't be pickled.
    """
    shielded = (dict(depends.code), parts.shield(args), kwargs)
    with by_value(depends.code.values(), (), depends.sources):
        try:
            stream, buffers = parts.dump((shielded, False), carried.dumps)
        except Exception as exc:
            raise PickleArgumentError(
                f"the job's arguments or dependencies cannot be pickled: {exc}"
            ) from exc
    if not buffers and len(stream) <= BULK_THRESHOLD:
        return stream
    pieces: list[memoryview | bytes] = [stream, *buffers]
    return Parts(pieces, sum(len(piece) for piece in pieces))


def name_of(computation: Callable[..., Any]) -> str:
    """What people call it."""
    if isinstance(computation, functools.partial):
        return name_of(computation.func)
    return getattr(computation, "__name__", None) or type(computation).__name__


def check_kind(function: Callable[..., Any], what: str, *, may_be_async: bool = False) -> bool:
    """See that a call runs the function, and returns what can travel; True for an async function.

    Raises:
        TypeError: it is a generator function, or an async one that may be none; says what to do.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = getattr(type(function), "__call__")  # noqa: B004, B009 - not whether, but which
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"{what} is a generator function: it would return a generator, which stays where it is;"
            " return list(…) of what it yields"
        )
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{what} is an async generator function: it would return a generator, which stays where"
            " it is; return a list of what it yields"
        )
    is_async = inspect.iscoroutinefunction(function)
    if is_async and not may_be_async:
        raise TypeError(
            f"{what} is an async function, and nothing awaits it; make it a function that calls"
            " trio.run(…) or asyncio.run(…)"
        )
    return is_async


# --- arguments ---------------------------------------------------------------------------------
_MAIN = b"_main__"
"""Of ``__main__`` and ``__mp_main__``, plain pickle keeps only names, and it is for `Carried` to
say whether the node has what they mean here."""


def pack_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None, carried: Carried = NOTHING_CARRIED
) -> bytes | Parts:
    """Pickle the arguments of one job: bytes, or `Parts` when they are large.

    Raises:
        PickleArgumentError: names the argument that can't be pickled.
    """
    for value in args:
        if type(value) in _BIG_TYPES:
            return _pack_large(args, kwargs, carried)
    try:
        data = pickle.dumps((args, kwargs), 5)
        if _MAIN in data:
            data = carried.dumps((args, kwargs))
    except Exception:
        return _pack_large(args, kwargs, carried)
    return data if len(data) <= BULK_THRESHOLD else _pack_large(args, kwargs, carried)


def pack_calls(
    calls: list[tuple[Any, ...]], carried: Carried = NOTHING_CARRIED, *, to_the_end: bool = False
) -> bytes | Parts:
    """Pickle the arguments of several calls that make one job; its result is for `unpack_calls`.

    Args:
        calls: a tuple of arguments each.
        carried: what need not be told to the nodes again.
        to_the_end: calls after one that raised are made, too.

    Raises:
        PickleArgumentError: names the argument that can't be pickled.
    """
    # In the place of keywords, of which False is for `pack_code`: see `child.worker`.
    how: Literal[True] | None = True if to_the_end else None
    try:
        data = pickle.dumps((calls, how), 5)
        if _MAIN in data:
            data = carried.dumps((calls, how))
    except Exception:
        return _pack_large(tuple(calls), how, carried)
    return data if len(data) <= BULK_THRESHOLD else _pack_large(tuple(calls), how, carried)


def pack_setup_arguments(arguments: Sequence[Any], carried: Carried) -> bytes:
    """Pickle what setup and cleanup are called with.

    Raises:
        Exception: whatever pickling raises.
    """
    return carried.dumps(arguments) if arguments else b""


def _pack_large(
    args: tuple[Any, ...], kwargs: dict[str, Any] | Literal[True] | None, carried: Carried
) -> bytes | Parts:
    named = kwargs if isinstance(kwargs, dict) else {}
    shielded = (
        parts.shield(args),
        {k: parts.shield(v) for k, v in named.items()} if named else kwargs,
    )
    buffers: list[memoryview]
    try:
        data, buffers = parts.dump(shielded, pickle.dumps)
        if _MAIN in data:
            data, buffers = parts.dump(shielded, carried.dumps)
    except Exception:
        try:
            data, buffers = parts.dump(shielded, carried.dumps)
        except Exception as exc:
            raise _blame(args, named, exc) from exc
    size = len(data) + sum(len(buffer) for buffer in buffers)
    if not buffers and size <= BULK_THRESHOLD:
        return data
    return Parts([data, *buffers], size, copied=len(buffers) == _count_raw(args, named))


def _count_raw(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many buffers are plain bytes, which unpickling copies."""
    values = [*args, *kwargs.values()]
    return sum(type(v) in (bytes, bytearray) and len(v) >= parts.BIG for v in values)


def _blame(args: tuple[Any, ...], kwargs: dict[str, Any], exc: Exception) -> PickleArgumentError:
    named = [(f"argument {index}", value) for index, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            NOTHING_CARRIED.dumps(value)
        except Exception as reason:
            return PickleArgumentError(
                f"{name} of type {type(value).__qualname__} cannot be pickled:"
                f" {blame(value, reason)}"
            )
    return PickleArgumentError(f"the arguments cannot be pickled together: {exc}")


# --- results -----------------------------------------------------------------------------------
def unpack_result(reply: bytes | Sequence[memoryview]) -> Any:
    """The object a job returned.

    Raises:
        ResultUnpicklable: says what went wrong and how large the result was.
    """
    try:
        if isinstance(reply, bytes):
            return pickle.loads(reply)
        return parts.load(reply)
    except BaseException as exc:
        _raise_if_ours(exc)
        size = len(reply) if isinstance(reply, bytes) else sum(len(part) for part in reply)
        raise ResultUnpicklable(  # noqa: ASYNC104 - `_raise_if_ours`
            f"the result of {size} bytes cannot be unpickled here: {_describe(exc)}"
        ) from exc


@frozen
class Raised:
    """What a call raised, in the place of its result."""

    error: BaseException


def unpack_calls(
    reply: tuple[list[Any], bytes | dict[int, bytes] | None],
) -> tuple[list[Any], BaseException | None]:
    """The results of a job made by `pack_calls`, up to the first call that raised, and what.

    Of calls that were made to the end: all results, with a `Raised` in the place of each that has
    none.
    """
    values, failure = reply
    if isinstance(failure, dict):
        for index, account in failure.items():
            values[index] = Raised(unpack_exception(account)[0])
        return values, None
    return values, None if failure is None else unpack_exception(failure)[0]


def unpack_exception(reply: bytes | Sequence[memoryview]) -> tuple[BaseException, str]:
    """The exception a job raised, with the remote traceback as its cause, and that traceback.

    When the exception itself can't be rebuilt here, a `JobFailed` stands for it.
    """
    name, message, text, pickled = unpack_result(reply)
    rebuilt: BaseException | None = None
    if pickled is not None:
        try:
            loaded = pickle.loads(pickled)
            if isinstance(loaded, BaseException) and not isinstance(loaded, _ENDS_PROGRAMS):
                loaded.__cause__ = RemoteTraceback(text)
                rebuilt = loaded
        except BaseException as exc:  # noqa: ASYNC103 - `_raise_if_ours`
            _raise_if_ours(exc)
            message = f"{message} ({name} cannot be unpickled here: {_describe(exc)})"
    if rebuilt is None:
        rebuilt = JobFailed(f"{name}: {message}")
        rebuilt.__cause__ = RemoteTraceback(text)
    return rebuilt, text


class _PlainUnpickler(pickle.Unpickler):
    """Reads texts and numbers, and calls nothing that a pickle names."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an error")


def exception_line(reply: bytes | Sequence[memoryview]) -> str:
    """What a job raised, in a line; nothing of the user's is unpickled or called for it."""
    try:
        whole = reply if isinstance(reply, bytes) else b"".join(reply)
        name, message, *_ = _PlainUnpickler(io.BytesIO(whole)).load()
        text = f"{name!s:.{NOTE_LIMIT}}: {message!s:.{NOTE_LIMIT}}"
    except Exception as exc:
        # From a node, which may say anything.
        text = f"its error can't be read: {type(exc).__name__}"
    return " ".join(text.split())


_ENDS_PROGRAMS = (SystemExit, KeyboardInterrupt, GeneratorExit)


def _raise_if_ours(exc: BaseException) -> None:
    """Raise what unpickling raised when it is not about the pickle: Ctrl-C, Trio's cancellation.

    All else is, SystemExit too: what a pickle calls is not to end whoever reads it.
    """
    trio = sys.modules.get("trio")  # Not imported for this: programs without it start sooner.
    if isinstance(exc, KeyboardInterrupt) or (trio and isinstance(exc, trio.Cancelled)):
        raise exc


def _describe(exc: BaseException) -> str:
    """An exception in a line; what makes its text is the user's, and may raise, too."""
    name = type(exc).__name__
    try:
        return f"{name}: {exc}"
    except BaseException as second:  # noqa: ASYNC103 - `_raise_if_ours`
        _raise_if_ours(second)
        return name  # noqa: ASYNC104 - as above
