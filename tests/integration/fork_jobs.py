"""Jobs of `test_forks`: they fork in every way there is, and some of what they make comes back."""

# ruff: noqa: T201 - printing is what some are for

from __future__ import annotations

import concurrent.futures
import ctypes
import json
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def note_run(path: str, number: int) -> int:
    """Leave a line for each time this job runs."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"%d\n" % number)
    os.close(descriptor)
    return number


def fork_and_come_back(path: str, number: int) -> int:
    note_run(path, number)
    os.fork()
    return number


def fork_and_leave(how: str) -> int:
    """How what was forked ended, which leaves as told; as a shell would say it."""
    pid = _fork(how)
    if not pid:
        print("from below")
        if how == "raises":
            raise ValueError("from below")
        if how == "exits":
            sys.exit(7)
        if how == "complains":
            sys.exit("not here")
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(how: str) -> int:
    if how == "in C":
        return ctypes.CDLL(None).fork()  # type: ignore[no-any-return]
    if how == "in a generator":
        return next(_generate())
    if how == "with a terminal":
        pid, terminal = pty.fork()
        if pid:
            threading.Thread(target=_drain, args=(terminal,)).start()
        return pid
    return os.fork()


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 1000):
            pass
    except OSError:
        pass  # Its other end is closed.
    os.close(terminal)


def _generate() -> Iterator[int]:
    yield os.fork()


class ForksWhenPickled:
    """Two processes come to pickle it."""

    def __reduce__(self) -> Any:
        os.fork()
        return int, (5,)


class ForksWhenShown(Exception):
    """Two processes come to show it."""

    def __str__(self) -> str:
        os.fork()
        return "shown"


def fork_when(cls: type) -> Any:
    if issubclass(cls, Exception):
        raise cls
    return cls()


def fork_in_a_thread() -> int:
    """What a thread forks ends with that thread."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.fork()))
    thread.start()
    thread.join()
    return os.waitstatus_to_exitcode(os.waitpid(found[0], 0)[1])


def setup_forks() -> int:
    os.fork()
    return 0


def setup_forks_and_fails() -> int:
    if not os.fork():
        raise RuntimeError("from below")
    return 0


# --- signals -----------------------------------------------------------------------------------
def _wait_for_ever() -> None:
    """Sleep, but not in one go: a signal right before a sleep is heeded after it only."""
    while True:
        time.sleep(0.01)


def terminate_process() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=_wait_for_ever)
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def twice(x: int) -> int:
    return 2 * x


def use_pool() -> list[int]:
    """Leaving the block terminates the pool's processes."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(twice, range(3))


def use_executor() -> list[int]:
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(twice, range(3)))


def use_program() -> int:
    process = subprocess.Popen(["/bin/sleep", "60"])
    process.terminate()
    return process.wait()


def dispositions(prepared: bool) -> dict[str, str]:
    """What signals do in a child: handlers of ours are not for it, the user's own are."""
    if prepared:
        signal.signal(signal.SIGTERM, _of_the_user)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        names = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            names[number.name] = getattr(handler, "__name__", None) or str(handler)
        names["blocked"] = str(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        os.write(writing, json.dumps(names).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    found: dict[str, str] = json.loads(os.read(reading, 1000))
    return found


def _of_the_user(_number: int, _frame: object) -> None:
    return


def sockets_of_a_child() -> list[str]:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        names = [os.readlink(path) for path in _descriptors()]
        os.write(writing, "\n".join(names).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return [name for name in os.read(reading, 10_000).decode().split("\n") if "socket:" in name]


def _descriptors() -> list[str]:
    return [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if _is_open(int(fd))]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _tell_and_wait(started: str) -> None:
    note_run(started, os.getpid())
    _wait_for_ever()


def wait_with_children(started: str) -> None:
    """Nobody of them heeds anything but what signals do by default."""
    for _ in range(2):
        multiprocessing.get_context("fork").Process(target=_tell_and_wait, args=(started,)).start()
    try:
        _wait_for_ever()
    finally:
        for child in multiprocessing.active_children():
            child.join()


def threads_and_a_process() -> int | None:
    """A thread that its child does not have would be waited for there."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    process = multiprocessing.get_context("fork").Process(target=twice, args=(1,))
    process.start()
    process.join(20)
    code = process.exitcode
    process.kill()
    done.set()
    return code
