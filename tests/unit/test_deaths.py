"""What is found out about a process that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dispy_trio.compute import deaths


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("0::/user.slice/a\n", ["user.slice/a/memory.events", "memory.events"]),
        ("0::/\n", ["memory.events", "memory.events"]),
        (
            "5:cpu:/x\n4:memory:/jobs/b\n",
            ["memory/jobs/b/memory.oom_control", "memory/memory.oom_control"],
        ),
        ("", []),
    ],
)
def test_finds_where_the_kernel_counts(groups: str, expected: list[str]) -> None:
    paths = [str(path) for path in deaths.memory_accounts(groups)]
    assert paths == [f"/sys/fs/cgroup/{place}" for place in expected]


def test_counts_are_numbers_wherever_we_run() -> None:
    assert deaths.oom_kills() >= 0


def test_signals_have_names() -> None:
    assert deaths.name_of_signal(signal.SIGSEGV) == "SIGSEGV"
    assert deaths.name_of_signal(signal.SIGRTMIN + 3) == f"signal {signal.SIGRTMIN + 3}"


def test_a_process_owns_its_id_until_somebody_else_has_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    assert deaths.owns_its_id(process.pid, pidfd)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert deaths.owns_its_id(process.pid, pidfd), "dead, but not reaped"
    process.communicate()
    assert deaths.owns_its_id(process.pid, pidfd), "nobody has the number"
    assert not deaths.owns_its_id(os.getpid(), pidfd), "a live process has the number"
    os.close(pidfd)
