"""Jobs of `test_surroundings`: each leaves its process otherwise than it found it."""

from __future__ import annotations

import cProfile
import decimal
import faulthandler
import gc
import locale
import os
import profile
import resource
import signal
import sys
import time
from collections.abc import Callable
from decimal import getcontext
from os import chdir
from pathlib import Path
from typing import Any


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def setup() -> int:
    """What is set here is what every job finds."""
    decimal.getcontext().prec = 40
    os.environ["FROM_SETUP"] = "yes"
    os.umask(0o027)
    sys.path.append("/from/setup")
    return 0


def look() -> dict[str, Any]:
    """Everything that a job could have changed for the next one."""
    return {
        "pid": os.getpid(),
        "directory": os.getcwd(),
        "umask": int(
            next(
                line.split()[1]
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("Umask")
            ),
            8,
        ),
        "environment": dict(os.environ),
        "for programs": os.popen("env | grep -v ^_= | sort").read(),
        "clock": time.strftime("%Z", time.localtime(0)),
        "path": list(sys.path),
        "limits": [
            resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        ],
        "recursion": sys.getrecursionlimit(),
        "interval": sys.getswitchinterval(),
        "precision": decimal.getcontext().prec,
        "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": [
            signal.getitimer(timer)
            for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        ],
        "tracing": (sys.gettrace(), sys.getprofile()),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
        "faults": faulthandler.is_enabled(),
        "locale": locale.setlocale(locale.LC_ALL),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "group": os.getpgrp(),
        "users": (os.getresuid(), os.getresgid()),
    }


def _trace(*_: object) -> None:
    return


def _handler(*_: object) -> None:
    raise RuntimeError("a handler of an earlier job")


def ring_soon() -> None:
    signal.alarm(1)


def ring_sooner() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def ring_when_it_works() -> None:
    signal.signal(signal.SIGPROF, _handler)
    signal.setitimer(signal.ITIMER_PROF, 0.05)


def dump_later() -> None:
    faulthandler.dump_traceback_later(0.2, exit=True)


def handle_alarms() -> None:
    signal.signal(signal.SIGALRM, _handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})


def go_elsewhere() -> None:
    chdir("/")


def go_elsewhere_by_descriptor() -> None:
    descriptor = os.open("/", os.O_RDONLY)
    os.fchdir(descriptor)
    os.close(descriptor)


def hide_files() -> None:
    os.umask(0o777)


def change_environment() -> None:
    os.environ["ADDED"] = "1"
    os.environ["PATH"] = "/nowhere"
    os.environ["TZ"] = "XYZ3"
    time.tzset()
    del os.environ["FROM_SETUP"]
    os.environb[b"ADDED_TOO"] = b"\xff"
    os.putenv("BEHIND", "its back")


def clear_environment() -> None:
    os.environ.clear()


def change_path() -> None:
    sys.path.insert(0, "/nowhere")
    sys.path.remove("/from/setup")


def replace_path() -> None:
    sys.path = ["/nowhere"]


def lower_limits() -> None:
    for which, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 30)):
        resource.setrlimit(which, (limit, resource.getrlimit(which)[1]))
    resource.prlimit(
        0, resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    )


def change_interpreter() -> None:
    sys.setrecursionlimit(200)
    sys.setswitchinterval(1.0)


def change_tracing() -> None:
    sys.settrace(_trace)  # type: ignore[arg-type]
    sys.setprofile(_trace)


def profile_itself() -> int:
    """As the modules of the standard library do, which mind each call that they see."""
    return profile.Profile().runcall(sum, [1, 2]) + cProfile.Profile().runcall(sum, [3, 4])


def change_collector() -> None:
    gc.disable()
    gc.set_threshold(1, 1, 1)


def change_precision() -> None:
    getcontext().prec = 3


def replace_precision() -> None:
    decimal.setcontext(decimal.Context(prec=2))


def change_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C")


def silence_faults() -> None:
    faulthandler.disable()


def pin() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def fail_and_leave(how: Callable[[], None]) -> None:
    how()
    raise RuntimeError("and it failed")


def spoil(size: int) -> bytes:
    """Leave what can't be put back, or not by who did it."""
    if os.geteuid():
        os.nice(1)
    else:
        os.chroot("/")
    return bytes(size)


def pid() -> int:
    return os.getpid()


def dawdle(seconds: float) -> str:
    end = time.process_time() + seconds
    while time.process_time() < end:
        time.sleep(0.01)
        sum(range(10_000))
    return "slept"


def remember(number: int, seen: list[int] = []) -> list[int]:  # noqa: B006 - it is to stay
    seen.append(number)
    return seen


def sleep(seconds: float, started: str) -> None:
    Path(started).touch()
    time.sleep(seconds)
