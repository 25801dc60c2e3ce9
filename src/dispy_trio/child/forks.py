"""What a process that the user's code forks keeps of the template or worker it comes from.

It is to be as plain as any that Python forks: signals end it, our sockets are closed in it, and if
it comes back to where its job was called it ends there, before it touches what is shared. It is
told from ours by a page of memory that the kernel empties in whatever is forked, by Python or by
a library; only a fork of our own is marked again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import mmap
import os
import posix
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from dispy_trio.child.randomness import draw_anew

__all__ = ["claim", "flush", "fork", "handle", "is_ours", "keep", "leave", "set_mask"]

_T = TypeVar("_T")

_MADV_WIPEONFORK = 18
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# As they are before the user's code gets others.
set_mask: Callable[..., set[int]] = importlib.import_module("_signal").pthread_sigmask
_fork = os.fork
_flush_c = ctypes.CDLL(None).fflush

_page: mmap.mmap | None = None
_sockets: list[socket.socket] = []
_handler: Callable[..., object] | None = None
_own_fork = False
"""The fork that is about to happen is one of ours."""


def claim() -> mmap.mmap:
    """This process is ours; item 0 of what is returned becomes 0 in those that are forked from it.

    To be called once, in a template; `fork` does it for what comes from there.
    """
    global _page
    if _page is None:
        _page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)
        with contextlib.suppress(OSError):  # Then only forks by Python are told from us.
            _page.madvise(_MADV_WIPEONFORK)
        os.register_at_fork(after_in_child=_after_in_child)
        os.fork = posix.fork = _undisturbed(os.fork)
        os.forkpty = posix.forkpty = _undisturbed(os.forkpty)
    _page[0] = 1
    return _page


def is_ours() -> bool:
    """False in what was forked by the user's code, and where nothing was claimed."""
    return _page is not None and _page[0] == 1


def keep(*sockets: socket.socket) -> None:
    """Close these too in what the user's code forks."""
    _sockets.extend(sockets)


def handle(handler: Callable[..., object]) -> None:
    """In what the user's code forks, signals that have this handler get their default."""
    global _handler
    _handler = handler


def fork() -> int:
    """Fork another process of ours, which keeps everything."""
    global _own_fork
    _own_fork = True
    try:
        pid = _fork()
    finally:
        _own_fork = False
    if not pid:
        claim()
        draw_anew()
    return pid


def _undisturbed(fork: Callable[[], _T]) -> Callable[[], _T]:
    """A signal that comes in between would be lost: in the child before its handlers are the
    default, and in both where what a handler raises ends in one of the hooks of the fork."""

    @functools.wraps(fork)
    def fork_undisturbed() -> _T:
        before = set_mask(signal.SIG_BLOCK, ())
        try:
            # A handler may raise here, with the signals blocked already.
            set_mask(signal.SIG_BLOCK, _SIGNALS)
            return fork()
        finally:
            set_mask(signal.SIG_SETMASK, before)

    return fork_undisturbed


def _after_in_child() -> None:
    if _own_fork:
        return
    assert _page is not None
    _page[0] = 0
    for sock in _sockets:
        sock.close()
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        # One that the user's code has set is the user's.
        if _handler is not None and signal.getsignal(number) == _handler:
            signal.signal(number, default)


def flush() -> None:
    """Write out what is buffered for stdout and stderr, by Python and by C."""
    for stream in (sys.stdout, sys.stderr):
        # The user's own objects may be there, closed or broken.
        with contextlib.suppress(Exception):
            stream.flush()
    _flush_c(None)


def leave(error: BaseException | None) -> NoReturn:
    """End as a Python program does at its end, but for what is registered to run at exit: that
    belongs to the process we were forked from."""
    status = 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        status = error.code or 0
    elif isinstance(error, SystemExit):
        status = 1
        with contextlib.suppress(Exception):
            sys.stderr.write(f"{error.code}\n")
    elif error is not None:
        status = 1
        with contextlib.suppress(Exception):
            traceback.print_exception(error)
    flush()
    os._exit(status & 0xFF)
