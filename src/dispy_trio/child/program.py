"""A computation that is a program: the callable that stands for it in a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from dispy_trio.child import context
from dispy_trio.child.dying import die_with_worker

__all__ = ["Program"]


class Program:
    """Runs a file of the computation's directory; its output is captured as that of any job."""

    def __init__(self, file: str, java: str) -> None:
        self.file = file
        self.java = java

    def command(self, directory: str, arguments: Sequence[Any]) -> list[str]:
        """What is executed for the arguments of one job."""
        path = os.path.join(directory, self.file)
        words = [str(argument) for argument in arguments]
        if path.endswith(".py"):
            return [sys.executable, path, *words]
        if path.endswith(".java"):
            return [self.java, path, *words]
        return [path, *words]

    def __call__(self, *arguments: Any) -> int:
        """Its exit status; negative is the signal that killed it.

        Raises:
            OSError: it can't be executed here; says why.
            KeyboardInterrupt: the job was cancelled, and the program died of it.
        """
        root = context.root
        environment = {
            **os.environ,
            "dispy_job_path": context.directory,
            "dispy_node_name": context.node_name,
            "dispy_node_ip_addr": context.node_address,
            "PYTHONPATH": os.pathsep.join(
                filter(None, (os.path.join(root, ".modules"), root, os.environ.get("PYTHONPATH")))
            ),
        }
        try:
            process = subprocess.Popen(
                self.command(root, arguments),
                env=environment,
                # The node may be killed with all its workers. There is one thread here.
                preexec_fn=die_with_worker,
            )
        except OSError as exc:
            raise OSError(
                exc.errno, f"node {context.node_name} can't execute {self.file!r}: {exc.strerror}"
            ) from exc
        try:
            return _wait(process)
        except KeyboardInterrupt:
            # The signal went to the whole process group: the program has it too, and may end in
            # order. If it does not, the next rungs of the ladder take it.
            status = _wait(process)
            if status < 0:
                raise
            return status


def _wait(process: subprocess.Popen[bytes]) -> int:
    # An interrupt between the end of the program and the reading of its status would lose that:
    # so it is waited for first, and its status read when it is there.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.wait()
