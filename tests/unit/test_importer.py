"""Modules that came with the computation."""

from __future__ import annotations

import gc
import importlib
import importlib.resources
import pkgutil
import subprocess
import sys
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispy_trio.child.importer import BundleImporter, Source, install, write_out

SOURCES: dict[str, Source] = {
    "carried": (
        "VALUE = 7\n\ndef fail():\n    raise ValueError('from here')\n",
        False,
        "/c/carried.py",
    ),
    "carriedpkg": ("from .inner import deep\n", True, "/c/carriedpkg/__init__.py"),
    "carriedpkg.inner": ("", True, "<namespace package>"),
    "carriedpkg.inner.deep": ("import carried\nVALUE = carried.VALUE + 1\n", False, "/c/d.py"),
    "carriedbad": ("def f(:\n", False, "/c/carriedbad.py"),
}


DATA = {"carriedpkg/table.csv": b"a,b\n", "carriedpkg/inner/deep.txt": b"deep"}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    before = set(sys.modules)
    finders = list(sys.meta_path)
    write_out(SOURCES, DATA, str(tmp_path))
    install(SOURCES, str(tmp_path))
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        if name.startswith("carried"):
            del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_imports_modules_and_packages() -> None:
    package = importlib.import_module("carriedpkg")
    assert package.deep.VALUE == 8


def test_packages_keep_their_path_resources_and_data(installed: Path) -> None:
    package = importlib.import_module("carriedpkg")
    assert package.__path__ == [str(installed / "carriedpkg")]
    assert package.__file__ is not None
    assert Path(package.__file__).with_name("table.csv").read_bytes() == b"a,b\n"
    assert importlib.resources.files("carriedpkg").joinpath("table.csv").read_text() == "a,b\n"
    assert pkgutil.get_data("carriedpkg", "inner/deep.txt") == b"deep"
    assert [module.name for module in pkgutil.iter_modules(package.__path__)] == ["inner"]
    inner = importlib.import_module("carriedpkg.inner")
    assert not hasattr(inner, "__file__")
    assert inner.__path__ == [str(installed / "carriedpkg" / "inner")]


@pytest.mark.usefixtures("installed")
def test_tracebacks_show_lines_of_files_that_are_not_here() -> None:
    carried = importlib.import_module("carried")
    with pytest.raises(ValueError, match="from here") as caught:
        carried.fail()
    text = "".join(traceback.format_exception(caught.value))
    assert 'File "/c/carried.py", line 4, in fail' in text
    assert "raise ValueError('from here')" in text


@pytest.mark.usefixtures("installed")
def test_a_module_that_is_no_python_says_where() -> None:
    with pytest.raises(SyntaxError) as caught:
        importlib.import_module("carriedbad")
    assert caught.value.filename == "/c/carriedbad.py"


def test_leaves_other_names_to_others() -> None:
    importer = BundleImporter(SOURCES, "/nowhere")
    assert importer.find_spec("json", None) is None
    with pytest.raises(ImportError, match="json did not come"):
        importer.get_source("json")


def test_written_out_they_serve_other_interpreters(tmp_path: Path) -> None:
    sources = {name: source for name, source in SOURCES.items() if name != "carriedbad"}
    write_out(sources, {}, str(tmp_path))
    code = "import carriedpkg; print(carriedpkg.deep.VALUE)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout == "8\n"


# --- modules that fail -------------------------------------------------------------------------
FAILS = """
import nowhere_to_be_found as missing
from nowhere_to_be_found import first, second as other
BASE = missing.base()
class Window(missing.Window):
    def inside(self): pass
def double(n: missing.Number) -> missing.Number:
    return 2 * n
def show(n):
    return missing.show(n)
try:
    before = 1
    behind = missing.x
except ImportError:
    behind = 2
"""
FAILING: dict[str, Source] = {
    "carriedfails": (FAILS, False, "/c/carriedfails.py"),
    "carriedasks": ("import carriedfails\ndouble = carriedfails.double\n", False, "/c/asks.py"),
    "carrieddoes": (
        "try:\n    import carriedfails\nexcept ImportError:\n    carriedfails = None\n",
        False,
        "/c/does.py",
    ),
}


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[BundleImporter]:
    finders = list(sys.meta_path)
    yield install(FAILING, str(tmp_path))
    sys.meta_path[:] = finders
    for name in FAILING:
        sys.modules.pop(name, None)


def test_what_runs_of_a_module_that_fails_is_had_once_it_is_tolerated(
    failing: BundleImporter,
) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("carriedasks")
    assert failing.tolerate(caught.value)
    assert not failing.tolerate(caught.value), "they are tolerated already"
    asks = importlib.import_module("carriedasks")
    assert asks.double(4) == 8
    fails = sys.modules["carriedfails"]
    assert fails.before == 1
    for name in ("missing", "first", "other", "BASE", "Window", "behind"):
        assert repr(getattr(fails, name)) == (f"<stands for `{name}` of the module 'carriedfails'>")
    with pytest.raises(
        NameError,
        match=r"`missing` of the module 'carriedfails': not here, for the import of 'carriedfails' on"
        r" this node failed \(ModuleNotFoundError: No module named 'nowhere_to_be_found'; send the"
        r" module 'nowhere_to_be_found' along with depends=, or install it on the node\)",
    ):
        fails.show(1)


def test_a_failure_that_was_caught_is_not_tolerated(failing: BundleImporter) -> None:
    assert importlib.import_module("carrieddoes").carriedfails is None
    assert not failing.tolerate(ValueError("another"))


def test_nothing_is_tolerated_once_the_computation_is_there(failing: BundleImporter) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("carriedfails")
    failing.tolerate(caught.value)
    failing.insist()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("carriedfails")


def test_a_job_that_does_without_a_module_leaves_nothing_behind(failing: BundleImporter) -> None:
    class Large:
        pass

    def job() -> weakref.ref[Large]:
        large = Large()
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("carriedfails")
        return weakref.ref(large)

    failing.insist()
    large = job()
    gc.collect()
    assert large() is None
