"""What may be done to a node while it runs: by its console, its service hours and its signals."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from dispy_trio.models import SlotHolder

__all__ = ["NodeControl", "NodeReport"]


@frozen
class NodeReport:
    """A node at one moment."""

    name: str
    address: str
    """``host:port``"""
    cpus: int
    """Slots in use."""
    available: int
    """Slots it was started with."""
    busy: int
    """Jobs that run."""
    jobs_done: int
    clients: list[str]
    """Addresses of the clients it serves, also of those that are away."""
    computations: list[str]
    """Their names."""
    stopping: bool
    holders: list[SlotHolder] = field(factory=list)
    """Clients that take slots, those that are away first."""


@define(eq=False)
class NodeControl:
    """The handles of a running node. All are called on its Trio thread and return at once."""

    host: str
    port: int
    set_cpus: Callable[[int], int]
    """Use that many slots; 0 takes no new jobs, negative leaves that many free. What runs goes on.
    Returns the slots in use from now on.

    Raises:
        LocalError: there are not so many.
    """
    terminate_jobs: Callable[[], None]
    """End the jobs that run; their clients get them as terminated. Takes no slot away: without a
    `set_cpus(0)` before it, the next jobs start."""
    drain: Callable[[], None]
    """Take no new jobs, let those that run end, deliver their results, and end the node."""
    leave: Callable[[], None]
    """Take no new clients, and end the node when the computations that are open are closed."""
    quit: Callable[[], None]
    """End the node now, and all that runs on it."""
    release: Callable[[str], int]
    """Forget clients that are away; returns how many. Empty for all that have nothing running,
    ``all`` for all, or a client's address, with or without its port: their jobs end then.

    Raises:
        LocalError: no such client is away.
    """
    report: Callable[[], NodeReport]
