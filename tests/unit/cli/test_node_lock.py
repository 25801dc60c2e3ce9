"""Locks of nodes, and what is removed of dead ones."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispy_trio.cli import node_lock
from dispy_trio.cli.node_lock import claim_port, clean_prefix
from dispy_trio.errors import LocalError, PortInUse
from dispy_trio.runtime.marks import MARK


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    prefix = tmp_path / "prefix"
    claim(prefix, 0)
    assert prefix.stat().st_mode & 0o777 == 0o700
    return prefix


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a file, as a living node does."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(prefix: Path, port: int, *, end_other: bool = False) -> None:
    """Have the port for a moment."""
    with claim_port(prefix, "h", port, end_other=end_other):
        pass


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def fill(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_one_port_has_one_node(prefix: Path) -> None:
    with claim_port(prefix, "h", 9701) as lock:
        assert lock == prefix / "node-h-9701.lock"
        assert lock.read_text() == f"{os.getpid()} dispy-trio node\n"
        with pytest.raises(PortInUse, match=rf"port 9701 .* process {os.getpid()}; --clean"):
            claim(prefix, 9701)
        with claim_port(prefix, "h", 9702), claim_port(prefix, "h", 0), claim_port(prefix, "h", 0):
            pass
    assert names(prefix) == set()
    claim(prefix, 9701)


def test_a_lock_left_by_a_dead_node_is_not_in_the_way(prefix: Path) -> None:
    stale = prefix / "node-h-9701.lock"
    stale.write_text("1 dispy-trio node\n")
    (prefix / "node-h-9702.lock").write_text("1 dispy-trio node\n")
    with claim_port(prefix, "h", 9701):
        assert stale.read_text() == f"{os.getpid()} dispy-trio node\n"
        assert names(prefix) == {stale.name}


def test_somebodys_own_file_is_not_taken_for_a_lock(prefix: Path) -> None:
    (prefix / "node-h-9701.lock").write_text("my notes")
    with pytest.raises(LocalError, match=r"node-h-9701\.lock is no node's lock"):
        claim(prefix, 9701)
    clean_prefix(prefix)
    assert (prefix / "node-h-9701.lock").read_text() == "my notes"


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prefix / "node-h-9701.lock"
    flock = fcntl.flock
    removed = []

    def flock_after_the_owner_left(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(path.unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_the_owner_left)
    with claim_port(prefix, "h", 9701):
        monkeypatch.undo()
        with pytest.raises(PortInUse):
            claim(prefix, 9701)


@pytest.mark.parametrize("content", ["", "not a number", "our own"], ids=repr)
def test_what_holds_a_lock_but_is_no_node_is_left_alone(prefix: Path, content: str) -> None:
    lock = prefix / "node-h-9701.lock"
    with held(lock):
        lock.write_text(f"{os.getpid()}\n" if content == "our own" else content)
        with pytest.raises(LocalError, match="is no node"):
            claim(prefix, 9701, end_other=True)


STUBBORN = """
import fcntl, os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[3], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print(os.getpid(), "dispy-trio node", file=file, flush=True)
    print(flush=True)
    signal.pause()
"""


def test_a_node_that_does_not_end_is_killed(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_lock, "END_GRACE", 0.1)
    command = [sys.executable, "-c", STUBBORN, "dispy-trio", "node", prefix / "node-h-9701.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        node.stdout.readline()  # It has the lock.
        claim(prefix, 9701, end_other=True)
        assert node.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("command", "is_node"),
    [
        ("/usr/bin/python3 -m dispy_trio node --port 0", True),
        ("/usr/bin/python3 /venv/bin/dispy-trio -v node", True),
        ("python src/dispy_trio/__main__.py node", True),
        ("python -m dispy_trio run node.py", False),
        ("vim node dispy-trio", False),
        ("python -m pytest", False),
        ("", False),
    ],
)
def test_nodes_are_known_by_their_command_line(command: str, is_node: bool) -> None:
    assert node_lock._is_node(command.split()) == is_node


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(LocalError, match="belongs to another user"):
        claim(tmp_path / "link", 0)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(LocalError, match=r"belongs to another user|is not for you alone"):
        claim(tmp_path, 0)


def test_a_lock_is_never_taken_through_a_link(prefix: Path) -> None:
    (prefix / "node-h-9701.lock").symlink_to(prefix.parent / "elsewhere")
    with pytest.raises(LocalError, match=r"can't lock .*node-h-9701\.lock"):
        claim(prefix, 9701)
    assert not (prefix.parent / "elsewhere").exists()


def test_a_folder_that_can_t_be_made_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "file")
    with pytest.raises(LocalError, match=r"--dest-path-prefix .*file/prefix: "):
        claim(tmp_path / "file" / "prefix", 0)


def test_what_dead_nodes_and_clients_left_is_removed(prefix: Path) -> None:
    fill(prefix / "node-1-abc" / MARK)
    fill(prefix / "node-1-abc" / "computation-1" / "deep" / "file")
    fill(prefix / ".dispy-trio-1-abc" / MARK)
    (prefix / ".dispy-trio-1-def").mkdir()
    (prefix / "node-h-9702.lock").write_text("1 dispy-trio node\n")
    fill(prefix / "clients" / MARK)
    fill(prefix / "clients" / "127.0.0.1" / "file")
    with claim_port(prefix, "h", 9701) as lock:
        clean_prefix(prefix, lock)
        assert names(prefix) == {"node-h-9701.lock"}


def test_what_no_node_has_marked_is_left_alone(prefix: Path) -> None:
    own = [
        "node-1-abc/file",
        "node-modules-of-mine/file",
        ".dispy-trio-1-abc/file",
        "clients/smith/contract.pdf",
        "node-x.lock",
        "thesis.tex",
    ]
    for name in own:
        fill(prefix / name)
    (prefix / "elsewhere").mkdir()
    fill(prefix / "elsewhere" / MARK)
    (prefix / "node-2-link").symlink_to(prefix / "elsewhere")
    before = sorted(prefix.rglob("*"))
    with claim_port(prefix, "h", 9701) as lock:
        clean_prefix(prefix, lock)
    assert sorted(prefix.rglob("*")) == before


@pytest.mark.parametrize("lock", [f"node-2-abc/{MARK}", "node-h-9702.lock", f"clients/{MARK}"])
def test_while_another_node_lives_files_of_clients_are_left(
    prefix: Path, caplog: pytest.LogCaptureFixture, lock: str
) -> None:
    fill(prefix / "node-1-abc" / MARK)
    fill(prefix / "clients" / MARK)
    fill(prefix / "clients" / "127.0.0.1" / "file")
    with held(fill(prefix / lock)):
        (prefix / lock).write_text("1 dispy-trio node\n")
        clean_prefix(prefix)
    living = Path(lock).parts[0]
    assert names(prefix) == {living, "clients"}
    assert (prefix / lock).exists()
    if living != "clients":
        assert f"{living} is in use" in caplog.text
