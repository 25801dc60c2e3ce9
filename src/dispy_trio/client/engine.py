"""The engine beneath both kinds of cluster: one computation, its nodes, and the scheduling core.

It runs in a Trio nursery: one task per node that keeps a session with it, and the core's timer.
`open_engine` is its life; leaving that block ends the computation on every node and waits until
nothing of it is left there.
"""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import trio
from attrs import define, evolve, field

from dispy_trio import messages, seams
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.jobs import UserJob
from dispy_trio.client.keeping import Keeper, see_off
from dispy_trio.client.link import NodeLink
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import (
    Allocation,
    ClusterStatus,
    DispyNode,
    NodeAllocate,
    NodeChoice,
    allocate,
    is_meant,
    node_key,
    unmatched_text,
)
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.client.troubles import Troubles
from dispy_trio.client.unseen import Unseen, look_at
from dispy_trio.compute.depends import to_job_file
from dispy_trio.compute.descriptors import raise_limit
from dispy_trio.compute.packaging import pack_setup_arguments
from dispy_trio.core import commands as c
from dispy_trio.core import events as e
from dispy_trio.core.aside import seconds_left
from dispy_trio.core.cluster import ClusterEvent, ClusterMachine, ComputationRecord
from dispy_trio.core.nodes import NodeRecord, NodeState
from dispy_trio.core.placement import NEVER_READY
from dispy_trio.errors import (
    ClusterClosed,
    ClusterFailed,
    ConnectError,
    ConnectionLost,
    DispyError,
    innermost,
)
from dispy_trio.logs import log
from dispy_trio.models import Job, JobFile
from dispy_trio.protocol.auth import NONCE_SIZE, PROTOCOL_VERSION, Hello, Kind, Role
from dispy_trio.runtime.host import Host
from dispy_trio.runtime.net import TcpNet
from dispy_trio.runtime.secret import Secret, choose_secret
from dispy_trio.runtime.threads import run_in_thread

if TYPE_CHECKING:
    from dispy_trio.client.progress import Counter

__all__ = ["Doors", "Engine", "open_engine"]

LEAD_SECONDS = 0.005
"""How long a thread that waits for a lone job reads for its result itself."""
REMIND_SECONDS = 60.0
"""How often it is told what jobs wait for, while no node can run them."""
GOODBYE_GRACE = 1.0
CLOSE_GRACE = 5.0
"""Seconds that nodes have to tell that nothing is left; then we leave and say who did not."""
STATUS_GRACE = 5.0
"""Seconds that a node has to tell what is free on it, when that decides whether it is used."""


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
        LocalError: the certificate can't be used.
    """
    certfile = Path(settings.certfile) if settings.certfile else None
    keyfile = Path(settings.keyfile) if settings.keyfile else None
    # Large arguments that wait, and streams of files, take one each.
    raise_limit()
    net = TcpNet(certfile=certfile, keyfile=keyfile)
    net.check_certificate()
    return Doors(
        net,
        choose_secret(text=settings.secret, file=settings.secret_file, key=keyfile or certfile),
        lambda digits: secrets.token_hex(digits // 2),
    )


@define(eq=False)
class Engine:
    """One computation on its nodes, run inside a Trio nursery.

    All methods are called on the Trio thread, but for `queue`, to which any thread may append.
    """

    settings: ClusterSettings
    work: Work
    doors: Doors
    session: str
    listener: Listener
    find_owner: Callable[[], Any] = lambda: None
    """Finds the cluster, for `NodeAllocate.allocate`. It is not kept: nobody may refer to it."""
    allocations: list[NodeAllocate] = field(init=False)
    embedded: EmbeddedNode | None = None
    """The first one; `keeper` has the one that lives."""
    keeper: Keeper | None = field(default=None, init=False)
    queue: deque[Job] = field(factory=deque)
    wants_jobs: bool = True
    """The core would send a job at once: whoever appends to the queue must say `wake`. See `handle`."""
    machine: ClusterMachine = field(factory=ClusterMachine)
    host: Host[ClusterEvent, c.ClusterCommand] = field(init=False)
    links: dict[str, NodeLink] = field(factory=dict)
    closed: trio.Event = field(factory=trio.Event)
    clock: trio.abc.Clock = field(factory=trio.lowlevel.current_clock)
    _drained: trio.Event = field(factory=trio.Event)
    """Of those who wait now until no job is pending."""
    _life: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True))
    _patience: trio.CancelScope = field(factory=trio.CancelScope)
    """For the nodes to tell that nothing is left there; limited once jobs are to be stopped."""
    usable: trio.Event = field(factory=trio.Event)
    """A node is ready to run jobs, or none ever will be."""
    failure: str = ""
    """Why no node will be ready to run jobs, as long as all stays as it is."""
    troubles: Troubles = field(factory=Troubles)
    _dead: set[str] = field(factory=set)
    """The embedded nodes that were started before the one that lives."""

    running: trio.Event = field(factory=trio.Event)
    """It keeps sessions with the nodes."""
    has_ended: bool = False
    """It keeps no sessions any more."""
    unseen: Unseen = field(factory=Unseen)
    jobs_ended: int = 0
    """Jobs that have ended."""
    _nursery: trio.Nursery | None = None
    _preparing: dict[str, trio.CancelScope] = field(factory=dict)
    """Node to the task that prepares it."""
    _statuses: dict[str, trio.Event] = field(factory=dict)
    """Node to the event of its first status."""
    nodes: dict[str, DispyNode] = field(factory=dict)
    counters: list[Counter] = field(factory=list)
    """Of bars that are shown."""
    _told_of_unmatched: bool = False

    def __attrs_post_init__(self) -> None:
        self.host = Host(self, self._perform)
        if self.embedded is not None:
            self.keeper = Keeper(self.embedded, self._is_wanted, self._use_embedded, self._lose)
        self.allocations = list(self.settings.choice.allocations)
        self.machine.computations[1] = ComputationRecord(
            self.work.opening,
            self.queue,
            reentrant=self.settings.reentrant,
            options=self.settings.options,
        )

    def queue_aside(self, job: Job) -> None:
        """Queue a job with extras."""
        self._feed(e.JobQueued(job))

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
        if job.node_key is None or (link := self.links.get(job.node_key)) is None:
            return
        key = job.node_key

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
            self._announce(command.jobs, command.again, command.failed)
            return True
        if isinstance(command, c.AnnounceStarted):
            self.listener.started(command.jobs)
            return True
        if not isinstance(command, c.Send) or not isinstance(command.message, messages.RunJobs):
            return False
        link = self.links.get(command.target)
        return link is not None and link.try_send(command.message)

    def cancel(self, job: Job, reason: str = "") -> None:
        """Stop a job, waiting or running."""
        self._feed(e.JobCancelRequested(job, reason))

    def give_up_job(self, job: Job, reason: str) -> None:
        """End a cancelled job here, whatever becomes of it on its node."""
        self._feed(e.JobGivenUp(job, reason))

    def close(self, *, terminate: bool) -> None:
        """Let the jobs end, or end them; `closed` is set when nothing is left on any node."""
        if terminate:
            self.unseen.wanted = False  # What ends now has not failed.
        self._feed(e.CloseRequested(1, terminate))
        if terminate:
            for scope in self._preparing.values():
                scope.cancel()
            # Also when that is wanted only after a while of waiting for the jobs.
            self._patience.deadline = trio.current_time() + CLOSE_GRACE

    def _feed(self, event: ClusterEvent) -> None:
        self.host.feed(event)

    def handle(self, event: ClusterEvent, *, now: float) -> list[c.ClusterCommand]:
        """The core's own, for the host; on whatever thread that is, on one at a time.

        Jobs are appended meanwhile, and none may be left behind: from before the core looks at the
        queue whoever appends says `wake`. Only those behind a job for which there was no room need
        not: it and they are looked at when there is some. That there are jobs tells nothing: they
        may have come since the core has looked, from one who has yet to ask for `wants_jobs`.
        """
        self.wants_jobs = True
        commands = self.machine.handle(event, now=now)
        if self.queue and not self.machine.hungry:
            self.wants_jobs = False
        return commands

    def next_deadline(self) -> float:
        """The core's own, for the host."""
        return self.machine.next_deadline()

    # --- what the core commands ----------------------------------------------------------------
    def _perform(self, command: c.ClusterCommand) -> None:
        match command:
            case c.AnnounceEnded(jobs=jobs, again=again, failed=failed_jobs):
                self._announce(jobs, again, failed_jobs)
                self._tell_drained()
            case c.Send(target=key, message=message):
                if (link := self.links.get(key)) is not None:
                    link.send(message)
            case c.SendBulkJob(node=key, job=job):
                if (link := self.links.get(key)) is not None:
                    link.send_bulk_job(command.computation, job)
            case c.SendJobWithFiles():
                self._start(self._send_with_files, command)
            case c.PrepareNode(node=key, incarnation=incarnation):
                self._prepare(key, incarnation)
            case c.AnnounceStarted(jobs=jobs):
                self.listener.started(jobs)
            case c.AnnounceRequeued(node=key, jobs=jobs):
                self.listener.requeued(key, jobs)
            case c.AnnounceProvisional(job=job):
                self.listener.provisional(job)
            case c.AnnounceOutput(job=job, stdout=stdout, stderr=stderr):
                self.listener.written(job, stdout, stderr)
            case c.AnnounceStatus(node=key):
                self._statuses.setdefault(key, trio.Event()).set()
                self.node(key).update_time = time.time()
                self.listener.node_status(key)
            case c.AnnounceNode(node=key, usable=usable, reason=reason):
                if usable:
                    self.troubles.works(key)
                    self.failure = ""
                    self.usable.set()
                    self.listener.node_usable(key)
                else:
                    failed = self.machine.nodes[key].error is not None
                    if reason != "closed":
                        retried = not failed and key not in self._dead
                        self.troubles.note(key, reason, retried=retried)
                    self.listener.node_unusable(key, failed=failed)
            case c.AnnounceFailed(reason=reason):
                log.error("%s", reason)
                self.failure = reason
                self.usable.set()
            case c.AnnounceWaiting(text=text):
                log.warning("%s", text)
            case c.CloseComplete():
                self.closed.set()
            case _:
                assert_never(command)

    def _announce(self, jobs: Sequence[Any], again: bool, failed: Sequence[Any] | None) -> None:
        if again:
            # They were not lost after all, and the user has heard of them before.
            for job in jobs:
                look_at(job)
        else:
            self.jobs_ended += len(jobs)
            if failed := jobs if failed is None else failed:
                self.unseen.add(failed)
        self.listener.ending(jobs)
        for job in jobs:
            if job.size and job.node_key is not None:
                self.links[job.node_key].take_back(job.number)
            if job.waiters is not None:
                job.announce()
        self.listener.ended(jobs, again)
        for counter in self.counters:
            counter.ended(jobs, again)

    def node(self, key: str) -> DispyNode:
        """A node, as users see it."""
        if key not in self.nodes:
            self.nodes[key] = DispyNode(key, self.machine.nodes.get)
        return self.nodes[key]

    def _start(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        if self.has_ended:
            return  # It failed, and a block that is being left submits all the same.
        assert self._nursery is not None, "the engine runs when its core decides anything"
        self._nursery.start_soon(task, *args)

    def start_task(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task of a cluster's until the engine ends.

        Raises:
            ClusterClosed: it has ended.
        """
        if self.has_ended:
            raise ClusterClosed("the cluster is closed and takes no more jobs")
        self._start(task, *args)

    # --- preparing nodes -----------------------------------------------------------------------
    def _prepare(self, key: str, incarnation: str) -> None:
        """Decide whether and how to use a node, and put the files there that it needs."""
        if (old := self._preparing.pop(key, None)) is not None:
            old.cancel()
        plain = all(a.is_plain and not a.depends for a in self.allocations)
        if plain and not self.work.files:
            # Nothing to wait for, and nobody to wait: the first result comes sooner.
            self._settle(key, incarnation, self._allocate(self.machine.nodes[key]))
            return
        scope = self._preparing[key] = trio.CancelScope()
        self._start(self._prepare_slowly, key, incarnation, scope)

    def _allocate(self, record: NodeRecord) -> Allocation | None:
        if not self.allocations:
            return Allocation(record.offered, [], ())
        return allocate(self.allocations, self.find_owner(), record)

    def _settle(self, key: str, incarnation: str, allocation: Allocation | None) -> None:
        if allocation is None:
            self._feed(e.NodeRefused(key, 1, incarnation, ""))
            self._tell_of_unmatched()
            return
        try:
            arguments = pack_setup_arguments(allocation.setup_args, self.work.carried)
        except Exception as exc:
            # Whatever the user's own objects raise: it is about this node, not about the cluster.
            text = f"the setup_args of node {key} cannot be pickled: {exc}"
            self._feed(e.NodeRefused(key, 1, incarnation, text))
            return
        options = evolve(self.work.opening.options, arguments=arguments, cpus=allocation.cpus)
        self._feed(e.NodePrepared(key, 1, incarnation, allocation.cpus, options))

    def _tell_of_unmatched(self) -> None:
        """When nothing of what the user named is any of the nodes that are there, say so, once.

        Some patterns are of names, which only the nodes themselves know.
        """
        nodes = self.machine.nodes
        patterns = [a for a in self.allocations if a.is_pattern]
        if self._told_of_unmatched or self.machine.awaited or not patterns:
            return
        if not any(is_meant(self.allocations, record) for record in nodes.values()):
            self._told_of_unmatched = True
            known = [f"{record.key} ({record.name})" for record in nodes.values()]
            log.warning("%s", unmatched_text(patterns, known))

    @trio.lowlevel.enable_ki_protection
    async def _prepare_slowly(self, key: str, incarnation: str, scope: trio.CancelScope) -> None:
        failure = "the cluster was closed"
        allocation: Allocation | None = None
        with scope:
            try:
                allocation = await self._prepare_node(key)
                failure = ""
            except (ConnectionLost, ConnectError) as exc:
                # It is prepared anew when it is back. If it is there all the time, say so.
                await trio.sleep(1.0)
                failure = str(exc)
            except (DispyError, OSError, ValueError) as exc:
                failure = str(exc)
            except Exception:
                failure = traceback.format_exc()
        if self._preparing.get(key) is not scope:
            return
        del self._preparing[key]
        if failure:
            self._feed(e.NodeRefused(key, 1, incarnation, failure))
        else:
            self._settle(key, incarnation, allocation)

    async def _prepare_node(self, key: str) -> Allocation | None:
        record = self.machine.nodes[key]
        if not all(a.is_plain for a in self.allocations):
            with trio.move_on_after(STATUS_GRACE):
                await self._statuses.setdefault(key, trio.Event()).wait()
        # The user's own code: it may take its time, and pulses are not to wait for it.
        allocation = await run_in_thread(self._allocate, record, abandon_on_cancel=True)
        if allocation is None:
            return None
        files = list(self.work.files)
        files += [to_job_file(path, f"depends of node {key}") for path in allocation.depends]
        if files:
            record.sent += await self.put_files(key, files, 0)
        return allocation

    async def put_files(self, key: str, files: Sequence[JobFile], job: int) -> int:
        """Put files onto a node; returns the bytes sent. See `client.files.put_files`."""
        # Imported here and below: most programs send no files, and start sooner without.
        from dispy_trio.client.files import put_files

        dest_path = self.work.opening.options.dest_path
        return await put_files(self.links[key].dial_files, key, files, 1, job, dest_path)

    @trio.lowlevel.enable_ki_protection
    async def _send_with_files(self, command: c.SendJobWithFiles) -> None:
        job, key, attempt = command.job, command.node, command.attempt
        assert job.extras is not None
        try:
            sent = await self.put_files(key, job.extras.files, job.number)
        except (ConnectionLost, ConnectError):
            await trio.sleep(0.2)
            self._feed(e.JobWithheld(key, job, attempt, ""))
            return
        except (DispyError, OSError) as exc:
            self._feed(e.JobWithheld(key, job, attempt, f"it was not started: {exc}"))
            return
        record = self.machine.nodes[key]
        record.sent += sent
        if job.cancelling or job.attempt != attempt or job.number not in record.outstanding:
            self._feed(e.JobWithheld(key, job, attempt, "it was cancelled"))
            return
        link = self.links[key]
        if type(job.payload) is not bytes:
            link.send_bulk_job(command.computation, job)
            return
        conditions = job.extras.options.conditions
        left = seconds_left(job, trio.current_time())
        link.send(
            messages.RunJobs(
                command.computation,
                [job.number],
                [attempt],
                [job.payload],
                [],
                conditions,
                None if left is None else [left],
            )
        )

    @trio.lowlevel.enable_ki_protection
    async def _fetch_offered(self, link: NodeLink, offered: messages.FileOffered) -> None:
        """A job sends us a file."""
        from dispy_trio.client.files import fetch_offered

        text = ""
        try:
            received = await fetch_offered(link.dial_files, link.key, offered)
            if (record := self.machine.nodes.get(link.key)) is not None:
                record.received += received
        except (DispyError, OSError) as exc:
            log.warning("node %s: a job's file was not taken: %s", link.key, exc)
            text = str(exc) or type(exc).__name__
        except Exception as exc:
            # What one job offers is no reason to end the cluster.
            log.error("node %s: a job's file was not taken", link.key, exc_info=exc)
            text = f"{type(exc).__name__}: {exc}"
        link.send(messages.FileAnswer(offered.request, text))

    # --- what users do with nodes --------------------------------------------------------------
    def find_nodes(self, wanted: DispyNode | NodeAllocate) -> list[str]:
        """The keys of the nodes that are meant, also of those that have not answered yet."""
        if isinstance(wanted, DispyNode):
            return [wanted.address] if wanted.address in self.links else []
        found = []
        for key in self._living:
            host, _, port = key.rpartition(":")
            record = self.machine.nodes.get(key)
            if wanted.matches(host.strip("[]"), int(port), record.name if record else ""):
                found.append(key)
        return found

    @property
    def _living(self) -> list[str]:
        """The keys of the nodes that may come back, if they are not there."""
        return [key for key in self.links if key not in self._dead]

    def was_met(self, key: str) -> bool:
        """Has the node ever answered?"""
        return key in self.machine.nodes

    def may_run(self, key: str) -> bool:
        """Does the node run jobs of this cluster, or will it when it is there?"""
        if (node := self.machine.nodes.get(key)) is None:
            return True
        refuses = node.memberships.get(1) in NEVER_READY
        return node.allocated and node.state is not NodeState.LOST and not refuses

    def manage(self, event: ClusterEvent) -> None:
        """Change what a node is used for."""
        self._feed(event)

    def discover(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Look for nodes at these addresses too."""
        assert self._nursery is not None
        for host, port in addresses:
            self._add_node(self._nursery, host, port)

    def allocate(self, choice: NodeChoice) -> None:
        """Use these nodes, whatever was decided before."""
        self.allocations[:0] = choice.allocations
        self.discover(choice.addresses)
        for key, record in self.machine.nodes.items():
            if is_meant(choice.allocations, record):
                self._feed(e.NodeAllocated(key))

    def jobs_on(self, key: str) -> list[Any]:
        """The jobs that were sent to a node and have not ended."""
        return list(self.machine.nodes[key].outstanding.values())

    # --- tasks ---------------------------------------------------------------------------------
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep a session with every node until `stop`."""
        # Ended by `open_engine` alone, when all is said to the nodes that they need to hear: a
        # caller's cancellation reaches the caller's block, which then shuts the engine down.
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self.host.run_timer, e.Tick())
                    if self.keeper is not None:
                        nursery.start_soon(self.keeper.run)
                    for host, port in self.settings.choice.addresses:
                        self._add_node(nursery, host, port)
                    nursery.start_soon(self._remind)
                    self.running.set()
        finally:
            self.has_ended = True

    def stop(self) -> None:
        """End all tasks, at once."""
        self._life.cancel()

    def abandon(self) -> None:
        """End all tasks, and leave to the nodes what they run."""
        self.has_ended = True
        self.stop()

    def _add_node(
        self,
        nursery: trio.Nursery,
        host: str,
        port: int,
        feed: Callable[[ClusterEvent], None] | None = None,
    ) -> str:
        key = node_key(host, port)
        if key in self.links and feed is None:
            return key
        self.machine.awaited.add(key)
        link = self.links[key] = NodeLink(
            key=key,
            host=host,
            port=port,
            net=self.doors.net,
            secret=self.doors.secret.value,
            draw_token=self.doors.draw_token,
            make_hello=self._hello,
            pulse_interval=self.settings.pulse_interval,
            feed=feed or self._feed,
            troubles=self.troubles,
            awaits=lambda number, attempt: self._awaits(key, number, attempt),
            on_offer=lambda offered: self._start(self._fetch_offered, link, offered),
            watch_now=not all(a.is_plain for a in self.allocations),
        )
        nursery.start_soon(link.run)
        return key

    def _awaits(self, key: str, number: int, attempt: int) -> bool:
        record = self.machine.nodes.get(key)
        job = record.outstanding.get(number) if record is not None else None
        return job is not None and job.attempt == attempt

    def _hello(self, role: Role, kind: Kind) -> Hello:
        return Hello(
            PROTOCOL_VERSION,
            sys.version_info[:2],
            role,
            kind,
            self.session,
            bytes.fromhex(self.doors.draw_token(2 * NONCE_SIZE)),
        )

    # --- the embedded node -----------------------------------------------------------------------
    def _use_embedded(self, nursery: trio.Nursery, host: str, port: int) -> str:
        key = self._add_node(nursery, host, port, self._feed_of_embedded)
        self._dead.discard(key)  # It may have been given the same port.
        return key

    def _feed_of_embedded(self, event: ClusterEvent) -> None:
        if not isinstance(event, e.NodeLost):
            self._feed(event)
        elif self.keeper is not None and event.node in self.machine.nodes:
            # Its end is told by the keeper, who knows how it came. If it lives and is silent, this
            # is it.
            self.keeper.node.kill()

    def _lose(self, key: str, reason: str) -> None:
        self._dead.add(key)
        self._feed(e.NodeLost(key, reason))
        self.troubles.forget(key)

    def _is_wanted(self) -> bool:
        record = self.machine.computations[1]
        return not (record.closing and (record.terminating or not self.count_pending()))

    @trio.lowlevel.enable_ki_protection
    async def _remind(self) -> None:
        """Say each minute what jobs wait for, if no node can run them."""
        while True:
            await trio.sleep(REMIND_SECONDS)
            if (count := self.count_pending()) and (text := self.what_is_missing()):
                waiting = f"{count} jobs of" if count > 1 else "a job of"
                log.warning("%s %r: %s", waiting, self.work.opening.name, text)

    def what_is_missing(self) -> str:
        """What jobs wait for; empty when they get on."""
        absence = self.machine.absence(1)
        if absence is None:
            return self.machine.parked(1)
        return f"no node can run it now: {self._tell_nodes(absence)}"

    def _tell_nodes(self, absence: dict[str, str]) -> str:
        """What is the matter with each node."""
        return self.troubles.describe(self._living, absence) or "the embedded node starts"

    async def wait_usable(self, timeout: float) -> None:
        """Wait for a first node that can run jobs.

        Raises:
            ConnectError: none came in time, or all refuse for good; names each with its reason.
        """
        with trio.move_on_after(timeout) as scope:
            await self.usable.wait()
        if self.failure:
            raise ConnectError(self.failure)
        if scope.cancelled_caught:
            reasons = self._tell_nodes(self.machine.absence(1) or {})
            raise ConnectError(f"no node is usable after {timeout:g} s: {reasons}")

    async def shut_down(self, *, terminate: bool) -> None:
        """End the computation everywhere and say goodbye; bounded by `CLOSE_GRACE`."""
        if self.has_ended:
            return  # Nobody is left who could tell anything to the nodes, or it is not to be told.
        self._patience = trio.CancelScope(deadline=self._patience.deadline)
        self.close(terminate=terminate)
        with self._patience:
            await self.closed.wait()
        if self._patience.cancelled_caught:
            left = [n.key for n in self.machine.nodes.values() if n.memberships]
            log.warning("nodes %s did not confirm that nothing is left there", ", ".join(left))
        with trio.move_on_after(GOODBYE_GRACE):
            for link in self.links.values():
                await link.leave()

    async def wait_drained(self) -> None:
        """Wait until no job is queued or sent."""
        if self.count_pending():
            await self._drained.wait()
        else:
            await trio.lowlevel.checkpoint()

    def _tell_drained(self) -> None:
        """When no job is pending, all go on who wait for that, whatever the first of them submits."""
        if not self.count_pending():
            self._drained.set()
            self._drained = trio.Event()

    def status(self) -> ClusterStatus:
        """The nodes and the number of jobs queued or sent."""
        return ClusterStatus(self.dispy_nodes(), self.count_pending())

    def count_pending(self) -> int:
        """The jobs that are queued or sent."""
        return self.machine.computations[1].pending

    def end_left(self, reason: str) -> None:
        """The engine is gone: nobody may wait for a job for ever."""
        self._announce(self.machine.give_up(reason), again=False, failed=())
        self._tell_drained()

    def dispy_nodes(self) -> list[DispyNode]:
        """All nodes that were ever reached."""
        return [self.node(key) for key in list(self.machine.nodes)]


@asynccontextmanager
async def open_engine(
    work: Work,
    settings: ClusterSettings,
    listener: Listener,
    embedded: EmbeddedNode | None = None,
    doors: Doors | None = None,
    find_owner: Callable[[], Any] = lambda: None,
) -> AsyncIterator[Engine]:
    """Run an engine round a block; leaving it closes the computation everywhere.

    Raises:
        ClusterFailed: something in the engine went wrong; in a group with what the block raised, if
            that did.
    """
    try:
        doors = doors or real_doors(settings)
        engine = Engine(
            settings=settings,
            work=work,
            doors=doors,
            session=doors.draw_token(32),
            listener=listener,
            find_owner=find_owner,
            embedded=embedded,
        )
    except BaseException:
        if embedded is not None:
            await see_off(embedded)  # noqa: ASYNC102 - shielded, and bounded
        raise
    error: BaseException | None = None
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            # Not `nursery.start`, which waits for ever when it is interrupted: this task is shielded.
            nursery.start_soon(engine.run)  # noqa: ASYNC113 - `running` tells
            try:
                await engine.running.wait()
                if settings.connect_timeout is not None:
                    await engine.wait_usable(settings.connect_timeout)
                yield engine
            except BaseException as exc:  # noqa: ASYNC103
                # Raised below: the nursery would wrap what is the caller's into a group.
                error = exc
            if error is None:
                error = await _shut_down(engine, terminate=False)
            if error is not None:
                # Bounded, so that a cancelled program ends; a second Ctrl-C ends it at once.
                with trio.CancelScope(shield=True):
                    error = await _shut_down(engine, terminate=True) or error
            engine.stop()
    except BaseExceptionGroup as group:
        # While the last tasks end, the caller may be interrupted or cancelled.
        theirs, ours = group.split((KeyboardInterrupt, trio.Cancelled))
        if theirs is not None:
            interrupts, _ = theirs.split(KeyboardInterrupt)
            error = innermost(interrupts or error or theirs)
        if ours is not None:
            failure = _failure_of(ours)
    finally:
        listener.over(failure if isinstance(failure, ClusterFailed) else None)
        if failure is None:
            engine.unseen.tell(work.opening.name, engine.jobs_ended)
        engine.end_left(f"the cluster ended: {failure or 'closed'}")
        if engine.keeper is not None:
            await see_off(engine.keeper.node)  # noqa: ASYNC102 - shielded, and bounded
    if failure is not None:
        # That the block was cancelled for it is no error of the block's.
        own = _without_cancelled(error)
        if own is None:
            raise failure
        raise BaseExceptionGroup("the cluster failed, and its block raised", [failure, own])
    if error is not None:
        raise error


async def _shut_down(engine: Engine, *, terminate: bool) -> BaseException | None:
    """Returns what has interrupted it: that is to be raised when all is over."""
    try:
        await engine.shut_down(terminate=terminate)
    except BaseException as exc:  # noqa: ASYNC103
        return exc  # noqa: ASYNC104
    return None


def _failure_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is to be raised when the engine's own tasks raise that."""
    if not isinstance(group, ExceptionGroup):
        return group
    failure = ClusterFailed(f"the cluster failed: {innermost(group)}")
    failure.__cause__ = group
    return failure


def _without_cancelled(error: BaseException | None) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error
