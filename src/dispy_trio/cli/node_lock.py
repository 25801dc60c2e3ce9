"""One node for an address in a folder, and the removal of what dead nodes left there.

A node locks a file of its own for as long as it lives. The kernel frees the lock with the process,
however that ends, so a file that is left behind is never in the way.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from dispy_trio.errors import LocalError, PortInUse
from dispy_trio.runtime.marks import living_directories
from dispy_trio.runtime.store import prepare_root, remove_what_is_left

__all__ = ["claim_given_port", "claim_port", "clean_prefix"]

log = logging.getLogger("dispy_trio.node")

END_GRACE = 10.0
"""Seconds that another node has to end by itself."""
KILL_GRACE = 10.0
"""Seconds for the kernel to take a killed process away."""
POLL_INTERVAL = 0.05


@contextmanager
def claim_port(
    prefix: Path, host: str, port: int, *, end_other: bool = False
) -> Iterator[Path | None]:
    """Be the only node for this address in the folder; yields the lock file, None for port 0.

    Args:
        prefix: where nodes keep the files of computations; made when missing.
        host: to listen on.
        port: to listen on; 0 needs no claim before the system has given one.
        end_other: end the node that has the port.

    Raises:
        PortInUse: a living node has it; names its process.
        LocalError: the folder belongs to somebody else, or what has the lock is no node.
    """
    root = prepare_root(prefix)
    path = root / f"node-{host}-{port}.lock" if port else None
    _remove_dead_locks(root, path)
    if path is None:
        yield None
        return
    descriptor = _lock(path)
    if descriptor is None:
        pid = _holder(path)
        if not end_other:
            raise PortInUse(f"port {port} has a node already, process {pid}; --clean ends it")
        descriptor = _take_over(path, pid)
    try:
        if os.fstat(descriptor).st_size and not _is_ours(path):
            raise LocalError(f"{path} is no node's lock; move it, or choose --dest-path-prefix")
    except BaseException:
        os.close(descriptor)
        raise
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}{_SIGNED}\n".encode())
        yield path
    finally:
        # While it is still locked: whoever waits for the lock then looks whether it is this file.
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def claim_given_port(prefix: Path, host: str, port: int) -> Iterator[None]:
    """Claim a port that the system has given to this node, so that ``--clean`` finds it.

    Args:
        prefix: as of `claim_port`.
        host: listened on.
        port: listened on.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(claim_port(prefix, host, port))
        except PortInUse as exc:
            # Its node has let go of the port, and is about to end.
            log.info("no lock for port %d: %s", port, exc)
        yield


def clean_prefix(prefix: Path, own_lock: Path | None = None) -> None:
    """Remove what dead nodes left; and what clients keep there, unless a node may be using it.

    Args:
        prefix: the folder.
        own_lock: the file that this process has locked.
    """
    root = prepare_root(prefix)
    remove_what_is_left(root)
    living = living_directories(root) + _remove_dead_locks(root, own_lock)
    if living:
        log.warning("%s: files of clients are left, as %s is in use", root, living[0].name)
    else:
        remove_what_is_left(root, lasting=True)


# --- locks -----------------------------------------------------------------------------------
_SIGNED = " dispy-trio node"
"""Stands behind the process id: whose file it is can be told from its content."""


def _remove_dead_locks(root: Path, own: Path | None) -> list[Path]:
    """Remove the lock files that dead nodes left; those of living ones."""
    living = []
    for path in sorted(root.glob("node-*.lock")):
        if path == own or path.is_symlink() or not _is_ours(path):
            continue
        descriptor = _lock(path)
        if descriptor is None:
            living.append(path)
        else:
            path.unlink()
            os.close(descriptor)
    return living


def _is_ours(path: Path) -> bool:
    """Has a node written this file?"""
    try:
        return path.is_file() and path.stat().st_size < 100 and _SIGNED in path.read_text()
    except (OSError, ValueError):
        return False


def _lock(path: Path) -> int | None:
    """Lock the file, made when missing; None when somebody else has it locked."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise LocalError(f"can't lock {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed it after we opened it: then ours guards nothing.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(path: Path) -> int:
    """The process that the lock file names; 0 when it names none."""
    try:
        return int(path.read_text().removesuffix(f"{_SIGNED}\n"))
    except (OSError, ValueError):
        return 0


def _take_over(path: Path, pid: int) -> int:
    """End the node that holds the lock, and take it."""
    try:
        process = psutil.Process(pid) if pid else None
        if process is None or not _is_node(process.cmdline()):
            raise LocalError(f"{path} is locked, but process {pid} is no node; it is left alone")
        log.warning("ending another node, process %d", pid)
        process.terminate()
        if (descriptor := _wait_for_lock(path, END_GRACE)) is None:
            process.kill()
            descriptor = _wait_for_lock(path, KILL_GRACE)
    except psutil.NoSuchProcess:
        descriptor = _wait_for_lock(path, KILL_GRACE)
    except psutil.AccessDenied as exc:
        raise LocalError(f"process {pid} has {path} locked and can't be ended by us") from exc
    if descriptor is None:
        raise LocalError(f"process {pid} keeps {path} locked")
    return descriptor


def _wait_for_lock(path: Path, seconds: float) -> int | None:
    """The lock is freed by the process's end also when nobody has reaped it yet."""
    until = time.monotonic() + seconds
    while (descriptor := _lock(path)) is None and time.monotonic() < until:
        time.sleep(POLL_INTERVAL)
    return descriptor


def _is_node(command: list[str]) -> bool:
    """Whether this is the command line of ``dispy-trio node``, however it was started."""
    for place, word in enumerate(command):
        if Path(word).name in ("dispy-trio", "dispy_trio") or word.endswith(
            "dispy_trio/__main__.py"
        ):
            return "node" in command[place + 1 :]
    return False
