"""What is found out about a process that ended."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_accounts", "name_of_signal", "oom_kills", "owns_its_id"]


def oom_kills() -> int:
    """How many processes of our control group the kernel has killed for memory; 0 if unknown."""
    try:
        groups = Path("/proc/self/cgroup").read_text()
    except OSError:
        return 0
    for path in memory_accounts(groups):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0


def memory_accounts(groups: str) -> Iterator[Path]:
    """Where the kernel may count them, by what it says of our control groups.

    In a container our group may be mounted as the root of them all.
    """
    root = Path("/sys/fs/cgroup")
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        group = group.lstrip("/")
        if controllers == "memory":
            yield from (root / "memory" / place / "memory.oom_control" for place in (group, ""))
        elif not controllers:
            yield from (root / place / "memory.events" for place in (group, ""))


def name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # A real-time one.


def owns_its_id(pid: int, pidfd: int) -> bool:
    """Is the process id still that of this process, or of the group it left behind?

    A worker is reaped when we say so, but when its template died before us, anybody may do it.
    Then the id goes to a stranger only when nobody is left in the group.
    """
    dead = select.poll()
    dead.register(pidfd, select.POLLIN)
    if not dead.poll(0):
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False  # It can't be told: there are no descriptors.
    return state == "Z"
