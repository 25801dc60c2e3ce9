"""Modules that came with the computation."""

from __future__ import annotations

import importlib
import subprocess
import sys
import traceback
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


@pytest.fixture
def installed() -> Iterator[None]:
    before = set(sys.modules)
    finders = list(sys.meta_path)
    install(SOURCES)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        if name.startswith("carried"):
            del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_imports_modules_and_packages() -> None:
    package = importlib.import_module("carriedpkg")
    assert package.deep.VALUE == 8
    assert package.__path__ == []
    assert sys.modules["carried"].__file__ == "/c/carried.py"


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
    importer = BundleImporter(SOURCES)
    assert importer.find_spec("json", None) is None
    with pytest.raises(ImportError, match="json did not come"):
        importer.get_source("json")


def test_written_out_they_serve_other_interpreters(tmp_path: Path) -> None:
    sources = {name: source for name, source in SOURCES.items() if name != "carriedbad"}
    write_out(sources, str(tmp_path))
    code = "import carriedpkg; print(carriedpkg.deep.VALUE)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout == "8\n"
