"""Starts the process of a template. Standard library only: an embedded node starts its first
template before it imports the rest of itself, and both start up side by side."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["TemplateProcess", "start_template_process"]

_START = """\
import sys
sys.path.append(sys.argv.pop())
from dispy_trio.child.template import main
main()
"""


class TemplateProcess(NamedTuple):
    """A template process that may not have a bundle yet."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    def discard(self) -> None:
        """End it unused."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


def _environment() -> dict[str, str]:
    """Ours, without what lets one speak for us."""
    return {k: v for k, v in os.environ.items() if not k.startswith("DISPY_TRIO_")}


def start_template_process() -> TemplateProcess:
    """Start one. Call it on the main thread: the kernel ends it with the thread that started it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                # Not the directory we happen to be in: its files may be called like modules.
                "-P",
                # Without buffers: what a job prints belongs to that job.
                "-u",
                "-c",
                _START,
                str(theirs.fileno()),
                str(os.getpid()),
                str(Path(__file__).resolve().parents[2]),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
    return TemplateProcess(process, ours)
