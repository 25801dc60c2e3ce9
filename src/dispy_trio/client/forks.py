"""What a forked process may do with the clusters it inherited: nothing.

Their threads are not there, and their sockets are its parent's. Standard library only, and no
question to the kernel for each job: a hook tells that this is another process.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from dispy_trio.errors import ClusterClosed

__all__ = [
    "NOWHERE",
    "Inheritable",
    "Origin",
    "current_process",
    "is_inherited",
    "made_elsewhere",
    "watch",
]


class Inheritable(Protocol):
    """What has to know that it is in a child."""

    def leave_to_parent(self) -> None:
        """This process is a fork of the one that made it. Must not wait, nor write to anybody."""


_process = os.getpid()
_watched: weakref.WeakSet[Inheritable] = weakref.WeakSet()


class Origin:
    """What made jobs: a cluster, as its jobs know it without keeping it alive."""

    __slots__ = ("process",)

    def __init__(self, process: int | None = None) -> None:
        self.process = _process if process is None else process


NOWHERE = Origin(0)
"""Of jobs that no cluster has made."""


def current_process() -> int:
    """Its id."""
    return _process


def is_inherited(process: int) -> bool:
    """Is this a fork of the process with that id?"""
    return process != _process


def watch(thing: Inheritable) -> None:
    """Have it told, while it is referred to, that it is in a child."""
    _watched.add(thing)


def made_elsewhere(what: str, process: int) -> ClusterClosed:
    """The error of whoever uses what was inherited."""
    return ClusterClosed(f"{what} was made in process {process}; make one after the fork")


def _enter_child() -> None:
    global _process
    _process = os.getpid()
    for thing in list(_watched):
        thing.leave_to_parent()
    _watched.clear()


os.register_at_fork(after_in_child=_enter_child)
