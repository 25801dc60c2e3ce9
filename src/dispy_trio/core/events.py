"""What machines are told. Past tense, because it has happened."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from dispy_trio import messages
from dispy_trio.models import Job

__all__ = [
    "BulkJobReceived",
    "BundleReceived",
    "CloseRequested",
    "ComputationAdded",
    "JobCancelRequested",
    "JobsSubmitted",
    "MessageReceived",
    "NodeConnected",
    "NodeDisconnected",
    "NodeLost",
    "SessionClosed",
    "SessionConnected",
    "SessionDisconnected",
    "TemplateClosed",
    "Tick",
]


@frozen
class Tick:
    """The deadline the machine asked for has come."""


# --- told to a ClusterMachine ------------------------------------------------------------------
@frozen
class ComputationAdded:
    """There is a computation to run jobs of."""

    computation: int


@frozen
class JobsSubmitted:
    """The queue of a computation, found empty before, holds jobs."""


@frozen
class JobCancelRequested:
    """A user wants this job to end."""

    job: Job


@frozen
class CloseRequested:
    """The computation is over: let its jobs end, or with `terminate` end them."""

    computation: int
    terminate: bool


@frozen
class NodeConnected:
    """A session with a node stands; `state` is its first message."""

    node: str
    """Key of the roster: the address as it was asked for."""
    incarnation: str
    state: messages.SessionState


@frozen
class NodeDisconnected:
    """The session broke; it may come back, so nothing is decided yet."""

    node: str
    reason: str


@frozen
class NodeLost:
    """The node is dead, or unreachable for longer than anyone should wait."""

    node: str
    reason: str


@frozen(eq=False)
class MessageReceived:
    """A message of an established session."""

    source: str
    """Key of the node, or at a node the session's id."""
    message: messages.Message


# --- told to a NodeMachine ---------------------------------------------------------------------
@frozen
class SessionConnected:
    """A client stands at the door, authenticated; perhaps it was here before."""

    session: str
    peer: str


@frozen(eq=False)
class BundleReceived:
    """A computation whose bundle came over the bulk connection is complete."""

    session: str
    message: messages.OpenComputation
    bundle: Any


@frozen(eq=False)
class BulkJobReceived:
    """A large job is complete; its segment is the machine's from here."""

    session: str
    message: messages.RunBulkJob
    segment: int


@frozen
class SessionDisconnected:
    """Its connection ended without goodbye. Its jobs run on and its results wait."""

    session: str


@frozen
class SessionClosed:
    """It said goodbye: whatever is left of it can go."""

    session: str


@frozen
class TemplateClosed:
    """A computation's processes are gone and its directory is released."""

    session: str
    computation: int
