"""Who ends with whom: asked of the kernel, so that it holds also when we are killed."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = [
    "adopt_orphans",
    "children",
    "die_with_parent",
    "die_with_worker",
    "kill_below",
    "kill_each",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Looked up once: forked processes need it at once.
_prctl = ctypes.CDLL(None).prctl


def die_with_parent(parent: int) -> None:
    """Have the kernel kill us when our parent, of that process id, dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with_worker() -> None:
    """The same, for a process that is about to become another program."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of all below us whose own parents die."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Process ids of those whose parent is this process, which has one thread."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


def kill_below() -> None:
    """Kill and reap all below this process, which has to be the reaper of their orphans."""
    beyond: set[int] = set()
    # Whoever is killed leaves us its own children.
    while found := [pid for pid in children() if pid not in beyond]:
        killed = kill_each(found)
        beyond.update(set(found) - set(killed))
        for pid in killed:
            os.waitpid(pid, 0)


def kill_each(pids: list[int]) -> list[int]:
    """Kill children of this process; those that it may kill."""
    killed = []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            continue  # A program that runs as another user.
        killed.append(pid)
    return killed
