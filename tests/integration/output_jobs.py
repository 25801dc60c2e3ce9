"""What the workers of `test_output` run: they write in all the ways there are."""

# ruff: noqa: T201 - printing is what they are for

from __future__ import annotations

import ctypes
import fcntl
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from sys import stderr as stderr_of_import
from sys import stdout as stdout_of_import
from typing import Any

libc = ctypes.CDLL(None)
kept: dict[str, Any] = {}


def run(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def say(text: str = "hello") -> None:
    print(text)
    print(text, "too", file=sys.stderr)


def nothing() -> None:
    return


# --- what hurts the descriptors ----------------------------------------------------------------
def close(*numbers: int) -> None:
    for number in numbers:
        os.close(number)


def lead_into_a_file(path: str) -> None:
    with open(path, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)


def swap() -> None:
    third = os.dup(1)
    os.dup2(2, 1)
    os.dup2(third, 2)
    os.close(third)


def lead_into_a_pipe() -> None:
    _, end = os.pipe()
    os.dup2(end, 1)


def stop_appending() -> None:
    for number in (1, 2):
        fcntl.fcntl(number, fcntl.F_SETFL, 0)


def close_objects() -> None:
    sys.stdout.close()
    sys.stderr.detach()  # type: ignore[attr-defined]


def replace_objects() -> None:
    sys.stdout = io.StringIO()
    sys.stderr = sys.stdout


def close_by_a_wrapper() -> None:
    """What it wraps is closed with it, when nobody refers to it any more."""
    io.TextIOWrapper(io.FileIO(1, "w")).write("at the end")


# --- ways to write -----------------------------------------------------------------------------
def keep_handler() -> None:
    kept["handler"] = logging.StreamHandler()
    kept["print"] = sys.stdout.write


def by_old_objects() -> None:
    stdout_of_import.write("of import\n")
    stderr_of_import.write("of import, too\n")
    kept["print"]("of a job before\n")
    kept["handler"].emit(logging.makeLogRecord({"msg": "of its handler"}))


def by_c(text: str) -> None:
    libc.printf(b"%s", text.encode())
    libc.puts(b"a line")
    libc.putchar(ord("."))


def by_everything(job: int, lines: int) -> None:
    """Each line names its job."""

    def by_thread() -> None:
        for n in range(lines):
            os.write(1, b"%d thread %d\n" % (job, n))

    thread = threading.Thread(target=by_thread)
    thread.start()
    script = f"for n in $(seq 0 {lines - 1}); do echo {job} shell $n; done"
    with subprocess.Popen(["sh", "-c", script]):
        for n in range(lines):
            print(f"{job} print {n}")
            os.write(1, b"%d write %d\n" % (job, n))
            libc.printf(b"%d printf %d\n", job, n)
            stdout_of_import.write(f"{job} old {n}\n")
    thread.join()


def by_a_shell(script: str) -> int:
    return os.system(script)


def leave_a_writer(path: str, text: str) -> None:
    """It writes as soon as there is such a file."""
    subprocess.Popen(
        ["sh", "-c", f"until [ -e {path} ]; do sleep 0.01; done; echo {text}; echo > {path}.done"]
    )


def flood(size: int) -> None:
    line = "x" * 1023
    for _ in range(size // 1024):
        print(line)


def room_taken() -> int:
    """Bytes that the files of the output take up."""
    return sum(512 * os.fstat(number).st_blocks for number in (1, 2))


def where_output_lies() -> list[str]:
    return [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)]


def leave_at_once(size: int) -> None:
    flood(size)
    print("last words", file=sys.stderr)
    os._exit(3)
