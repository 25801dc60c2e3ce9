"""Keeps the embedded node of a cluster: uses it while it lives, and starts another when it dies.

A node that dies again and again would take job after job with it: after `MAX_DEATHS` within
`DEATHS_SECONDS` the cluster fails.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from attrs import define, field

from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.nodes import parse_node
from dispy_trio.compute.deaths import name_of_signal
from dispy_trio.errors import ConnectError, ConnectionLost, LocalError
from dispy_trio.logs import log

__all__ = ["Keeper", "see_off"]

MAX_DEATHS = 3
DEATHS_SECONDS = 60.0
END_GRACE = 5.0
"""Seconds that the process has to end, once its client is gone; then it is killed."""


async def see_off(node: EmbeddedNode) -> None:
    """End an embedded node and wait, shielded, until its process is gone.

    Without a thread: from Python 3.12 on none can be started any more when the interpreter ends.
    """
    node.end()
    if node.is_gone:
        return
    pidfd = os.pidfd_open(node.pid)
    try:
        with trio.move_on_after(END_GRACE, shield=True):
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    node.wait(0)


@define(eq=False)
class Keeper:
    """The embedded node of one engine, as many processes as that takes."""

    node: EmbeddedNode
    is_wanted: Callable[[], bool]
    """Is there still anything to be run on it?"""
    use: Callable[[trio.Nursery, str, int], str]
    """Keeps a session with a node in a nursery; returns its key."""
    lost: Callable[[str, str], None]
    """Told the key of a node that has died, and how."""
    _deaths: deque[float] = field(factory=lambda: deque(maxlen=MAX_DEATHS))

    async def run(self) -> None:
        """Keep it, until it dies when nothing is left to be run.

        Raises:
            LocalError: it can't start with what it was given; says why.
            ConnectError: it ended by itself before it was up.
            ConnectionLost: it died again and again.
        """
        while True:
            key = await self._use_until_dead()
            code = self.node.exit_code()
            how = f"the embedded node died: {self._read_last_words() or _describe(code)}"
            self.node.end()
            if key is not None:
                self.lost(key, how)
            elif code >= 0:
                raise ConnectError(
                    "the embedded local node ended before it was up; what it said is on stderr"
                )
            if not self.is_wanted():
                return
            now = trio.current_time()
            self._deaths.append(now)
            if len(self._deaths) == MAX_DEATHS and now - self._deaths[0] <= DEATHS_SECONDS:
                raise ConnectionLost(f"{how}, for the {MAX_DEATHS}rd time within a minute")
            log.warning("an embedded node is started in place of the one that died")
            self.node = self.node.start_another()

    async def _use_until_dead(self) -> str | None:
        """Returns its key, or None when it was never up."""
        pidfd = os.pidfd_open(self.node.pid)
        try:
            said = await self._read_line()
            if said is None:
                await trio.lowlevel.wait_readable(pidfd)
                return None
            if "failure" in said:
                kind = LocalError if said["is_local"] else ConnectError
                raise kind(f"the embedded node can't start: {said['failure']}")
            address = said["address"]
            log.debug("no nodes named: using an embedded local node at %s", address)
            host, port = parse_node(address)
            assert port is not None, "it writes its port"
            async with trio.open_nursery() as nursery:
                key = self.use(nursery, host, port)
                await trio.lowlevel.wait_readable(pidfd)
                nursery.cancel_scope.cancel()
            return key
        finally:
            os.close(pidfd)

    async def _read_line(self) -> dict[str, Any] | None:
        """What the node says first; None when it ends without a word."""
        lifeline = trio.socket.from_stdlib_socket(self.node.lifeline)
        line = b""
        while not line.endswith(b"\n"):
            try:
                data = await lifeline.recv(4096)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            line += data
        said: dict[str, Any] = json.loads(line)
        return said

    def _read_last_words(self) -> str:
        """Why a node that has ended says it did."""
        try:
            line = self.node.lifeline.recv(65536)
        except OSError:
            return ""  # It said nothing.
        return str(json.loads(line)["failure"]) if line.endswith(b"\n") else ""


def _describe(code: int) -> str:
    return name_of_signal(-code) if code < 0 else f"exit code {code}"
