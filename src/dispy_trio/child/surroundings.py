"""What a job may set of its process beside its own memory, and what is put back after it.

The setters are wrapped, before any of the user's code is loaded, so that they note what kind of
thing they set: to look at everything after each job would cost more than a short job does. What a
library sets behind Python's back is not noticed.

Globals of modules are no part of this: they stay as long as their worker does, on purpose.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib
import importlib.machinery
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

__all__ = ["Surroundings", "note", "touched", "watch"]

_IDENTITY = (
    "setuid setgid seteuid setegid setreuid setregid setresuid setresgid setgroups initgroups"
)
_SETTERS: dict[str, dict[str, str]] = {
    "posix": {
        "directory": "chdir fchdir",
        "umask": "umask",
        "environment": "putenv unsetenv",
        "identity": f"{_IDENTITY} setpgid setpgrp setsid",
        "priority": "nice setpriority",
        "processors": "sched_setaffinity",
        "for good": "chroot setns unshare sched_setparam sched_setscheduler",
    },
    "_signal": {
        "signals": "signal set_wakeup_fd pthread_sigmask",
        "interrupting": "siginterrupt",
        "timers": "alarm setitimer",
    },
    "resource": {"limits": "setrlimit prlimit"},
    "sys": {"interpreter": "setrecursionlimit setswitchinterval"},
    "gc": {"collector": "enable disable set_threshold set_debug"},
    "faulthandler": {"faults": "enable disable dump_traceback_later"},
    "_locale": {"locale": "setlocale"},
    "decimal": {"decimal": "getcontext setcontext"},
}
"""Module to kind to the functions that set it; a context of `decimal` is changed by who gets it."""
_AGAIN = {"posix": "os", "_signal": "signal"}
"""Modules that have the functions of another one too."""

touched: set[str] = set()
"""Kinds that may have been changed since this was empty."""
_names: set[bytes] = set()
"""Environment variables that may have been."""


def note(kind: str) -> None:
    """Of this kind, something is about to be changed."""
    touched.add(kind)


def _watched(kind: str, setter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(setter)
    def set_it(*args: Any, **kwargs: Any) -> Any:
        touched.add(kind)
        return setter(*args, **kwargs)

    @functools.wraps(setter)
    def set_variable(name: bytes | str, *value: bytes | str) -> None:
        touched.add(kind)
        _names.add(os.fsencode(name))
        setter(name, *value)

    return set_variable if kind == "environment" else set_it


def _watch(module: ModuleType) -> None:
    again = sys.modules.get(_AGAIN.get(module.__name__, ""))
    for kind, names in _SETTERS[module.__name__].items():
        for name in names.split():
            setter = getattr(module, name, None)
            if setter is None:
                continue  # Not in this version, or not on this system.
            wrapper = _watched(kind, setter)
            setattr(module, name, wrapper)
            if getattr(again, name, None) is setter:
                setattr(again, name, wrapper)
            for supporting in (os.supports_fd, os.supports_dir_fd):
                if setter in supporting:
                    supporting.add(wrapper)


class _Finder:
    """Watches the setters of modules that are not imported yet, as soon as they are."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _SETTERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_watch(module: ModuleType) -> None:
            execute(module)
            _watch(module)

        spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


def watch() -> None:
    """Note from now on what is set; to be called once, before there is code of the user's."""
    importlib.import_module("_locale")  # Built in, and what `locale` is made of.
    for name in _SETTERS:
        module = sys.modules.get(name)
        if module is not None:
            _watch(module)
    sys.meta_path.insert(0, _Finder())


class Surroundings:
    """All of that, as it is when this is made."""

    def __init__(self) -> None:
        self.path = list(sys.path)
        """To be compared after each job: a list can't be watched."""
        self._path_itself = sys.path
        # By descriptor: it may be gone, or have another name, when it is gone back to.
        self._directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._environment = dict(os.environb)
        self._identity = _identity()
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)
        self._processors = os.sched_getaffinity(0)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._limits = {number: resource.getrlimit(number) for number in _limits()}
        self._recursion = sys.getrecursionlimit()
        self._interval = sys.getswitchinterval()
        self.tracing = sys.gettrace(), sys.getprofile()
        """To be compared after each job, too."""
        self._collector = gc.isenabled(), gc.get_threshold(), gc.get_debug()
        self._locale = _locale_now()
        self._context = _decimal_context()
        touched.clear()
        _names.clear()

    def put_back(self) -> bool:
        """Undo what has changed; False when something of it can't be undone."""
        whole = True
        trace, profile = self.tracing
        if sys.gettrace() is not trace or sys.getprofile() is not profile:
            sys.settrace(trace)
            sys.setprofile(profile)
        if sys.path is not self._path_itself or sys.path != self.path:
            sys.path = self._path_itself
            sys.path[:] = self.path
        for kind in list(touched):
            try:
                self._put_back_one(kind)
            except BaseException:
                # Also what a handler raises that is still the job's.
                whole = False
        touched.clear()
        _names.clear()
        return whole

    def _put_back_one(self, kind: str) -> None:
        match kind:
            case "directory":
                os.fchdir(self._directory)
            case "umask":
                os.umask(self._umask)
            case "environment":
                self._put_back_environment()
            case "signals":
                self._put_back_signals()
            case "interrupting":
                for number in self._handlers:
                    if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
                        signal.siginterrupt(number, True)
            case "timers":
                for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
                    signal.setitimer(timer, 0)
            case "limits":
                for which, limits in self._limits.items():
                    if resource.getrlimit(which) != limits:
                        resource.setrlimit(which, limits)
            case "interpreter":
                sys.setrecursionlimit(self._recursion)
                sys.setswitchinterval(self._interval)
            case "collector":
                enabled, thresholds, debug = self._collector
                (gc.enable if enabled else gc.disable)()
                gc.set_threshold(*thresholds)
                gc.set_debug(debug)
            case "faults":
                faulthandler.cancel_dump_traceback_later()
                faulthandler.enable(2)
            case "locale":
                if _locale_now() != self._locale:
                    sys.modules["_locale"].setlocale(sys.modules["_locale"].LC_ALL, self._locale)
            case "decimal":
                self._put_back_decimal()
            case "processors":
                os.sched_setaffinity(0, self._processors)
            case "priority":
                if os.getpriority(os.PRIO_PROCESS, 0) != self._priority:
                    os.setpriority(os.PRIO_PROCESS, 0, self._priority)
            case "identity":
                if _identity() != self._identity:
                    raise PermissionError("another identity")
            case "settings":
                return
            case _:
                raise PermissionError(kind)

    def _put_back_environment(self) -> None:
        for name in list(_names):
            if name in self._environment:
                os.environb[name] = self._environment[name]
            elif name in os.environb:
                del os.environb[name]
            else:
                os.unsetenv(name)
        if b"TZ" in _names:
            time.tzset()

    def _put_back_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _put_back_decimal(self) -> None:
        decimal = sys.modules["decimal"]
        decimal.setcontext((self._context or decimal.DefaultContext).copy())


def _limits() -> list[int]:
    return [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


def _identity() -> tuple[object, ...]:
    return os.getresuid(), os.getresgid(), os.getgroups(), os.getpgrp(), os.getsid(0)


def _locale_now() -> Any:
    low = sys.modules["_locale"]
    return low.setlocale(low.LC_ALL, None)


def _decimal_context() -> Any:
    decimal = sys.modules.get("decimal")
    return None if decimal is None else decimal.getcontext().copy()
