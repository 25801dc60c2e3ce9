"""What one client does to a node that another client works on: jobs that break what they touch.

Each of these is a way in which a job was once felt by its neighbours. They are the computation of
`tests.soak.neighbours`, and are chosen there at random.
"""

from __future__ import annotations

import ctypes
import decimal
import faulthandler
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "hurt"]

MEGABYTE = 1024 * 1024


def fork_and_return() -> str:
    for _ in range(3):
        if os.fork() == 0:
            break
    return "back"


def leave_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, random.choice((0.0001, 0.01, 0.1)))


def leave_handlers() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(9))


def leave_limits() -> None:
    soft = 40
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    os.umask(0o777)
    os.chdir("/")
    os.environ.clear()
    sys.path.clear()
    sys.setrecursionlimit(100)
    decimal.getcontext().prec = 2


def take_all_descriptors() -> None:
    taken = []
    try:
        while len(taken) < 5000:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in taken:
            os.close(descriptor)


def kill_template() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def kill_own_worker() -> None:
    os.kill(os.getpid(), random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)))


def exit_at_once() -> None:
    os._exit(random.randrange(4))


def crash() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


def raise_much() -> None:
    raise ValueError("x" * 10 * MEGABYTE)


def write_much() -> None:
    sys.stdout.write("y" * 10 * MEGABYTE)
    os.write(2, b"z" * MEGABYTE)


def return_much() -> bytes:
    return bytes(10 * MEGABYTE)


def make_files(count: int = 100_000) -> None:
    """In a folder of their own below that of the job, which the node has to remove."""
    folder = Path(f"many-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    for number in range(count):
        os.close(os.open(folder / str(number), os.O_CREAT | os.O_WRONLY))


def close_output() -> None:
    os.close(1)
    os.close(2)


def redirect_output() -> None:
    with open("/dev/null", "wb") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)


def close_everything() -> None:
    os.closerange(3, 200)


def scribble() -> None:
    """Write into whatever descriptors this process happens to have."""
    for descriptor in range(3, 30):
        try:
            os.write(descriptor, os.urandom(64))
        except OSError:
            pass  # Not open, or not for writing: the next one may be.


def leave_children() -> None:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    subprocess.Popen(["sh", "-c", "echo late; sleep 600; echo later"])


def leave_threads() -> None:
    for _ in range(5):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()


def ask_nonsense() -> None:
    from dispy_trio import job

    for ask in (
        lambda: job.provisional_result(1, timeout=-0.5),
        lambda: job.provisional_result(1, timeout=float("nan")),
        lambda: job.send_file("nul\0byte"),
        lambda: job.send_file("../../../etc/passwd"),
        lambda: job.progress(float("nan"), "\udce9" * 10_000),
    ):
        try:
            ask()
        except (OSError, ValueError, RuntimeError):
            pass  # That it is told no is what is wanted.


class Bomb:
    """Ends whoever unpickles it, if they let it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return sys.exit, (3,)


def return_bomb() -> Bomb:
    return Bomb()


def raise_bomb() -> None:
    class Evil(Exception):
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return sys.exit, (3,)

    raise Evil


def raise_odd_text() -> None:
    raise ValueError("\udce9\0" * 1000)


KINDS: dict[str, Callable[[], object]] = {
    function.__name__: function
    for function in (
        fork_and_return,
        leave_alarm,
        leave_handlers,
        leave_limits,
        take_all_descriptors,
        kill_template,
        kill_own_worker,
        exit_at_once,
        crash,
        raise_much,
        write_much,
        return_much,
        make_files,
        close_output,
        redirect_output,
        close_everything,
        scribble,
        leave_children,
        leave_threads,
        ask_nonsense,
        return_bomb,
        raise_bomb,
        raise_odd_text,
    )
}


def hurt(kind: str) -> object:
    """The computation: do one of these."""
    return KINDS[kind]()
