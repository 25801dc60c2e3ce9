"""A template: the process of one computation, which loads it once and forks its workers.

It speaks JSON with its supervisor over a socket that keeps message borders; descriptors ride
along. It waits for messages and for the death of its workers at the same time. A dead worker is
not reaped before the supervisor says so: until then its process id stays taken, and what the
supervisor still does to its process group can't hit a stranger.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import json
import mmap
import os
import pickle
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dispy_trio.child import alias, calls, context, forks, homes, importer, surroundings
from dispy_trio.child.capture import Capture
from dispy_trio.child.dying import children, die_with_parent, kill_below
from dispy_trio.child.jobs import receive_message
from dispy_trio.child.legacy import job_names
from dispy_trio.child.ring import RING_SIZE, Ring
from dispy_trio.child.scope import Scope, add_builtins, import_unimported
from dispy_trio.child.texts import fit
from dispy_trio.child.worker import Worker

__all__ = ["Template"]

_MESSAGE = 64 * 1024
_TEXT = 48 * 1024
"""Bytes of a traceback, as JSON."""
_ENDS = 6
"""Descriptors that a worker is given."""
_STRAYS_EVERY = 10.0
"""Seconds between looks for dead processes that jobs left behind."""
_STRAYS_SOON = 0.1
"""The same after a worker has died."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Template:
    """The loop of one template process."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        forks.claim()
        forks.keep(supervisor)
        surroundings.watch()
        self._function: Callable[..., Any] | None = None
        self._scope = Scope(())
        self._cleanup: Callable[..., Any] | None = None
        self._arguments: tuple[Any, ...] = ()
        """Of setup and cleanup."""
        self._close_node: Callable[[], Any] | None = None
        """What the node's own ``--init`` file wants called at the end."""
        self._settings: dict[str, Any] = {}
        self._workers: dict[int, tuple[int, int]] = {}
        """pidfd to (worker, process id)."""
        self._look_soon = False
        """A worker has died, and what it had started is dying too."""
        self._unreaped: set[int] = set()
        """Process ids of dead workers."""
        self._poll = select.poll()
        self._poll.register(supervisor, select.POLLIN)

    def run(self) -> NoReturn:
        while True:
            ready = self._poll.poll(self._patience())
            if not ready:
                self._look_soon = False
                self._reap_strays()
            for descriptor, _ in ready:
                if descriptor == self._supervisor.fileno():
                    self._on_message()
                elif descriptor in self._workers:
                    self._on_death(descriptor)

    def _patience(self) -> float | None:
        """Milliseconds to wait before dead processes are looked for that jobs left behind."""
        if self._look_soon:
            return _STRAYS_SOON * 1000
        # Without workers there is nobody who could leave anything behind.
        return _STRAYS_EVERY * 1000 if self._workers else None

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._supervisor, [json.dumps(message).encode()], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            self._end()

    def _on_message(self) -> None:
        try:
            data, descriptors = receive_message(self._supervisor, _MESSAGE)
        except ConnectionResetError:
            data, descriptors = b"", []
        if not data:
            self._end()
        message = json.loads(data)
        match message["kind"]:
            case "load":
                self._load(message, *descriptors)
            case "fork" if len(descriptors) == _ENDS:
                self._fork(message["worker"], *descriptors)
            case "fork":
                self._refuse(message["worker"], descriptors, os.strerror(errno.EMFILE))
            case "reap":
                # After a cleanup, which reaps everybody, it may be gone already.
                if message["pid"] in self._unreaped:
                    os.waitpid(message["pid"], 0)
                    self._unreaped.discard(message["pid"])
                self._reap_strays()
                self._look_soon = True
            case "clean up":
                self._clean_up()

    # --- what is left --------------------------------------------------------------------------
    # We are the reaper of orphans below us: also programs that jobs started and that left their
    # process group come to us when their parents are gone, and end with the computation.
    def _reap_strays(self) -> None:
        ours = {pid for _, pid in self._workers.values()} | self._unreaped
        for pid in children():
            if pid not in ours:
                os.waitpid(pid, os.WNOHANG)

    def _end(self) -> NoReturn:
        """Kill and reap everything below us, and exit."""
        self._kill_all()
        os._exit(0)

    def _kill_all(self) -> None:
        for pid in [*(pid for _, pid in self._workers.values()), *self._unreaped]:
            os.killpg(pid, signal.SIGKILL)
        kill_below()

    # --- the bundle ----------------------------------------------------------------------------
    def _load(self, message: dict[str, Any], bundle: int, arguments: int) -> None:
        self._settings = settings = message["settings"]
        try:
            os.chdir(settings["directory"])
            os.environ.update(settings["environment"])
            sys.path.insert(0, settings["directory"])
            context.root = context.directory = settings["directory"]
            context.node_name = settings["node_name"]
            context.node_address = settings["node_ip"]
            context.message_timeout = settings["message_timeout"]
            add_builtins(job_names(self._shut_node_down))
            if settings["init"]:
                self._run_init(settings["init"])
            with open(bundle, "rb") as file:
                file.seek(0)  # The offset is shared with whoever wrote it.
                bundle_parts = pickle.loads(file.read())
            modules = _install_modules(bundle_parts, settings["directory"])
            import_unimported(bundle_parts["unimported"])
            with open(arguments, "rb") as file:
                file.seek(0)
                given = file.read()
            failure = self._set_up(_unpickle(bundle_parts["pickled"], modules), given)
        except BaseException as exc:
            _end_strays(exc)
            failure = _traceback_of(exc)
            if isinstance(exc, ModuleNotFoundError):
                failure += (
                    f"\nsend the module {exc.name!r} along with depends=, or install it on the node"
                )
        _end_strays(None)
        if failure:
            self._send({"kind": "failed", "text": fit(failure, _TEXT)})
            return
        # What is here now is shared with the workers: keep the collector from touching it.
        gc.collect()
        gc.freeze()
        self._send({"kind": "loaded"})

    def _set_up(self, parts: dict[str, Any], given: bytes) -> str:
        """Take the computation's parts and run its setup; what is wrong with them, or nothing."""
        homes.settle(parts["classes"])
        self._function = parts["function"]
        self._cleanup = parts.get("cleanup")
        code = parts.get("code", {})
        setup = parts.get("setup")
        self._scope = Scope((self._function, setup, self._cleanup, *code.values()))
        self._scope.add(code)
        if "init_depends" in code:
            self._scope.share_what_is_made_by(code["init_depends"])
        if given:
            self._arguments = pickle.loads(given)
        if setup is None:
            return ""
        status = self._scope.share_what_is_made_by(lambda: setup(*self._arguments))
        # dispy's 0, 1 and 2 said in which process jobs are to run; here it is always this one.
        if status not in (0, 1, 2):
            return f'"setup" failed with {status!r}; it has to return 0, 1 or 2'
        return ""

    def _run_init(self, path: str) -> None:
        """Run the node's own file: what it defines is known to all computations."""
        names: dict[str, Any] = {"__name__": "dispy_node_init", "__file__": path}
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), names)
        init = names.get("init")
        if init is not None and (status := init()) != 0:
            raise RuntimeError(f"init of the node's file {path} returned {status!r} instead of 0")
        self._close_node = names.get("close")
        hidden = ("init", "close")
        add_builtins({k: v for k, v in names.items() if not k.startswith("__") and k not in hidden})

    def _clean_up(self) -> None:
        """Run cleanup, with nothing of the computation left but us."""
        self._poll = select.poll()
        self._poll.register(self._supervisor, select.POLLIN)
        self._kill_all()
        for pidfd in self._workers:
            os.close(pidfd)
        self._workers.clear()
        self._unreaped.clear()
        text = ""
        for function, arguments in ((self._cleanup, self._arguments), (self._close_node, ())):
            try:
                if function is not None:
                    function(*arguments)
            except BaseException as exc:
                _end_strays(exc)
                text += _traceback_of(exc)
            _end_strays(None)
        self._send({"kind": "cleaned up", "text": fit(text, _TEXT)})

    def _shut_node_down(self) -> None:
        """``dispynode_shutdown``: for cleanup functions, on nodes that allow it."""
        self._send({"kind": "shut down"})

    # --- workers -------------------------------------------------------------------------------
    def _refuse(self, worker: int, descriptors: Sequence[int], text: str) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        self._send({"kind": "unforked", "worker": worker, "text": text})

    def _fork(self, worker: int, *descriptors: int) -> None:
        # They wait in the child until its handlers are set.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with warnings.catch_warnings():
                # Threads that a user's module started do not survive; that is known.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = forks.fork()
        except OSError as exc:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._refuse(worker, descriptors, str(exc))
            return
        if not pid:
            self._become_worker(*descriptors)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        # The child does this too; whoever comes first, it is done when either goes on.
        try:
            os.setpgid(pid, pid)
        except (PermissionError, ProcessLookupError):
            pass  # It has, or is dead already.
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as exc:
            # There may be no descriptor for it, which what user code has opened decides.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._refuse(worker, descriptors, str(exc))
            return
        for descriptor in descriptors:
            os.close(descriptor)
        self._workers[pidfd] = (worker, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._send({"kind": "forked", "worker": worker, "pid": pid}, (pidfd,))

    def _become_worker(
        self, jobs: int, control: int, call: int, ring: int, out: int, err: int
    ) -> NoReturn:
        try:
            parent = os.getppid()
            self._supervisor.close()
            for pidfd in self._workers:
                os.close(pidfd)
            try:
                os.setpgid(0, 0)
            except PermissionError:
                pass  # Our parent was faster.
            die_with_parent(parent)
            try:
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write("500")
            except PermissionError:
                pass  # Then the kernel chooses by itself whom to kill.
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            shared = Ring(memoryview(mmap.mmap(ring, RING_SIZE)))
            os.close(ring)
            capture = Capture(out, err, self._settings["output_limit"], shared.marks)
            faulthandler.enable(2)
            calls.connect(socket.socket(fileno=call))
            context.is_job = True
            assert self._function is not None
            running = Worker(
                self._function,
                self._scope,
                socket.socket(fileno=jobs),
                socket.socket(fileno=control),
                shared,
                capture,
            )
            running.listen_to_signals()
            running.run()
        except BaseException:
            # The user's part of it is caught elsewhere: a signal handler that a job left, say.
            traceback.print_exc()
            os._exit(70)

    def _on_death(self, pidfd: int) -> None:
        worker, pid = self._workers.pop(pidfd)
        self._unreaped.add(pid)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        # Looked at, not reaped: see the module's head.
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        self._send(
            {
                "kind": "exited",
                "worker": worker,
                "signal": info.si_status if info.si_code != os.CLD_EXITED else 0,
                "code": info.si_status if info.si_code == os.CLD_EXITED else 0,
            }
        )


def _install_modules(bundle: dict[str, Any], directory: str) -> importer.BundleImporter:
    """Have the modules that came along found by ``import``."""
    if bundle["as_dispy"]:
        alias.install_as_dispy()
    sources, data = bundle["sources"], bundle["data"]
    written = os.path.join(directory, ".modules")
    if sources:
        importer.write_out(sources, data, written)
        sys.path.insert(1, written)
    return importer.install(sources, written)


def _unpickle(pickled: bytes, modules: importer.BundleImporter) -> dict[str, Any]:
    """The contents of a bundle.

    A module of the user's that can't be imported here is no hindrance, if they can do without.
    """
    first: Exception | None = None
    while True:
        try:
            contents: dict[str, Any] = pickle.loads(pickled)
        except Exception as exc:
            first = first or exc
            if modules.tolerate(exc):
                continue
            raise first from None
        modules.insist()
        return contents


def _end_strays(error: BaseException | None) -> None:
    """End a process that the user's code has forked, and that came back to us."""
    if not forks.is_ours():
        forks.leave(error)


def _traceback_of(exc: BaseException) -> str:
    """The traceback, without the frames that are ours."""
    here = os.path.dirname(__file__)
    while exc.__traceback__ is not None and (
        exc.__traceback__.tb_frame.f_code.co_filename.startswith(here)
    ):
        exc.__traceback__ = exc.__traceback__.tb_next
    context.explain(exc)
    return "".join(traceback.format_exception(exc))
