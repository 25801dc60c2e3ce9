"""A computation that is a program: the callable that stands for it in a worker."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

from dispy_trio.child import context, forks
from dispy_trio.child.dying import die_with_worker

__all__ = ["Program"]

_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_CHUNK = 64 * 1024
_PIPE = 1024 * 1024
"""Bytes that a pipe holds at most, unless an administrator allows for more."""


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
        process: subprocess.Popen[bytes] | None = None
        try:
            before = forks.set_mask(signal.SIG_BLOCK, _SIGNALS)
            try:
                process = self._start(arguments, before)
            finally:
                forks.set_mask(signal.SIG_SETMASK, before)
            return _wait(process)
        except KeyboardInterrupt:
            if process is None:
                raise
            # The signal went to the whole process group: the program has it too, and may end in
            # order. If it does not, the next rungs of the ladder take it.
            status = _wait(process)
            if status < 0:
                raise
            return status

    def _start(self, arguments: Sequence[Any], mask: set[int]) -> subprocess.Popen[bytes]:
        """Start the program, which gets that mask of signals.

        They have to be blocked until it runs: one that comes in the middle is lost, where it is
        raised in a hook of the fork, or is taken for a failure to start.
        """
        worker = os.getpid()

        def become_the_program() -> None:
            die_with_worker()
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
                if _waits(number, worker):
                    # It came right before the fork, and was meant for us too.
                    signal.raise_signal(number)
            forks.set_mask(signal.SIG_SETMASK, mask)

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
            return subprocess.Popen(
                self.command(root, arguments),
                env=environment,
                # Not our own files: a program can empty those, as shells do for `> /dev/stderr`.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                # The node may be killed with all its workers. There is one thread here.
                preexec_fn=become_the_program,
            )
        except OSError as exc:
            raise OSError(
                exc.errno, f"node {context.node_name} can't execute {self.file!r}: {exc.strerror}"
            ) from exc


def _waits(number: int, process: int) -> bool:
    """Whether a signal waits in a process that blocks it."""
    with open(f"/proc/{process}/status") as file:
        waiting = [int(line.split()[1], 16) for line in file if line.startswith("ShdPnd:")]
    return bool(waiting[0] >> (number - 1) & 1)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Carry what it writes to where the job writes, until it has ended; its status."""
    pipes = (process.stdout, process.stderr)
    # An interrupt between the end of the program and the reading of its status would lose that:
    # so it is waited for first, and its status read when it is there.
    end = os.pidfd_open(process.pid)
    try:
        has_ended = False
        while not has_ended:
            waiting = select.poll()
            waiting.register(end, select.POLLIN)
            for pipe in pipes:
                if pipe is not None and not pipe.closed:
                    waiting.register(pipe, select.POLLIN)
            has_ended = end in [descriptor for descriptor, _ in waiting.poll()]
            for number, pipe in enumerate(pipes, 1):
                if pipe is not None and not pipe.closed:
                    _carry(pipe, number)
    finally:
        os.close(end)
    for number, pipe in enumerate(pipes, 1):
        if pipe is not None and not pipe.closed:
            _leave(pipe, number)
    return process.wait()


def _carry(pipe: IO[bytes], number: int) -> None:
    """Take what is in a pipe; close it when nobody is left to write."""
    os.set_blocking(pipe.fileno(), False)
    # An interrupt is not to come between reading and writing.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        # No more than a pipe holds: some programs write without end.
        for _ in range(_PIPE // _CHUNK):
            data = os.read(pipe.fileno(), _CHUNK)
            if not data:
                pipe.close()
                return
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(number, rest) :]
    except BlockingIOError:
        pass  # That was all.
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _leave(pipe: IO[bytes], number: int) -> None:
    """The program has left others behind that may still write: that must not stop them."""
    os.set_blocking(pipe.fileno(), True)
    with pipe, contextlib.suppress(OSError):  # Without `cat`, they find the pipe closed.
        subprocess.Popen(["cat"], stdin=pipe, stdout=number, preexec_fn=die_with_worker)
