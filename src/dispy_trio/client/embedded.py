"""The embedded local node: what a cluster runs on when no node is named.

A process of its own, started by the client and ended with it. The two hold the ends of a socket
pair: the node reads its settings from it, writes the address it listens on to it, and reads from it
the end of its client.

Standard library only: the process is started before the rest of the client is imported, so that
both start up side by side.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from dispy_trio.compute.descriptors import usual_limit

__all__ = ["EmbeddedNode"]

# This very package, also when it is on nobody's path but ours.
_START = """\
import sys
sys.path.append(sys.argv.pop())
from dispy_trio.services.embedded import main
main()
"""


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
        ours, theirs = socket.socketpair()
        settings = {
            "cpus": cpus,
            "secret_file": secret_file,
            "secret": secret,
            "certfile": None if certfile is None else os.fspath(certfile),
            "keyfile": None if keyfile is None else os.fspath(keyfile),
        }
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _START,
                    str(theirs.fileno()),
                    str(usual_limit()),
                    str(Path(__file__).resolve().parents[2]),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Of its own session: Ctrl-C at the terminal is the client's to handle.
                start_new_session=True,
            )
        # Not as an argument: those can be read by everybody on this machine.
        ours.sendall(json.dumps(settings).encode() + b"\n")
        self.lifeline = ours
        """Readable when the node has written its address, a line of ``host:port``."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Tell it that its client is gone; it kills what runs there and exits."""
        self.lifeline.close()

    def wait(self, timeout: float) -> None:
        """Wait until its process is gone; kill it when that takes longer than `timeout` seconds."""
        # Not `Popen.wait` with its timeout: that looks again and again, at growing intervals.
        pidfd = os.pidfd_open(self._process.pid)
        try:
            if not select.select([pidfd], [], [], timeout)[0]:
                self._process.kill()
        finally:
            os.close(pidfd)
        self._process.wait()
