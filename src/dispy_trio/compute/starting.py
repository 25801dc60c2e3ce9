"""Starts the process of a template. Standard library only: an embedded node starts its first
template before it imports the rest of itself, and both start up side by side."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from dispy_trio.compute.descriptors import usual_limit

__all__ = ["MARK", "TemplateProcess", "start_template_process"]

MARK = "BELOW_DISPY_NODE"
"""Environment variable of all below a node: its process id."""

_START = """\
import sys
sys.path.append(sys.argv.pop())
from dispy_trio.child.warden import main
main()
"""


class TemplateProcess(NamedTuple):
    """A template process that may not have a bundle yet."""

    process: subprocess.Popen[bytes]
    """Its warden, which ends as it ends: see `child.warden`."""
    socket: socket.socket

    def discard(self) -> None:
        """End it unused."""
        self.socket.close()
        self.process.terminate()
        self.process.wait()


def _environment() -> dict[str, str]:
    """Ours, without what lets one speak for us."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("DISPY_TRIO_")}
    return {**ours, MARK: str(os.getpid())}


def start_template_process() -> TemplateProcess:
    """Start one.

    Raises:
        OSError: there are no descriptors, processes or memory for it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    # Not the directory we happen to be in: its files may be called like modules.
                    "-P",
                    # No buffers, in Python nor in C: what a job prints belongs to that job.
                    "-u",
                    "-c",
                    _START,
                    str(theirs.fileno()),
                    str(os.getpid()),
                    str(usual_limit()),
                    str(Path(__file__).resolve().parents[2]),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    return TemplateProcess(process, ours)
