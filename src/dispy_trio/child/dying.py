"""Who ends with whom: asked of the kernel, so that it holds also when we are killed."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["adopt_orphans", "die_with_parent", "die_with_worker"]

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
