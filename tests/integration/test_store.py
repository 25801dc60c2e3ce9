"""Directories of nodes on a real disk: marked, locked, swept, and removed whatever is in them."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from dispy_trio.errors import LocalError
from dispy_trio.runtime import marks, store
from dispy_trio.runtime.marks import MARK, is_used, make_marked
from dispy_trio.runtime.removal import Removal
from dispy_trio.runtime.store import DiskStore, prepare_root, remove_what_is_left


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return prepare_root(tmp_path / "root")


def fill(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def remove(path: Path | str) -> None:
    os.unlink(path) if not os.path.isdir(path) else Removal(str(path)).work(float("inf"))


# --- removal ---------------------------------------------------------------------------------
def test_a_tree_goes_a_step_at_a_time(tmp_path: Path) -> None:
    for number in range(60):
        fill(tmp_path / "tree" / str(number % 7) / "sub" / str(number))
    (tmp_path / "tree" / "link").symlink_to(tmp_path)
    removal = Removal(str(tmp_path / "tree"))
    assert not removal.work(0)
    steps = 0
    while not removal.work(0.0005):
        steps += 1
    assert names(tmp_path) == []
    assert removal.failure is None


def test_a_tree_deeper_than_stack_and_descriptors_goes(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    folder = os.open(top, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=folder)
        deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    assert Removal(str(top)).work(float("inf"))
    assert names(tmp_path) == []


@contextmanager
def no_superuser(folder: Path) -> Iterator[None]:
    """Be somebody whom permissions concern, right in a folder: root may not let others pass."""
    if os.geteuid():
        yield
        return
    os.chown(folder, 65534, -1)
    os.seteuid(65534)
    try:
        # Who changes its user loses sight of its own descriptors in /proc.
        ctypes.CDLL(None).prctl(4, 1)
        yield
    finally:
        os.seteuid(0)


def test_what_a_job_has_forbidden_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with no_superuser(tmp_path):
        tree = Path("tree")
        fill(tree / "closed" / "deep" / "file")
        fill(tree / "read-only" / "deep" / "file")
        (tree / "closed" / "deep").chmod(0)
        (tree / "closed").chmod(0)
        (tree / "read-only" / "deep").chmod(0o500)
        (tree / "read-only").chmod(0o500)
        tree.chmod(0)
        with pytest.raises(PermissionError):
            os.listdir(tree)
        assert Removal("tree").work(float("inf"))
    assert names(tmp_path) == []


def test_nothing_that_a_link_leads_to_is_touched(tmp_path: Path) -> None:
    kept = fill(tmp_path / "elsewhere" / "kept")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "one").symlink_to(kept.parent)
    (tmp_path / "tree" / "sub" / "two").symlink_to(kept.parent)
    (tmp_path / "link").symlink_to(kept.parent)
    assert Removal(str(tmp_path / "tree")).work(float("inf"))
    linked = Removal(str(tmp_path / "link"))
    assert linked.work(float("inf"))
    assert linked.failure is not None
    assert kept.exists()


def test_a_process_that_still_writes_can_t_keep_a_tree_for_ever(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            try:
                fd = os.open(tree / os.urandom(4).hex(), os.O_CREAT)
            except FileNotFoundError:
                return
            os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        removal = Removal(str(tree))
        until = time.monotonic() + 10
        while not removal.work(0.05):
            assert time.monotonic() < until
    finally:
        ended.set()
        writer.join()


def test_what_can_t_be_removed_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        fill(tmp_path / "tree" / str(number))

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    removal = Removal(str(tmp_path / "tree"))
    assert removal.work(float("inf"))
    assert isinstance(removal.failure, PermissionError)


# --- marks -----------------------------------------------------------------------------------
def test_a_sweep_takes_only_what_dead_nodes_left(root: Path) -> None:
    living = make_marked(root)
    dead = make_marked(root)
    assert living is not None
    assert dead is not None
    os.close(dead[1])
    fill(root / "node-1-x" / "thesis.tex")
    assert remove_what_is_left(root) == [dead[0]]
    assert names(root) == sorted([living[0].name, "node-1-x"])
    assert is_used(*living)
    os.close(living[1])


def test_a_sweep_never_takes_a_new_directory(root: Path) -> None:
    """Nodes that start, and sweep, all at once."""
    lost: list[Path] = []

    def make_and_leave() -> None:
        for _ in range(150):
            own = make_marked(root)
            assert own is not None
            (own[0] / "computation").mkdir()
            if not is_used(*own) or not (own[0] / "computation").is_dir():
                lost.append(own[0])
            os.close(own[1])

    makers = [threading.Thread(target=make_and_leave) for _ in range(2)]

    def sweep() -> None:
        while any(maker.is_alive() for maker in makers):
            remove_what_is_left(root, lasting=True)

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in (*makers, *sweepers):
        thread.start()
    for thread in (*makers, *sweepers):
        thread.join()
    remove_what_is_left(root)
    assert lost == []
    assert names(root) == []


@pytest.mark.parametrize("swept", ["before the mark", "before the lock", "locked by the sweep"])
def test_a_directory_that_is_swept_while_it_is_made_is_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, swept: str
) -> None:
    times: list[str] = []
    held: list[int] = []
    mkdtemp, lock = marks.tempfile.mkdtemp, marks._lock

    def make(**options: object) -> str:
        made = mkdtemp(**options)  # type: ignore[call-overload]
        if swept == "before the mark" and not times:
            times.append(made)
            assert remove_what_is_left(root) == []
        return str(made)

    def lock_late(descriptor: int) -> bool:
        if swept != "before the mark" and not times:
            times.append("")
            draft = next(root.iterdir())
            if swept == "before the lock":
                monkeypatch.setattr(marks, "_lock", lock)
                assert remove_what_is_left(root) == [draft]
            else:
                held.append(os.open(draft / MARK, os.O_RDWR))
                assert lock(held[0])
        return lock(descriptor)

    monkeypatch.setattr(marks.tempfile, "mkdtemp", make)
    monkeypatch.setattr(marks, "_lock", lock_late)
    own = make_marked(root)
    assert times
    assert own is not None
    for descriptor in held:
        os.close(descriptor)
    remove_what_is_left(root)
    assert names(root) == [own[0].name]
    os.close(own[1])


async def test_a_node_whose_directory_is_gone_makes_it_again(root: Path) -> None:
    """Some clean folders for temporary files."""
    disk = DiskStore(root)
    first = Path(await disk.make_directory("computation"))
    remove(root)
    second = Path(await disk.make_directory("computation"))
    assert second.parent != first.parent
    assert names(second.parent) == [MARK, second.name]
    remove(second.parent / MARK)
    third = Path(await disk.make_directory("computation"))
    assert third.parent != second.parent
    await disk.aclose()
    assert third.parent.name not in names(root)


async def test_a_node_that_starts_removes_what_dead_ones_left(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = make_marked(root)
    assert dead is not None
    fill(dead[0] / "computation" / "file")
    os.close(dead[1])
    fill(root / "own", "")
    removed = trio.Event()
    complain = store._complain

    def tell(removal: Removal) -> None:
        complain(removal)
        removed.set()

    monkeypatch.setattr(store, "SWEEP_AFTER", 0)
    monkeypatch.setattr(store, "_complain", tell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(DiskStore(root).run)
        with trio.fail_after(10):
            await removed.wait()
        nursery.cancel_scope.cancel()
    assert names(root) == ["own"]


async def test_what_a_node_has_made_goes_with_it(root: Path) -> None:
    disk = DiskStore(root)
    directory = await disk.make_directory("computation")
    fill(Path(directory, "deep", "file"))
    lasting = await disk.lasting_directory("here")
    fill(Path(lasting, "file"))
    await disk.aclose()
    assert names(root) == ["clients"]
    assert names(root / "clients") == [MARK, "here"]
    assert remove_what_is_left(root, lasting=True) == [root / "clients"]


async def test_directories_of_clients_that_a_node_uses_are_not_cleaned(root: Path) -> None:
    one, other = DiskStore(root), DiskStore(root)
    await one.lasting_directory("here")
    await other.lasting_directory("there")
    await one.aclose()
    assert remove_what_is_left(root, lasting=True) == []
    await other.aclose()
    assert remove_what_is_left(root, lasting=True) == [root / "clients"]


async def test_somebody_s_own_folder_is_not_taken_for_that_of_clients(root: Path) -> None:
    fill(root / "clients" / "smith" / "contract.pdf", "signed")
    disk = DiskStore(root)
    with pytest.raises(LocalError, match=r"was not made by a node.*--dest-path-prefix"):
        await disk.lasting_directory("smith")
    await disk.aclose()
    remove_what_is_left(root, lasting=True)
    assert names(root / "clients" / "smith") == ["contract.pdf"]


# --- the folder ------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("mode", "inside"), [(0o700, ""), (0o755, ""), (0o775, "own"), (0o1777, "own")]
)
async def test_the_mode_of_a_folder_that_was_there_is_left(
    folder: Path, mode: int, inside: str
) -> None:
    os.chmod(folder, mode)
    disk = DiskStore(folder)
    directory = await disk.make_directory("computation")
    assert stat.S_IMODE(os.lstat(folder).st_mode) == mode
    own = folder / f"dispy-trio-{os.geteuid()}" if inside else folder
    assert os.path.dirname(os.path.dirname(directory)) == str(own)
    assert stat.S_IMODE(os.lstat(os.path.dirname(directory)).st_mode) == 0o700
    await disk.aclose()


def test_a_folder_in_which_all_may_replace_what_is_ours_is_refused(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(LocalError, match=r"every user replace .*chmod \+t"):
        prepare_root(folder)


def test_our_own_folder_in_one_of_all_has_to_be_ours(folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o1777)
    (folder / f"dispy-trio-{os.geteuid()}").symlink_to(tmp_path)
    with pytest.raises(LocalError, match="is not for you alone"):
        prepare_root(folder)
