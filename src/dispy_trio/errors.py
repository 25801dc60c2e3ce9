"""One tree of errors. Each names the thing it is about and survives pickling.

Whose fault an error is can be read from its class: a `LocalError` means this program misused the
library, a `RemoteError` that the other side or the user's job did something, a `ClosedError` that
we closed the thing ourselves, a `BrokenError` that it died.

Every class takes its parts as positional arguments and keeps them in ``args``: that is what lets
an exception cross a process border.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BrokenError",
    "ClosedError",
    "ClusterClosed",
    "ClusterFailed",
    "ConnectError",
    "ConnectionLost",
    "DispyError",
    "IllegalMove",
    "JobAbandoned",
    "JobCancelled",
    "JobFailed",
    "JobTerminated",
    "LocalError",
    "OutboxFull",
    "PickleArgumentError",
    "PortInUse",
    "ProtocolError",
    "PythonMismatch",
    "RemoteError",
    "RemoteTraceback",
    "ResultUnpicklable",
    "SecretFileError",
    "VersionMismatch",
    "innermost",
]


class DispyError(Exception):
    """Root of everything this library raises on purpose."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


class LocalError(DispyError):
    """This program used the library in a way that can't work."""


class RemoteError(DispyError):
    """The other side, or the user's job there, did something we can't accept."""


class ClosedError(DispyError):
    """The thing was closed by us before."""


class BrokenError(DispyError):
    """The thing died under us."""


class PickleArgumentError(LocalError, TypeError):
    """An argument of a job, or a part of a computation, can't be pickled."""


class SecretFileError(LocalError):
    """The secret file can't be read, can't be made, or others may read it."""


class PortInUse(LocalError):
    """The address to listen on is taken."""


class IllegalMove(LocalError):
    """A state machine was asked for a move its table does not hold."""


class ConnectError(BrokenError):
    """A peer could not be reached; the text names it and the reason."""


class ConnectionLost(BrokenError):
    """An established session ended without a goodbye."""


class OutboxFull(BrokenError):
    """A peer reads too slowly: more bytes wait for it than the bound allows."""


class ProtocolError(RemoteError):
    """A peer sent bytes that are no legal message at this point."""


class AuthenticationError(RemoteError):
    """The peer does not know our secret, or we do not know its."""


class VersionMismatch(RemoteError):
    """The peer speaks another version of the wire protocol."""


class PythonMismatch(RemoteError):
    """The peer runs another minor version of Python, so pickles may not survive."""


class RemoteTraceback(Exception):
    """Carries the text of a traceback from another process, as the cause of an exception."""

    def __str__(self) -> str:
        return "\n\n" + str(self.args[0])


class JobFailed(RemoteError):
    """The job raised an exception that can't be rebuilt here; the text is its traceback there."""


class JobTerminated(RemoteError):
    """The job's process ended before the job did: by a signal, by exit, or by the memory limit."""


class JobCancelled(RemoteError):
    """The job was cancelled."""


class JobAbandoned(BrokenError):
    """The job's node was lost and the job may not be run twice."""


class ResultUnpicklable(RemoteError):
    """The job's result arrived but can't be unpickled here."""


class ClusterClosed(ClosedError):
    """The cluster does not take jobs any more."""


class ClusterFailed(BrokenError):
    """The cluster's own machinery failed; its cause is the group of what went wrong."""


def innermost(exc: BaseException) -> BaseException:
    """The first error in a group, and in the groups within; any other error is it itself."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
