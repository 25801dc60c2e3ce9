"""The engine beneath both kinds of cluster: one computation, its nodes, and the scheduling core.

It runs in a Trio nursery: one task per node that keeps a session with it, and the core's timer.
`open_engine` is its life; leaving that block ends the computation on every node and waits until
nothing of it is left there.
"""

from __future__ import annotations

import logging
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_never

import trio
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.jobs import UserJob
from dispy_trio.client.link import NodeLink
from dispy_trio.compute.packaging import (
    pack_computation,
)
from dispy_trio.config import DEFAULT_PORT, PULSE_INTERVAL
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.cluster import ClusterEvent, ClusterMachine, ComputationRecord
from dispy_trio.errors import ClusterFailed, ConnectError
from dispy_trio.models import ClusterStatus, Job
from dispy_trio.protocol.auth import NONCE_SIZE, PROTOCOL_VERSION, Hello, Kind, Role
from dispy_trio.runtime.host import Host
from dispy_trio.runtime.net import TcpNet
from dispy_trio.runtime.secret import Secret, load_secret

__all__ = [
    "ClusterSettings",
    "Doors",
    "Engine",
    "make_opening",
    "open_engine",
    "parse_node",
]

log = logging.getLogger("dispy_trio")

LEAD_SECONDS = 0.005
"""How long a thread that waits for a lone job reads for its result itself."""
COMPLAIN_AFTER = 3.0
GOODBYE_GRACE = 1.0
CLOSE_GRACE = 5.0
"""Seconds that nodes have to tell that nothing is left; then we leave and say who did not."""


def parse_node(text: str) -> tuple[str, int]:
    """Split ``host``, ``host:port`` or ``[ipv6]:port``.

    Raises:
        ValueError: names what is wrong with it.
    """
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1], DEFAULT_PORT
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"node {text!r} is not of the form host or host:port")
    return host, int(port)


@define
class ClusterSettings:
    """What both kinds of cluster are made with."""

    nodes: Sequence[str] | None = None
    cpus: int = 0
    name: str | None = None
    reentrant: bool = False
    secret_file: str | None = None
    pulse_interval: float = PULSE_INTERVAL
    connect_timeout: float | None = None


@define(eq=False)
class Doors:
    """What a client is given of the outside world: network, secret, and random hex digits."""

    net: seams.Net
    secret: Secret
    draw_token: Callable[[int], str]


def real_doors(settings: ClusterSettings) -> Doors:
    """The doors of a real machine.

    Raises:
        SecretFileError: the secret can't be had.
    """
    return Doors(
        TcpNet(),
        load_secret(settings.secret_file),
        lambda digits: secrets.token_hex(digits // 2),
    )


@define(eq=False)
class Engine:
    """One computation on its nodes, run inside a Trio nursery.

    All methods are called on the Trio thread, but for `queue`, to which any thread may append.
    """

    settings: ClusterSettings
    doors: Doors
    session: str
    on_ended: Callable[[Sequence[Job], bool], None]
    """Told of all jobs that ended, after their waiters, and whether they had ended before."""
    embedded: EmbeddedNode | None = None
    queue: deque[Job] = field(factory=deque)
    wants_jobs: bool = True
    """The core would send a job at once: whoever appends to the queue must say `wake`."""
    machine: ClusterMachine = field(factory=ClusterMachine)
    host: Host[ClusterEvent, c.ClusterCommand] = field(init=False)
    links: dict[str, NodeLink] = field(factory=dict)
    closed: trio.Event = field(factory=trio.Event)
    clock: trio.abc.Clock = field(factory=trio.lowlevel.current_clock)
    _ended: trio.Event = field(factory=trio.Event)
    _life: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True))
    usable: trio.Event = field(factory=trio.Event)
    """A node is ready to run jobs."""
    troubles: dict[str, str] = field(factory=dict)
    """Node to reason, of the nodes that can't be used now."""

    def __attrs_post_init__(self) -> None:
        self.host = Host(self.machine, self._perform)

    def open(self, opening: messages.OpenComputation) -> None:
        """Add the computation. Nodes that connect from now on are given it."""
        self.machine.computations[1] = ComputationRecord(
            opening, self.queue, reentrant=self.settings.reentrant
        )
        self.host.feed(e.ComputationAdded(1))

    def wake(self) -> None:
        """There are jobs in the queue."""
        for link in self.links.values():
            link.end_lead()
        self._feed(e.JobsSubmitted())

    def wake_from_thread(self) -> bool:
        """As `wake`, from the user's thread; False when the engine's thread has to `resume`."""
        done = self.host.feed_from_thread(
            e.JobsSubmitted(), self.clock.current_time(), self._perform_here
        )
        return bool(done) and not any(link.is_backed_up for link in self.links.values())

    def resume(self) -> None:
        """Do what `wake_from_thread` left, or all of it when the core was busy."""
        self.host.resume()
        for link in self.links.values():
            link.flush()
        self.wake()

    def lead(self, job: UserJob[Any], later: Callable[..., None]) -> None:
        """Read for the result of a lone job on the user's thread, for a moment."""
        if job.node is None or (link := self.links.get(job.node)) is None:
            return
        key = job.node

        def take(message: messages.JobsFinished) -> None:
            event = e.MessageReceived(key, message)
            done = self.host.feed_from_thread(event, self.clock.current_time(), self._perform_here)
            if done is None:
                later(self._feed, event)
            elif not done:
                later(self.resume)

        link.lead(take, later, lambda: job.ended, LEAD_SECONDS)

    def _perform_here(self, command: c.ClusterCommand) -> bool:
        if isinstance(command, c.AnnounceEnded):
            self._announce(command.jobs, command.again)
            return True
        if not isinstance(command, c.Send) or not isinstance(command.message, messages.RunJobs):
            return False
        link = self.links.get(command.target)
        return link is not None and link.try_send(command.message)

    def cancel(self, job: Job) -> None:
        """Stop a job, waiting or running."""
        self._feed(e.JobCancelRequested(job))

    def close(self, *, terminate: bool) -> None:
        """Let the jobs end, or end them; `closed` is set when nothing is left on any node."""
        self._feed(e.CloseRequested(1, terminate))

    def _feed(self, event: ClusterEvent) -> None:
        self.host.feed(event)
        if not self.queue:
            self.wants_jobs = True
            if self.queue:
                # A job was submitted between the two lines above, by one who saw the flag unset.
                self.host.feed(e.JobsSubmitted())

    # --- what the core commands ----------------------------------------------------------------
    def _perform(self, command: c.ClusterCommand) -> None:
        match command:
            case c.AnnounceEnded(jobs=jobs, again=again):
                self._announce(jobs, again)
                self._ended.set()
            case c.Send(target=key, message=message):
                if (link := self.links.get(key)) is not None:
                    link.send(message)
            case c.SendBulkJob(node=key, job=job):
                if (link := self.links.get(key)) is not None:
                    link.send_bulk_job(command.computation, job)
            case c.AnnounceStarted():
                pass  # The status is in the record; nobody waits for it yet.
            case c.AnnounceNode(node=key, usable=usable, reason=reason):
                if usable:
                    self.troubles.pop(key, None)
                    self.usable.set()
                elif reason != "closed":
                    self.troubles[key] = reason
                    log.warning("node %s: %s", key, reason)
            case c.AnnounceFailed(reason=reason):
                log.error("%s", reason)
            case c.CloseComplete():
                self.closed.set()
            case _:
                assert_never(command)

    def _announce(self, jobs: Sequence[Any], again: bool) -> None:
        for job in jobs:
            if job.size and job.node is not None:
                self.links[job.node].take_back(job.number)
            if job.waiters is not None:
                job.announce()
        self.on_ended(jobs, again)

    # --- tasks ---------------------------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a session with every node until cancelled."""
        # Cancelled by `open_engine` alone, when all is said to the nodes that they need to hear:
        # a caller's cancellation reaches the caller's block, which then shuts the engine down.
        with self._life:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.host.run_timer, e.Tick())
                if self.embedded is not None:
                    nursery.start_soon(self._keep_embedded, self.embedded)
                else:
                    for text in dict.fromkeys(self.settings.nodes or ()):
                        self._add_node(nursery, *parse_node(text))
                    nursery.start_soon(self._complain)
                task_status.started()

    def stop(self) -> None:
        """End all tasks, at once."""
        self._life.cancel()

    def _add_node(self, nursery: trio.Nursery, host: str, port: int) -> None:
        key = f"{host}:{port}"
        if key in self.links:
            return
        link = self.links[key] = NodeLink(
            key=key,
            host=host,
            port=port,
            net=self.doors.net,
            secret=self.doors.secret.value,
            draw_token=self.doors.draw_token,
            make_hello=self._hello,
            pulse_interval=self.settings.pulse_interval,
            feed=self._feed,
            troubles=self.troubles,
        )
        nursery.start_soon(link.run)

    def _hello(self, role: Role, kind: Kind) -> Hello:
        return Hello(
            PROTOCOL_VERSION,
            sys.version_info[:2],
            role,
            kind,
            self.session,
            bytes.fromhex(self.doors.draw_token(2 * NONCE_SIZE)),
        )

    async def _keep_embedded(self, embedded: EmbeddedNode) -> None:
        lifeline = trio.socket.from_stdlib_socket(embedded.lifeline)
        line = b""
        while not line.endswith(b"\n"):
            data = await lifeline.recv(100)
            if not data:
                raise ConnectError(
                    "the embedded local node ended before it was up; what it said is on stderr"
                )
            line += data
        log.info("no nodes named: using an embedded local node at %s", line.decode().strip())
        async with trio.open_nursery() as nursery:
            self._add_node(nursery, *parse_node(line.decode().strip()))

    async def _complain(self) -> None:
        """Say once, after 3 s, which nodes can't be used and why; they are retried meanwhile."""
        await trio.sleep(COMPLAIN_AFTER)
        for key, reason in self.troubles.items():
            log.warning("node %s is not usable: %s (retrying)", key, reason)

    async def wait_usable(self, timeout: float) -> None:
        """Wait for a first node that can run jobs.

        Raises:
            ConnectError: none came in time; names each with its reason.
        """
        with trio.move_on_after(timeout) as scope:
            await self.usable.wait()
        if scope.cancelled_caught:
            reasons = "; ".join(self.troubles.values())
            raise ConnectError(f"no node is usable after {timeout:g} s: {reasons or 'no answer'}")

    async def shut_down(self, *, terminate: bool) -> None:
        """End the computation everywhere and say goodbye; bounded by `CLOSE_GRACE`."""
        self.close(terminate=terminate)
        with trio.move_on_after(CLOSE_GRACE if terminate else float("inf")) as scope:
            await self.closed.wait()
        if scope.cancelled_caught:
            left = [n.key for n in self.machine.nodes.values() if n.memberships]
            log.warning("nodes %s did not confirm that nothing is left there", ", ".join(left))
        with trio.move_on_after(GOODBYE_GRACE):
            for link in self.links.values():
                await link.leave()

    async def wait_drained(self) -> None:
        """Wait until no job is queued or sent."""
        while self.status().jobs_pending:
            self._ended = trio.Event()
            await self._ended.wait()

    def status(self) -> ClusterStatus:
        """The nodes and the number of jobs queued or sent."""
        record = self.machine.computations[1]
        return ClusterStatus(self.machine.node_infos(), len(record.queue) + record.outstanding)


@asynccontextmanager
async def open_engine(
    opening: messages.OpenComputation,
    settings: ClusterSettings,
    on_ended: Callable[[Sequence[Job], bool], None],
    embedded: EmbeddedNode | None = None,
    doors: Doors | None = None,
) -> AsyncIterator[Engine]:
    """Run an engine round a block; leaving it closes the computation everywhere."""
    doors = doors or real_doors(settings)
    engine = Engine(
        settings=settings,
        doors=doors,
        session=doors.draw_token(32),
        on_ended=on_ended,
        embedded=embedded,
    )
    engine.open(opening)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            try:
                if settings.connect_timeout is not None:
                    await engine.wait_usable(settings.connect_timeout)
                yield engine
            except BaseException as exc:  # noqa: ASYNC103
                # Raised below: the nursery would wrap what is the caller's into a group.
                error = exc
            if error is None:
                try:
                    await engine.shut_down(terminate=False)
                except BaseException as exc:  # noqa: ASYNC103
                    error = exc
            if error is not None:
                # Bounded, so that a cancelled program ends.
                with trio.CancelScope(shield=True):
                    await engine.shut_down(terminate=True)
            engine.stop()
    except BaseExceptionGroup as group:
        ours, others = group.split(Exception)
        if ours is None or others is not None:
            raise
        raise ClusterFailed(f"the cluster failed: {_innermost(ours)}") from group
    finally:
        if embedded is not None:
            embedded.end()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(embedded.wait, CLOSE_GRACE)
    if error is not None:
        raise error


def _innermost(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _innermost(first) if isinstance(first, BaseExceptionGroup) else first


def make_opening(
    computation: Callable[..., Any], settings: ClusterSettings
) -> messages.OpenComputation:
    """Pack the computation.

    Raises:
        PickleArgumentError: names the part that can't be pickled.
    """
    bundle = pack_computation(computation)
    return messages.OpenComputation(
        computation=1,
        name=settings.name or bundle.name,
        digest=bundle.digest,
        bundle=bundle.data,
        blob=0,
        options={},
    )
