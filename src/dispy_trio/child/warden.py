"""The warden of a template: the process between it and the supervisor, in which no user code runs.

A template may be deep in the user's code when its node is killed, or be killed itself, and then
ends nobody. Its warden does nothing but wait for either. It is the reaper of all orphans below, so
whatever jobs have started comes to it in the end, also what left its process group or session; and
it kills all of that before it ends, as its template ended.

When it is killed too, parent-death signals end its template and the workers, and what they have
started comes to the node, which ends that (`compute.orphans`).
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import sys
from types import FrameType
from typing import NoReturn

from dispy_trio.child.dying import adopt_orphans, die_with_parent, kill_below

__all__ = ["main"]


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Nothing by itself: that there was a signal is written to the pipe."""


def main() -> None:
    """Start a template and stay its warden.

    argv holds the descriptor of the template's socket, the supervisor's process id, and the limit
    of descriptors that user code has.
    """
    gc.disable()  # Of what is imported nothing is garbage.
    descriptor, supervisor, limit = (int(word) for word in sys.argv[1:4])
    del sys.argv[1:]
    try:
        watched = os.pidfd_open(supervisor)
    except ProcessLookupError:
        os._exit(1)
    if os.getppid() != supervisor:
        os._exit(1)  # It was gone before we looked, and the id may be another's.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    # Signals that reach the node's process group are the node's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    warden = os.getpid()
    # It waits until we can be dismissed, and until a child has other handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    template = os.fork()
    if template:
        os.close(descriptor)
        _watch(template, watched)
    os.close(watched)
    # Of a process group of its own: what its setup sends to that is not for us.
    os.setpgid(0, 0)
    die_with_parent(warden)
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    # What only a template needs is not to lie in the memory of its warden.
    import socket

    from dispy_trio.child.template import Template

    gc.enable()
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    Template(connection).run()


def _watch(template: int, supervisor: int) -> NoReturn:
    """Wait for the end of either, end all below us, and end as the template did."""
    ended = os.pidfd_open(template)
    dismissed, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, _wake)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    waiting = select.poll()
    for descriptor in (ended, supervisor, dismissed):
        waiting.register(descriptor, select.POLLIN)
    waiting.poll()
    # First, and by itself: it is what starts others.
    signal.pidfd_send_signal(ended, signal.SIGKILL)
    _, status = os.waitpid(template, 0)
    kill_below()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # It has left one, if it is to.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)
