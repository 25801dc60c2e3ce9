"""How commands end: exit statuses, and the one line that an error is told in."""

from __future__ import annotations

import typer

from dispy_trio.errors import (
    AuthenticationError,
    ClusterFailed,
    ConnectError,
    DispyError,
    LocalError,
    PythonMismatch,
    VersionMismatch,
    innermost,
)

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "STATUSES",
    "UsageError",
    "explain",
    "explain_usage",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

STATUSES = (
    "Exit status: 0: all went well; 1: something failed; 2: the command line is wrong; 3: no node"
    " can be used; 130: Ctrl-C."
)
"""For the help of commands that use a cluster."""

# By way of what Typer exports: it brings a Click of its own, or uses the one that is installed.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises about words that are no option, or no value of one."""


def explain_usage(exc: Exception) -> str:
    """The line that tells what is wrong with the command line."""
    text = " ".join(exc.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(exc, "ctx", None)
    return text if context is None else f"{text}; {context.command_path} -h tells more"


def explain(exc: DispyError) -> tuple[int, str]:
    """The exit status that stands for an error, and what to say of it."""
    reason = _find_reason(exc)
    match reason:
        case LocalError():
            status = EXIT_USAGE
        case ConnectError() | AuthenticationError() | VersionMismatch() | PythonMismatch():
            # Whatever keeps the nodes from being used, there is none.
            status = EXIT_UNREACHABLE
        case _:
            status = EXIT_FAILED
    return status, str(reason)


def _find_reason(exc: DispyError) -> DispyError:
    """What made a cluster fail: it carries that as a group of what went wrong."""
    if isinstance(exc, ClusterFailed) and exc.__cause__ is not None:
        cause = innermost(exc.__cause__)
        if isinstance(cause, DispyError):
            return _find_reason(cause)
    return exc
