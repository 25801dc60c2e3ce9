"""Computations and arguments as bytes, and results back from bytes."""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dispy_trio.child import parts
from dispy_trio.compute import packaging
from dispy_trio.compute.depends import by_value
from dispy_trio.compute.packaging import Parts
from dispy_trio.errors import (
    JobFailed,
    PickleArgumentError,
    RemoteTraceback,
    ResultUnpicklable,
)
from dispy_trio.messages import BULK_THRESHOLD


def double(x: int) -> int:
    return 2 * x


def unpack(packed: bytes | Parts) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(packed, bytes):
        loaded: tuple[tuple[Any, ...], dict[str, Any]] = pickle.loads(packed)
        return loaded
    blob = memoryview(bytearray(b"".join(packed.padded())))
    args, kwargs = parts.load(parts.split(blob, packed.sizes))
    return args, kwargs


# --- arguments ---------------------------------------------------------------------------------
def test_small_arguments_are_one_plain_pickle() -> None:
    packed = packaging.pack_arguments((1, "two"), {"three": [3.0]})
    assert isinstance(packed, bytes)
    assert pickle.loads(packed) == ((1, "two"), {"three": [3.0]})


@pytest.mark.parametrize("size", [parts.BIG, 5_000_000])
def test_large_arguments_are_parts(size: int) -> None:
    big = bytes(size)
    packed = packaging.pack_arguments((big, bytearray(big)), {"more": big})
    assert isinstance(packed, Parts)
    assert packed.sizes[1:] == [size] * 3
    assert packed.size == sum(packed.sizes)
    args, kwargs = unpack(packed)
    assert args == (big, bytearray(big))
    assert type(args[1]) is bytearray
    assert kwargs == {"more": big}


def test_what_is_large_without_buffers_is_parts_too() -> None:
    value = list(range(BULK_THRESHOLD))
    packed = packaging.pack_arguments((value,), {})
    assert isinstance(packed, Parts)
    assert len(packed.sizes) == 1
    assert unpack(packed) == ((value,), {})


@pytest.mark.parametrize("size", [3, parts.BIG])
def test_a_memoryview_is_packed_as_bytes(size: int) -> None:
    args, _ = unpack(packaging.pack_arguments((memoryview(bytes(size)),), {}))
    assert args == (bytes(size),)


def test_functions_that_plain_pickle_refuses_go_by_value() -> None:
    args, _ = unpack(packaging.pack_arguments((lambda x: x + 1,), {}))
    assert args[0](1) == 2


def test_names_the_argument_that_cannot_be_pickled() -> None:
    with pytest.raises(PickleArgumentError, match="argument 2 of type lock cannot be pickled"):
        packaging.pack_arguments((1, threading.Lock()), {})
    with pytest.raises(PickleArgumentError, match="argument 'guard' of type lock"):
        packaging.pack_arguments((1,), {"guard": threading.Lock()})


def test_an_argument_of_unbounded_depth_is_refused_at_once() -> None:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(PickleArgumentError, match="argument 1 of type list"):
        packaging.pack_arguments((deep,), {})
    while deep:  # Its own end would be as deep.
        deep = deep.pop()


# --- results -----------------------------------------------------------------------------------
def raised(exc: BaseException) -> bytes:
    return pickle.dumps((type(exc).__qualname__, str(exc), "Traceback: there", pickle.dumps(exc)))


def test_an_exception_comes_back_with_its_remote_traceback() -> None:
    original = KeyError("k")
    original.add_note("a hint")
    exc, text = packaging.unpack_exception(raised(original))
    assert type(exc) is KeyError
    assert exc.args == ("k",)
    assert exc.__notes__ == ["a hint"]
    assert text == "Traceback: there"
    assert isinstance(exc.__cause__, RemoteTraceback)
    assert "Traceback: there" in str(exc.__cause__)


class Demanding(Exception):
    """Can't be unpickled, as many."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


@pytest.mark.parametrize("in_parts", [False, True])
def test_an_exception_that_cannot_be_rebuilt_is_told(in_parts: bool) -> None:
    reply: Any = raised(Demanding(3, reason="no"))
    exc, text = packaging.unpack_exception([memoryview(reply)] if in_parts else reply)
    assert type(exc) is JobFailed
    assert str(exc).startswith("Demanding: 3: no")
    assert text == "Traceback: there"


def test_an_exception_without_its_pickle_is_told() -> None:
    exc, _ = packaging.unpack_exception(pickle.dumps(("Odd", "message", "text", None)))
    assert type(exc) is JobFailed
    assert str(exc) == "Odd: message"


@pytest.mark.parametrize(
    "reply",
    [b"", b"nonsense", pickle.dumps(double)[:-5], [memoryview(b"x")], b"cnot_a_module\nf\n."],
)
def test_a_result_that_cannot_be_unpickled_says_so(reply: Any) -> None:
    with pytest.raises(ResultUnpicklable, match="cannot be unpickled here") as caught:
        packaging.unpack_result(reply)
    assert caught.value.__cause__ is not None


# --- computations ------------------------------------------------------------------------------
def test_a_computation_has_a_name_and_a_digest() -> None:
    bundle = packaging.pack_computation(functools.partial(double, 4))
    assert bundle.name == "double"
    assert len(bundle.digest) == 64
    assert packaging.pack_computation(functools.partial(double, 4)) == bundle
    assert packaging.pack_computation(functools.partial(double, 5)).digest != bundle.digest


def test_refuses_what_is_no_computation() -> None:
    guard = threading.Lock()
    with pytest.raises(PickleArgumentError, match=r"'<lambda>' cannot be pickled.*lock"):
        packaging.pack_computation(lambda: guard)
    with pytest.raises(TypeError, match="not int"):
        packaging.pack_computation(3)  # type: ignore[arg-type]


def run_project(directory: Path, files: dict[str, str], *command: str) -> dict[str, Any]:
    """Pack `job` of a program in a process of its own; what the bundle holds."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textwrap.dedent(text).encode("latin-1"))
    source = Path(packaging.__file__).parents[2]
    tail = """
        import json, pickle, cloudpickle
        from dispy_trio.compute.packaging import pack_computation
        bundle = pickle.loads(pack_computation(job).data)
        sources, pickled = bundle["sources"], bundle["pickled"]
        function = pickle.loads(pickled)["function"]
        print(json.dumps({"names": sorted(sources), "sources": sources,
                          "function": cloudpickle.dumps(function).hex()}))
    """
    main = directory / "main.py"
    main.write_text(main.read_text() + textwrap.dedent(tail))
    out = subprocess.run(
        [sys.executable, *(command or ("main.py",))],
        cwd=directory,
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(out.stdout)
    return result


def test_the_users_own_modules_travel(tmp_path: Path) -> None:
    packed = run_project(
        tmp_path,
        {
            "main.py": """
                import json, cloudpickle
                import helper, package.used, space.inner
                def job(x):
                    import later
                    return helper.f(x)
            """,
            "helper.py": "def f(x):\n    import deeper\n    return x\n",
            "deeper.py": "from rel import one\n",
            "rel/__init__.py": "",
            "rel/one.py": "from . import two\n",
            "rel/two.py": "from ..beyond import nothing\n",
            "later.py": "import space.lazy\n",
            "package/__init__.py": "",
            "package/used.py": "",
            "package/unused.py": "",
            "package/sub/__init__.py": "",
            "package/sub/broken.py": "# \xe9 in no encoding it names\n",
            "space/inner.py": "",
            "space/lazy.py": "",
            "stranger.py": "",
            "site-packages/installed.py": "",
        },
    )
    assert packed["names"] == [
        "deeper",
        "helper",
        "later",
        "package",
        "package.sub",
        "package.unused",
        "package.used",
        "rel",
        "rel.one",
        "rel.two",
        "space",
        "space.inner",
        "space.lazy",
    ]
    assert packed["sources"]["helper"] == [
        "def f(x):\n    import deeper\n    return x\n",
        False,
        str(tmp_path / "helper.py"),
    ]
    assert packed["sources"]["space"][:2] == ["", True]


def test_modules_travel_that_functions_without_a_file_import(tmp_path: Path) -> None:
    packed = run_project(
        tmp_path,
        {
            "main.py": """
                class Typed:
                    def method(self):
                        import besides
                def job(x):
                    def within():
                        from package import inner
                    import later
            """,
            "besides.py": "",
            "later.py": "import last",
            "last.py": "",
            "package/__init__.py": "",
            "package/inner.py": "",
            "stranger.py": "",
        },
        "-c",
        "exec(open('main.py').read())",
    )
    assert packed["names"] == ["besides", "last", "later", "package", "package.inner"]


def test_threads_that_pack_at_once_leave_each_other_what_they_have_registered() -> None:
    begun, entered, left = (threading.Event() for _ in range(3))
    seen: list[bool] = []

    def pack_too() -> None:
        begun.set()
        with by_value([pytest.fixture], (), ()):
            entered.set()
            left.wait(10)
            seen.append(pytest.fixture.__module__ in cloudpickle.list_registry_pickle_by_value())

    other = threading.Thread(target=pack_too)
    with by_value([pytest.fixture], (), ()):
        other.start()
        begun.wait(10)
        entered.wait(0.2)  # Were it let in, it would be so by then.
    left.set()
    other.join(10)
    assert seen == [True]
    assert pytest.fixture.__module__ not in cloudpickle.list_registry_pickle_by_value()


def test_a_source_is_read_in_its_own_encoding(tmp_path: Path) -> None:
    packed = run_project(
        tmp_path,
        {
            "main.py": "import old\njob = old.f\n",
            "old.py": "# -*- coding: latin-1 -*-\ndef f(): return 'caf\xe9'\n",
        },
    )
    assert "caf\xe9" in packed["sources"]["old"][0]


def test_functions_of_the_program_itself_go_by_value(tmp_path: Path) -> None:
    packed = run_project(tmp_path, {"main.py": "OFFSET = 5\ndef job(x): return x + OFFSET\n"})
    assert packed["names"] == []
    assert cloudpickle.loads(bytes.fromhex(packed["function"]))(1) == 6


def test_an_installed_program_runs_the_code_of_the_current_directory(tmp_path: Path) -> None:
    packed = run_project(
        tmp_path,
        {"main.py": "import helper\njob = helper.f\n", "helper.py": "def f(): pass\n"},
        "-m",
        "cProfile",
        "-o",
        "profile",
        "main.py",
    )
    assert packed["names"] == ["helper"]
