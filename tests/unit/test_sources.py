"""The user's own modules: where their files lie, what lies beside them, and were they edited."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dispy_trio.compute import luggage, trees
from dispy_trio.compute.depends import sort_depends
from dispy_trio.compute.edits import is_edited
from dispy_trio.logs import logger, messages_from
from dispy_trio.models import JobFile

NAMES = ["one.py", "pkg/.hidden", "pkg/__init__.py", "pkg/__pycache__/x.pyc", "pkg/data/t.csv"]


# --- directories and archives ------------------------------------------------------------------
@pytest.fixture(params=["directory", "archive"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "directory":
        for name in NAMES:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        for name in NAMES:
            archive.writestr(name, name)
    return tmp_path / "app.pyz"


def test_a_directory_and_an_archive_are_read_alike(root: Path) -> None:
    assert trees.is_file(root / "one.py")
    assert not trees.is_file(root / "pkg")
    assert not trees.is_file(root / "pkg" / "two.py")
    assert trees.read(root / "pkg" / "data" / "t.csv") == b"pkg/data/t.csv"
    assert [str(path.relative_to(root)) for path in trees.files_below(root)] == [
        "one.py",
        "pkg/__init__.py",
        "pkg/data/t.csv",
    ]
    assert len(list(trees.files_below(root / "pkg"))) == 2


def test_what_is_no_file_that_can_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("t")
    (tmp_path / "link").symlink_to("table")
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    assert [path.name for path in trees.files_below(tmp_path)] == ["link", "table"]


def test_archives_cost_nothing_where_there_are_none() -> None:
    code = "import dispy_trio, sys; dispy_trio.JobCluster; print('zipfile' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


# --- data of packages --------------------------------------------------------------------------
def test_small_data_goes_with_the_bundle_and_large_files_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"s")
    (tmp_path / "large").write_bytes(bytes(luggage.SMALL + 1))
    contents, files = luggage.pack_data({"p/s": tmp_path / "small", "p/l": tmp_path / "large"})
    assert contents == {"p/s": b"s"}
    assert files == (JobFile(str(tmp_path / "large"), ".modules/p/l"),)


def test_data_without_measure_stays_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.truncate(luggage.LIMIT + 1)
    (tmp_path / "small").write_bytes(b"s")
    with caplog.at_level(logging.WARNING, "dispy_trio"):
        contents, files = luggage.pack_data({"p/h": huge, "p/s": tmp_path / "small"})
    assert (contents, files) == ({"p/s": b"s"}, ())
    told = (
        "1 files of packages do not go to nodes, for all of them are more than 256 MB,"
        f" {huge} among them: what jobs need of them, give in depends="
    )
    assert caplog.messages == [told]


def test_it_is_told_from_the_level_of_the_cluster_that_it_is_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.truncate(luggage.LIMIT + 1)
    before = logger._level
    logger.setLevel(logging.CRITICAL)  # As another cluster's.
    try:
        luggage.pack_data({"told": huge})
        with messages_from(logging.CRITICAL):
            luggage.pack_data({"untold": huge})
    finally:
        logger._level = before
    assert len(caplog.messages) == 1


def test_a_package_that_one_job_depends_on_brings_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dependedon").mkdir()
    (tmp_path / "dependedon" / "__init__.py").write_text("")
    (tmp_path / "dependedon" / "table.csv").write_text("a")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("dependedon")
    monkeypatch.delitem(sys.modules, "dependedon")
    table = str(tmp_path / "dependedon" / "table.csv")
    depends = sort_depends([module])
    assert JobFile(table, "dependedon/table.csv") in depends.all_files
    assert list(depends.data) == ["dependedon/table.csv"]


# --- edits -------------------------------------------------------------------------------------
FIRST = """
VALUE = 1
FEW = {"a", "b"} and 1
class C:
    @property
    def p(self): return "x" in {"a", "b", "c"}
def warm(n):
    total = 0
    for i in range(n): total += i
    return total
"""


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, Path]]:
    path = tmp_path / "editedmodule.py"
    path.write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    module = importlib.import_module("editedmodule")
    module.warm(10_000)
    yield module, path
    del sys.modules["editedmodule"]


def look(module: ModuleType, path: Path, text: str) -> bool:
    """As if it had been written a while after the import."""
    path.write_text(text)
    later = time.time() + 60
    os.utime(path, (later, later))
    return is_edited(module, path, text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("VALUE = 1", "VALUE = 2"),
        ("total = 0", "total = 1"),
        ('"x" in', '"y" in'),
        ("class C:", "class D:"),
        ("VALUE = 1", "VALUE = ("),
    ],
)
def test_an_edit_since_the_import_is_seen(
    edited: tuple[ModuleType, Path], old: str, new: str
) -> None:
    assert old in FIRST
    assert look(*edited, FIRST.replace(old, new))


def test_an_edit_is_seen_where_nothing_compiled_is_kept(edited: tuple[ModuleType, Path]) -> None:
    assert edited[0].__spec__ is not None
    assert edited[0].__spec__.cached is not None
    os.unlink(edited[0].__spec__.cached)
    assert look(*edited, FIRST.replace("total = 0", "total = 1"))


@pytest.mark.parametrize("text", [FIRST, FIRST + "# a remark\n"])
def test_what_changes_nothing_is_no_edit(edited: tuple[ModuleType, Path], text: str) -> None:
    assert not look(*edited, text)


def test_a_module_as_it_was_imported_is_not_edited(edited: tuple[ModuleType, Path]) -> None:
    assert not is_edited(*edited, FIRST)


def test_a_module_whose_code_its_loader_has_changed_is_not_edited(tmp_path: Path) -> None:
    class Rewriting(SourceFileLoader):
        """As pytest's, which rewrites assert statements."""

        def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
            return compile(FIRST.replace("total = 0", "total = 1"), path, "exec")

    path = tmp_path / "rewritten.py"
    path.write_text(FIRST)
    loader = Rewriting("rewritten", str(path))
    spec = importlib.util.spec_from_loader("rewritten", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert not is_edited(module, path, FIRST)
