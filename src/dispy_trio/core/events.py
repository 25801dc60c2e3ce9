"""What machines are told. Past tense, because it has happened.

They are neither compared nor shown: the methods for that would be made, class by class, at the start
of every process.
"""

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
    "JobGivenUp",
    "JobQueued",
    "JobUnstarted",
    "JobWithheld",
    "JobsSubmitted",
    "LeaveRequested",
    "MessageReceived",
    "NodeAllocated",
    "NodeConnected",
    "NodeCpusSet",
    "NodeDeallocated",
    "NodeDisconnected",
    "NodeLost",
    "NodePrepared",
    "NodeRefused",
    "NodeRetired",
    "SessionClosed",
    "SessionConnected",
    "SessionDisconnected",
    "SessionReleased",
    "SlotsSet",
    "TemplateClosed",
    "TemplateRefused",
    "TerminateRequested",
    "Tick",
]


@frozen(eq=False, repr=False)
class Tick:
    """The deadline the machine asked for has come."""


# --- told to a ClusterMachine ------------------------------------------------------------------
@frozen(eq=False, repr=False)
class ComputationAdded:
    """There is a computation to run jobs of."""

    computation: int


@frozen(eq=False, repr=False)
class JobsSubmitted:
    """The queue of a computation, found empty before, holds jobs."""


@frozen(eq=False, repr=False)
class JobQueued:
    """A job with extras waits: it has its own place in the order, and is in no queue yet."""

    job: Job


@frozen(eq=False, repr=False)
class JobWithheld:
    """A job that was to be sent could not be: its files did not arrive, or it was cancelled."""

    node: str
    job: Job
    attempt: int
    text: str
    """Empty when the connection was lost: it may be sent again."""


@frozen(eq=False, repr=False)
class JobCancelRequested:
    """A user wants this job to end."""

    job: Job
    reason: str = ""
    """Why, if that was said."""


@frozen(eq=False, repr=False)
class JobGivenUp:
    """A job was cancelled, and its node has not told of its end for so long that nobody waits on."""

    job: Job
    reason: str


@frozen(eq=False, repr=False)
class CloseRequested:
    """The computation is over: let its jobs end, or with `terminate` end them."""

    computation: int
    terminate: bool


@frozen(eq=False, repr=False)
class NodeConnected:
    """A session with a node stands; `state` is its first message."""

    node: str
    """Key of the roster: the address as it was asked for."""
    incarnation: str
    state: messages.SessionState


@frozen(eq=False, repr=False)
class NodeDisconnected:
    """The session broke; it may come back, so nothing is decided yet."""

    node: str
    reason: str


@frozen(eq=False, repr=False)
class NodeLost:
    """The node is dead, or unreachable for longer than anyone should wait."""

    node: str
    reason: str
    for_good: bool = False
    """It refuses us, and no waiting changes that: it has another secret, say."""


@frozen(eq=False, repr=False)
class NodePrepared:
    """A node has the files that the computation needs, and may be told to open it."""

    node: str
    computation: int
    incarnation: str
    cpus: int
    """Slots to use there, at most; 0 for all."""
    options: messages.ComputationOptions


@frozen(eq=False, repr=False)
class NodeRefused:
    """A node is not to run the computation: nobody allocated it, or its files did not arrive."""

    node: str
    computation: int
    incarnation: str
    text: str
    """Empty when that is what the user wants."""


@frozen(eq=False, repr=False)
class NodeAllocated:
    """A node that was deallocated, retired or refused may be used again."""

    node: str


@frozen(eq=False, repr=False)
class NodeDeallocated:
    """Give the node no new jobs; what it has stays."""

    node: str


@frozen(eq=False, repr=False)
class NodeRetired:
    """Close the computation on one node; with `again` it is then prepared and opened anew."""

    node: str
    computation: int
    terminate: bool
    again: bool


@frozen(eq=False, repr=False)
class NodeCpusSet:
    """Use that many slots of the node; negative leaves that many of its slots free."""

    node: str
    computation: int
    cpus: int


@frozen(eq=False, repr=False)
class MessageReceived:
    """A message of an established session."""

    source: str
    """Key of the node, or at a node the session's id."""
    message: messages.Message


# --- told to a NodeMachine ---------------------------------------------------------------------
@frozen(eq=False, repr=False)
class SessionConnected:
    """A client stands at the door, authenticated; perhaps it was here before."""

    session: str
    peer: str


@frozen(eq=False, repr=False)
class BundleReceived:
    """A computation whose bundle came over the bulk connection is complete."""

    session: str
    message: messages.OpenComputation
    bundle: Any


@frozen(eq=False, repr=False)
class BulkJobReceived:
    """A large job is complete; its segment is the machine's from here."""

    session: str
    message: messages.RunBulkJob
    segment: int


@frozen(eq=False, repr=False)
class SessionDisconnected:
    """Its connection ended without goodbye. Its jobs run on and its results wait."""

    session: str


@frozen(eq=False, repr=False)
class SessionClosed:
    """It said goodbye: whatever is left of it can go."""

    session: str


@frozen(eq=False, repr=False)
class SessionReleased:
    """Whoever runs the node does not wait for this client to come back."""

    session: str


@frozen(eq=False, repr=False)
class SlotsSet:
    """The node is to have that many slots from now on; with none it takes no new jobs."""

    slots: int


@frozen(eq=False, repr=False)
class LeaveRequested:
    """Say `NodeFinished` when the jobs that run have ended, or with `computations` when all
    computations are closed."""

    computations: bool


@frozen(eq=False, repr=False)
class TerminateRequested:
    """Stop all jobs that run."""


@frozen(eq=False, repr=False)
class TemplateRefused:
    """A computation's process can't be started now; it is tried again in a moment."""

    session: str
    computation: int


@frozen(eq=False, repr=False)
class TemplateClosed:
    """A computation's processes are gone and its directory is released."""

    session: str
    computation: int


@frozen(eq=False, repr=False)
class JobUnstarted:
    """A job that was to be told of as running has not begun: its worker is slow to wake."""

    session: str
    computation: int
    worker: int
    sequence: int
