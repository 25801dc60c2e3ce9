"""What comes to a node when the warden of a template was killed.

Wardens and templates are the reapers of what is below them. Where the warden is gone there is nobody
between its template and the node, and what jobs have started comes there in the end. Others may come
too: in a container the node can be everybody's reaper, and who started it may have left it children.
So only who has our mark in its environment is ended, and who has no environment at all: a process on
its way to its end, or one that a job has started so.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import trio
from attrs import define, field

from dispy_trio.child.dying import adopt_orphans, children, kill_each
from dispy_trio.compute.starting import MARK

__all__ = ["Orphans"]


@define(eq=False)
class Orphans:
    """Ends those that a warden should have ended."""

    _wardens: list[subprocess.Popen[bytes]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        adopt_orphans()

    def spare(self, warden: subprocess.Popen[bytes]) -> None:
        """This one has our mark, and lives; to be said before the loop goes on."""
        self._wardens = [known for known in self._wardens if known.returncode is None]
        self._wardens.append(warden)

    async def end(self) -> None:
        """Kill and reap them."""
        beyond: set[int] = set()
        # Whoever is killed leaves us his own children.
        while found := [pid for pid in self._find() if pid not in beyond]:
            killed = kill_each(found)
            beyond.update(set(found) - set(killed))
            for pid in killed:
                # Those that have much memory take a moment to end.
                await trio.to_thread.run_sync(os.waitpid, pid, 0)

    def _find(self) -> list[int]:
        ours = {warden.pid for warden in self._wardens if warden.returncode is None}
        return [pid for pid in children() if pid not in ours and _has_our_mark(pid)]


def _has_our_mark(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:
        return True  # It has given back its memory, but not yet its children.
    except PermissionError:
        return False  # Another user's.
    return not environment or f"{MARK}={os.getpid()}".encode() in environment.split(b"\0")
