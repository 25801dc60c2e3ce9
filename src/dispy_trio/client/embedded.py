"""The embedded local node: what a cluster runs on when no node is named.

A process of its own, started by the client and ended with it. The two hold the ends of a socket
pair: the node reads its settings from it, writes the address it listens on to it, and reads from it
the end of its client.

Standard library only: the process is started before the rest of the client is imported, so that
both start up side by side.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO, TypedDict

from dispy_trio.client import forks
from dispy_trio.compute.descriptors import usual_limit
from dispy_trio.logs import log

__all__ = ["EmbeddedNode"]

# This very package, also when it is on nobody's path but ours.
_START = """\
import sys
sys.path.append(sys.argv.pop())
from dispy_trio.services.embedded import main
main()
"""


class _Settings(TypedDict):
    """What it is started with, as it travels."""

    cpus: int
    secret_file: str | None
    secret: str
    certfile: str | None
    keyfile: str | None
    debug: bool
    """Show the traceback when it fails."""


class EmbeddedNode:
    """One node process of our own."""

    def __init__(
        self,
        *,
        cpus: int = 0,
        secret_file: str | None = None,
        secret: str = "",
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start it, and return before it is up.

        Args:
            cpus: slots; 0 for all processors, negative to leave that many free.
            secret_file: the secret it shares with us; None for the user's own.
            secret: the secret itself, instead of a file.
            certfile: certificate for TLS.
            keyfile: key of that, if it is not in the same file.
        """
        self._settings: _Settings = {
            "cpus": cpus,
            "secret_file": secret_file,
            "secret": secret,
            "certfile": None if certfile is None else os.fspath(certfile),
            "keyfile": None if keyfile is None else os.fspath(keyfile),
            "debug": log.isEnabledFor(log.DEBUG),
        }
        ours, theirs = socket.socketpair()
        with theirs:
            # Where we have no stdout, say, it may be number 1, which is something else there.
            number = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    # Not the directory we happen to be in: its files may be called like modules.
                    "-P",
                    "-c",
                    _START,
                    str(number),
                    str(usual_limit()),
                    str(Path(__file__).resolve().parents[2]),
                ],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=_ours_or_nothing(1, sys.__stdout__),
                stderr=_ours_or_nothing(2, sys.__stderr__),
                # Of its own session: Ctrl-C at the terminal is the client's to handle.
                start_new_session=True,
            )
        finally:
            os.close(number)
        # Not as an argument: those can be read by everybody on this machine.
        try:
            ours.sendall(json.dumps(self._settings).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has ended already, which is seen by whoever waits for its address.
        self.lifeline = ours
        """Readable when the node has written its address: a line of JSON, as that with which it
        tells why it fails."""
        forks.watch(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_gone(self) -> bool:
        """Has its process ended?"""
        return self._process.poll() is not None

    def start_another(self) -> EmbeddedNode:
        """A new one, with the same settings."""
        settings = self._settings
        return EmbeddedNode(
            cpus=settings["cpus"],
            secret_file=settings["secret_file"],
            secret=settings["secret"],
            certfile=settings["certfile"],
            keyfile=settings["keyfile"],
        )

    def end(self) -> None:
        """Tell it that its client is gone; it kills what runs there and exits."""
        try:
            # Closing alone is not seen there while a process of a C library's fork has it, too.
            self.lifeline.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended already.
        self.lifeline.close()

    def leave_to_parent(self) -> None:
        """In a child: only the parent's end is to end the node."""
        self.lifeline.close()

    def kill(self) -> None:
        """End its process, whatever it does."""
        self._process.kill()

    def exit_code(self) -> int:
        """How its process ended, which it has; negative for a signal."""
        return self._process.wait()

    def wait(self, timeout: float) -> None:
        """Wait until its process is gone; kill it when that takes longer than `timeout` seconds."""
        if self.is_gone:
            return
        # Not `Popen.wait` with its timeout: that looks again and again, at growing intervals.
        pidfd = os.pidfd_open(self._process.pid)
        try:
            if not select.select([pidfd], [], [], timeout)[0]:
                self._process.kill()
        finally:
            os.close(pidfd)
        self._process.wait()


def _ours_or_nothing(number: int, stream: TextIO | None) -> int | None:
    """What a node has for stdout or stderr: ours, if we were started with one and have it still.

    Its processes count on them. Of a number that was free, anything may have been made since.
    """
    try:
        os.fstat(number)
    except OSError:
        return subprocess.DEVNULL
    return subprocess.DEVNULL if stream is None else None
