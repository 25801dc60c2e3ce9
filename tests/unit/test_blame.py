"""What can't be pickled is named, early, in the words of whoever wrote it."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy_trio
from dispy_trio.client.settings import pack_work
from dispy_trio.compute.packaging import pack_arguments, pack_computation
from dispy_trio.errors import PickleArgumentError

LOCK = threading.Lock()
WHY = ": cannot pickle '_thread.lock' object"


class Holder:
    def __init__(self) -> None:
        self.inner = {"lock": LOCK}

    def __call__(self, number: int) -> int:
        return number

    def method(self, number: int) -> int:
        return number


def closure() -> Callable[[], object]:
    lock = LOCK
    return lambda: lock


def with_default(number: int, lock: object = None) -> int:
    return number


with_default.__defaults__ = (LOCK,)

COMPUTATIONS: list[tuple[Any, str]] = [
    (closure(), "the computation '<lambda>' cannot be pickled: variable `lock`, a lock"),
    (Holder(), "'Holder' cannot be pickled: item 'lock', a lock, in attribute `inner`"),
    (
        Holder().method,
        "'method' cannot be pickled: item 'lock', a lock, in attribute `inner`, in its object",
    ),
    (functools.partial(print, LOCK), "'print' cannot be pickled: argument 1, a lock"),
    (functools.partial(print, end=LOCK), "'print' cannot be pickled: argument 'end', a lock"),
    (
        functools.partial(closure()),
        "'<lambda>' cannot be pickled: variable `lock`, a lock, in its function",
    ),
]


@pytest.mark.parametrize(("computation", "text"), COMPUTATIONS)
def test_what_of_a_computation_cannot_be_pickled_is_named(computation: Any, text: str) -> None:
    with pytest.raises(PickleArgumentError) as caught:
        pack_computation(computation)
    assert str(caught.value).endswith(text + WHY)


ARGUMENTS: list[tuple[Any, str]] = [
    (LOCK, "argument 1 of type lock cannot be pickled"),
    ([1, {2: (3, LOCK)}], "type list cannot be pickled: item 1, a lock, in item 2, in item 1"),
    (Holder(), "type Holder cannot be pickled: item 'lock', a lock, in attribute `inner`"),
    (closure(), "type function cannot be pickled: variable `lock`, a lock"),
]


@pytest.mark.parametrize(("argument", "text"), ARGUMENTS)
def test_what_of_an_argument_cannot_be_pickled_is_named(argument: Any, text: str) -> None:
    with pytest.raises(PickleArgumentError) as caught:
        pack_arguments((argument,), None)
    assert str(caught.value).endswith(text + WHY)


@pytest.mark.parametrize("mode", ["r", "w", "rb", "wb", "r+b"])
@pytest.mark.parametrize("wrap", [lambda file: file, lambda file: {"data": [file]}])
def test_an_open_file_is_refused_as_an_argument(
    mode: str, wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    path = tmp_path / "data.txt"
    path.touch()
    with path.open(mode) as file, pytest.raises(PickleArgumentError) as caught:
        pack_arguments((wrap(file),), None)
    assert str(caught.value).endswith(
        f"the open file {str(path)!r} stays here: give the job its path, and the file itself by"
        " depends= or dispy_job_depends="
    )


def test_what_is_no_file_of_the_system_travels() -> None:
    assert pack_arguments((io.StringIO("text"), io.BytesIO(b"bytes")), None)


# --- what would not do what it seems to ------------------------------------------------------------
def generate(number: int) -> Iterator[int]:
    yield number


async def wait(number: int) -> int:  # noqa: ASYNC124 - never run
    return number


async def stream(number: int) -> AsyncIterator[int]:  # noqa: ASYNC124 - never run
    yield number


class Generating:
    def __call__(self, number: int) -> Iterator[int]:
        yield number

    def method(self, number: int) -> Iterator[int]:
        yield number


class Waiting:
    async def __call__(self, number: int) -> int:
        return number


GENERATOR = (
    " is a generator function: it would return a generator, which stays where it is; return list(…)"
    " of what it yields"
)
ASYNC = (
    " is an async function, and nothing awaits it; make it a function that calls trio.run(…) or"
    " asyncio.run(…)"
)
STREAM = (
    " is an async generator function: it would return a generator, which stays where it is; return a"
    " list of what it yields"
)


@pytest.mark.parametrize(
    ("computation", "text"),
    [
        (generate, f"the computation 'generate'{GENERATOR}"),
        (functools.partial(generate, 1), f"the computation 'generate'{GENERATOR}"),
        (Generating(), f"the computation 'Generating'{GENERATOR}"),
        (Generating().method, f"the computation 'method'{GENERATOR}"),
        (stream, f"the computation 'stream'{STREAM}"),
    ],
)
def test_generator_functions_are_refused_as_computations(computation: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        pack_computation(computation)
    assert str(caught.value) == text


@pytest.mark.parametrize("parameter", ["setup", "cleanup"])
def test_and_as_setup_and_cleanup(parameter: str) -> None:
    for function, text in ((generate, GENERATOR), (wait, ASYNC)):
        with pytest.raises(TypeError) as caught:
            pack_work(abs, **{parameter: function})  # type: ignore[arg-type]
        assert str(caught.value) == f"{parameter}{text}"


@pytest.mark.parametrize(
    "computation",
    [int, Holder, len, "x".join, functools.partial(int, base=2), wait, Waiting()],
)
def test_what_runs_as_it_seems_is_taken(computation: Any) -> None:
    assert pack_computation(computation).data


# --- names -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("node", "has no parameter 'node'; did you mean 'nodes'?"),
        ("depend", "has no parameter 'depend'; did you mean 'depends'?"),
        ("self_", "has no parameter 'self_'"),
        ("zzz", "has no parameter 'zzz'"),
    ],
)
def test_a_parameter_that_is_not_there_suggests_the_one_that_is(given: str, text: str) -> None:
    for name in ("JobCluster", "open_cluster"):
        with pytest.raises(TypeError) as caught:
            getattr(dispy_trio, name)(abs, **{given: 1})
        assert str(caught.value) == f"{name} {text}"


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("SharedJobCluster", ["not in this release", "use JobCluster meanwhile"]),
        ("recover_jobs", ["not in this release", "dest_path= and cleanup=False"]),
    ],
)
def test_names_of_dispy_that_are_not_there_yet_say_so_and_what_serves_meanwhile(
    name: str, texts: list[str]
) -> None:
    with pytest.raises(NotImplementedError) as caught:
        getattr(dispy_trio, name)(abs, nodes=["*"])
    assert all(text in str(caught.value) for text in [name, *texts])
    assert name not in dispy_trio.__all__
