"""The cluster that a command runs on: what its options say about nodes, trust and patience."""

from __future__ import annotations

import errno
import ipaddress
import logging
import math
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

import dispy_trio
from dispy_trio.cli.saying import remark
from dispy_trio.cli.vocabulary import CONNECT_TIMEOUT, SECRET_SEEN
from dispy_trio.client.nodes import to_allocation
from dispy_trio.client.tables import status_lines
from dispy_trio.errors import DispyError, LocalError

__all__ = ["ClusterOptions", "check_readers", "open_cluster", "show_status", "submitter"]

log = logging.getLogger("dispy_trio")


@frozen
class ClusterOptions:
    """Where jobs run, and what they need."""

    nodes: Sequence[str] = ()
    depends: Sequence[Path] = ()
    timeout: float | None = None
    """Seconds that a job may take."""
    connect_timeout: float = CONNECT_TIMEOUT
    """Seconds."""
    status: bool = False
    secret_file: Path | None = None
    secret: str = ""
    certfile: Path | None = None
    keyfile: Path | None = None

    def check(self) -> None:
        """Look at all that can be told to be wrong before anything is started.

        Raises:
            LocalError: names the option and what is wrong with it.
        """
        if self.secret and self.secret_file is not None:
            raise LocalError("--secret and --secret-file: give one of them")
        if self.keyfile is not None and self.certfile is None:
            raise LocalError("--keyfile: needs --certfile")
        for name, seconds in (
            ("--timeout", self.timeout),
            ("--connect-timeout", self.connect_timeout),
        ):
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise LocalError(f"{name}: must be more than 0 seconds, not {seconds}")
        for name, paths in (
            ("--depends", self.depends),
            ("--certfile", [self.certfile]),
            ("--keyfile", [self.keyfile]),
        ):
            for path in paths:
                if path is not None and not path.is_file():
                    raise LocalError(f"{name}: {path} is not a file")
        self._check_nodes()

    def _check_nodes(self) -> None:
        try:
            nodes = [to_allocation(text) for text in self.nodes]
        except ValueError as exc:
            raise LocalError(f"--node: {exc}") from exc
        reasons = []
        for text, node in zip(self.nodes, nodes, strict=True):
            reason = "" if node.is_pattern else _why_unresolved(node.host)
            if not reason:
                return  # Of those that do not resolve the cluster warns, and uses the others.
            reasons.append(f"{text}: {reason}")
        if reasons:
            raise LocalError(f"--node: {'; '.join(reasons)}")


def _why_unresolved(host: str) -> str:
    """Why a host's name has no address; empty when it has."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return ""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        return str(getattr(exc, "strerror", None) or exc)
    return ""


def open_cluster(
    options: ClusterOptions, computation: Callable[..., Any] | str, **more: Any
) -> Any:
    """A `JobCluster` with a node that can be used.

    Args:
        options: of the command line, checked.
        computation: what it runs.
        more: other arguments of `JobCluster`.

    Raises:
        LocalError: an argument can't be used; says which, and why.
        DispyError: no node can be used.
    """
    make: Any = dispy_trio.JobCluster
    sys.set_int_max_str_digits(0)  # Results are the user's own, and may be any number.
    if options.secret:
        log.warning("%s", SECRET_SEEN)
    try:
        return make(
            computation,
            nodes=list(options.nodes) or None,
            depends=[str(path) for path in options.depends],
            secret=options.secret,
            secret_file=_text(options.secret_file),
            certfile=_text(options.certfile),
            keyfile=_text(options.keyfile),
            connect_timeout=options.connect_timeout,
            **more,
        )
    except DispyError:
        raise
    except (TypeError, ValueError) as exc:
        raise LocalError(str(exc)) from exc


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def submitter(cluster: Any, **options: Any) -> Callable[..., Any]:
    """What submits jobs with these options; those that are not given cost nothing."""
    given = {name: value for name, value in options.items() if value}
    submit: Callable[..., Any] = (cluster.options(**given) if given else cluster).submit
    return submit


def show_status(cluster: Any, seconds: float) -> None:
    """Show a table of the nodes on stderr.

    Args:
        cluster: whose nodes.
        seconds: that it was used for.
    """
    for line in status_lines(cluster.status(), seconds):
        remark(line)


def check_readers(live: Any) -> None:
    """See that somebody reads what we write, however long nothing is written.

    Args:
        live: what shows the output of jobs while they run, if anything does.

    Raises:
        BrokenPipeError: whoever read it has seen enough (``| head``).
        DispyError: stdout or stderr can't be written; says why.
    """
    for failure in list(live.failures.values()) if live is not None else ():
        if isinstance(failure, BrokenPipeError):
            raise failure
        raise DispyError(f"what jobs print can't be shown: {failure}")
    stdout = select.poll()
    stdout.register(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1, 0)
    if any(events & select.POLLERR for _, events in stdout.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
