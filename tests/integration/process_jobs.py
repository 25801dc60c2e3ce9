"""What the workers of `test_processes` run: small functions that behave in every way there is."""

# ruff: noqa: T201 - printing is what they are for

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dispy_trio.child import calls

state: dict[str, Any] = {}


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The computation of all the tests: calls what it is given."""
    return function(*args, **kwargs)


def echo(*args: Any, **kwargs: Any) -> Any:
    return args[0] if len(args) == 1 and not kwargs else (args, kwargs)


class Unlucky(Exception):
    """Of the user's own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def fail(depth: int = 2) -> None:
    if depth:
        fail(depth - 1)
    exc = Unlucky(13)
    exc.add_note("mind the gap")
    raise exc


def raise_this(exc: BaseException) -> None:
    raise exc


def chat() -> str:
    print("from python")
    os.system("echo from a shell; echo in its stderr >&2")
    print("and from python again", file=sys.stderr)
    print("without an end", end="")
    return "chatted"


def flood(size: int) -> None:
    print("begin" + "x" * size + "end")


def flood_and_die(size: int) -> None:
    flood(size)
    os.kill(os.getpid(), signal.SIGKILL)


def leave_quietly(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def leave_at_once(code: int) -> None:
    print("last words", file=sys.stderr)
    os._exit(code)


def crash() -> None:
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Stubborn:
    """Can't be pickled, in a way that is chosen."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __repr__(self) -> str:
        raise RuntimeError("and has no repr")

    def __reduce__(self) -> Any:
        if self.how == "raises":
            raise TypeError("never")
        if self.how == "exits":
            sys.exit(3)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        return Stubborn, (deep,)


class Trap:
    """Pickles, and explodes when it is unpickled where it is told to."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return spring, (self.pid,)


def spring(pid: int) -> str:
    if os.getpid() != pid:
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
    return "sprung"


def sleep(seconds: float, started: str = "") -> str:
    if started:
        Path(started).touch()
    time.sleep(seconds)
    return "slept"


def heed(started: str) -> str:
    try:
        sleep(60, started)
    except KeyboardInterrupt:
        return "heeded"
    return "slept"


def ignore_interrupts(started: str) -> None:
    while True:
        try:
            sleep(60, started)
        except KeyboardInterrupt:
            Path(started + ".interrupted").touch()


def block_in_c(seconds: float, started: str) -> str:
    """Deep in a C function that lets no signal handler run, and holds the interpreter's lock."""
    Path(started).touch()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1_000_000))
    return "blocked"


def mark(path: str, number: int) -> int:
    """Leave a trace that a second run of the same job would fail on."""
    with open(f"{path}/{number}", "x"):
        return number


def spawn(seconds: int, *, leave_group: bool) -> int:
    """Start a program and do not wait for it."""
    code = f"import time; time.sleep({seconds})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=leave_group)
    state["process"] = process  # Its end would complain.
    return process.pid


def where() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "directory": os.getcwd(),
        "path": sys.path[0],
        "stdin": os.read(0, 10),
        "secrets": [name for name in os.environ if name.startswith("DISPY_TRIO_")],
        "given": os.environ.get("GIVEN"),
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def inherited_by_programs() -> list[str]:
    """The descriptors that a shell started by a job has, beyond 0, 1 and 2."""
    out = os.popen("ls -l /proc/$$/fd").read()
    return [
        line for line in out.splitlines() if "socket:" in line or "memfd:dispy-trio-ring" in line
    ]


def remember(key: str) -> int:
    state[key] = state.get(key, 0) + 1
    count: int = state[key]
    return count


def redirect() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr.close()


def close_descriptors() -> None:
    os.close(2)
    sys.stdout.close()


def scribble() -> None:
    """Write to the ring what is no result, as a stray pointer might."""
    import ctypes

    for line in Path("/proc/self/maps").read_text().splitlines():
        if "dispy-trio-ring" in line:
            start = int(line.split("-")[0], 16)
            ctypes.memset(start, 0x7F, 8)
    time.sleep(60)


def ask(kind: str, body: dict[str, Any]) -> Any:
    return calls.call(kind, body)


def ask_nonsense() -> None:
    assert calls._socket is not None
    calls._socket.send(b"{nonsense")
    time.sleep(60)


def multiply_elsewhere(numbers: list[int]) -> list[int]:
    """In processes of `multiprocessing` that are not forked from here."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(twice, numbers)


def twice(x: int) -> int:
    return 2 * x


def daemonize() -> int:
    """Start a program as daemons are started: nothing connects it with this job any more."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.setsid()
        program = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
        os.write(writing, str(program.pid).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as file:
        return int(file.read())


def load_for_ever(mark: str) -> None:
    program = subprocess.Popen(["sleep", "60"], start_new_session=True)
    draft = Path(mark + ".draft")
    draft.write_text(str(program.pid))
    draft.rename(mark)
    block_in_c(60, mark + ".blocked")
