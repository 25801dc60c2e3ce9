"""Machines of their own for tests, as namespaces of the kernel: by root, or by whoever may make them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

from .conftest import LIMIT

AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")
"""What lets `unshare` make a network: an ordinary user is root in a user namespace of its own."""
AS_ONESELF = () if os.geteuid() == 0 else ("--user", "--map-current-user")


@define
class Machine:
    """A network of its own, which is there as long as the process that holds it."""

    holder: int

    @property
    def on(self) -> tuple[str, ...]:
        """What stands before a command that is to run there."""
        user = ("--user", "--preserve-credentials") if AS_ROOT else ()
        return ("nsenter", "--target", str(self.holder), *user, "--net", "--")

    def ip(self, *words: str) -> None:
        subprocess.run([*self.on, "ip", *words], check=True, timeout=LIMIT)


@contextmanager
def open_machine(*unshare: str) -> Iterator[Machine]:
    """A machine that no cable leads to yet."""
    command = [*unshare, "--net", "sh", "-c", "echo made; exec cat"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"made\n"
        machine = Machine(holder.pid)
        machine.ip("link", "set", "lo", "up")
        yield machine
    finally:
        holder.communicate(timeout=LIMIT)


@contextmanager
def open_pair(here: str, there: str) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that see each other by these addresses, as ``eth``, and nothing else."""
    with (
        open_machine("unshare", *AS_ROOT) as first,
        open_machine(*first.on, "unshare") as second,
    ):
        other_end = ("peer", "name", "eth", "netns", str(second.holder))
        first.ip("link", "add", "eth", "type", "veth", *other_end)
        for machine, address in ((first, here), (second, there)):
            machine.ip("addr", "add", f"{address}/24", "dev", "eth")
            machine.ip("link", "set", "eth", "up")
        yield first, second


def processes_apart() -> tuple[str, ...]:
    """What stands before a command whose processes can't be seen, nor their memory reached."""
    return ("unshare", *AS_ONESELF, "--pid", "--fork", "--mount-proc", "--kill-child")
