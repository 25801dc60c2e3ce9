"""What a user is told while jobs wait for a node, and when; and what ends the waiting."""

from __future__ import annotations

import logging
import pickle
import random
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, frozen

from dispy_trio import messages
from dispy_trio.client.engine import Doors, Engine, open_engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.listening import Listener
from dispy_trio.client.nodes import NodeAllocate, choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.config import NodeSettings
from dispy_trio.errors import AuthenticationError, ConnectError, DispyError
from dispy_trio.models import Conditions, JobExtras, JobOptions, JobStatus
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.runtime.peer import accept_connection
from dispy_trio.runtime.secret import Secret
from dispy_trio.seams import ByteStream
from dispy_trio.services.node import run_node
from dispy_trio.services.outside import Outside
from dispy_trio.testing import MemoryHost, MemoryNetwork, deterministic_run, seeded_tokens

from .kit import PORT, SECRET, NoDirectories, ScriptedSpawner, ScriptedTemplate, read_status

CLIENT = "10.0.0.1"
THERE = "10.0.0.2"
NODE = f"{THERE}:{PORT}"
OTHER = "10.0.0.3"

Place = Callable[[MemoryNetwork, trio.Nursery, str], Awaitable[None]]
"""Puts something onto a host, where a client looks for a node."""


# --- what may be there -----------------------------------------------------------------------------
async def put_nothing(network: MemoryNetwork, nursery: trio.Nursery, host: str) -> None:
    await trio.lowlevel.checkpoint()


class Slow(ScriptedSpawner):
    """Its templates take their time."""

    async def open_template(self, *args: Any) -> ScriptedTemplate:
        await trio.sleep(100)
        return await super().open_template(*args)


def put_a_node(
    secret: Secret = SECRET, spawner: type[ScriptedSpawner] = ScriptedSpawner, duration: float = 0.5
) -> Place:
    async def put(network: MemoryNetwork, nursery: trio.Nursery, host: str) -> None:
        outside = Outside(
            net=network.host(host),
            spawner=spawner(random.Random(1), [], durations=[duration]),
            store=NoDirectories(Path("/nowhere")),
            secret=secret,
            processors=2,
            most_workers=4,
            draw_token=seeded_tokens(1, host),
            read_status=read_status,
        )
        settings = NodeSettings(host=host, port=PORT, name=host, pulse_interval=1.0)
        await nursery.start(run_node, settings, outside)

    return put


put_node = put_a_node()
put_node_of_others = put_a_node(Secret(b"another secret of thirty-two b.", Path("/nowhere")))


def put_listener(serve: Callable[[ByteStream], Awaitable[None]]) -> Place:
    """Whatever else may listen on a port."""

    async def put(network: MemoryNetwork, nursery: trio.Nursery, host: str) -> None:
        listener = await network.host(host).listen(host, PORT)

        async def run() -> None:
            while True:
                nursery.start_soon(serve, await listener.accept())

        nursery.start_soon(run)

    return put


def put_greeter(said: bytes) -> Place:
    async def greet(stream: ByteStream) -> None:
        await stream.send_all(said)
        await trio.sleep_forever()

    return put_listener(greet)


async def hang_up(stream: ByteStream) -> None:
    await stream.aclose()


def put_node_of(**changes: Any) -> Place:
    """A node that says something else of itself."""
    hello = Hello(1, sys.version_info[:2], Role.NODE, Kind.CONTROL, "7" * 32, bytes(32))

    async def refuse(stream: ByteStream) -> None:
        with pytest.raises(DispyError):
            await accept_connection(stream, SECRET.value, evolve(hello, **changes))

    return put_listener(refuse)


class Failing(MemoryHost):
    """A host whose dialling fails, as the system says it."""

    error: DispyError

    async def dial(self, host: str, port: int) -> ByteStream:
        await trio.lowlevel.checkpoint()
        raise self.error


# --- a client --------------------------------------------------------------------------------------
class Heard(logging.Handler):
    """Writes down what the library says, and when."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "dispy_trio":
            return  # The node's own.
        self.lines.append((trio.current_time(), record.getMessage()))


@contextmanager
def listen() -> Iterator[Heard]:
    heard, log = Heard(), logging.getLogger("dispy_trio")
    log.addHandler(heard)
    try:
        yield heard
    finally:
        log.removeHandler(heard)


@frozen
class Client:
    """A client's engine, and what it is surrounded by."""

    engine: Engine
    network: MemoryNetwork
    nursery: trio.Nursery

    def submit(self, number: int, extras: JobExtras | None = None) -> SubmittedJob[int]:
        job: SubmittedJob[int] = SubmittedJob(number, pickle.dumps(((number,), {})), id=number)
        if extras is None:
            self.engine.queue.append(job)
            self.engine.wake()
        else:
            job.extras = extras
            self.engine.queue_aside(job)
        return job


Scenario = Callable[[Client], Awaitable[None]]


def run(
    scenario: Scenario,
    nodes: Sequence[str | NodeAllocate] = (NODE,),
    error: DispyError | None = None,
    connect_timeout: float | None = None,
    **places: Place,
) -> list[tuple[float, str]]:
    """Run a client; what it was told, and when.

    Raises:
        ConnectError: there was no node within the timeout.
    """
    choice = choose_nodes(list(nodes))
    settings = ClusterSettings(choice, pulse_interval=1.0, connect_timeout=connect_timeout)
    work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))

    async def main() -> None:
        network = MemoryNetwork(seed=1)
        net = network.host(CLIENT)
        if error is not None:
            net = Failing(CLIENT, network)
            net.error = error
        doors = Doors(net, SECRET, seeded_tokens(1, "client"))
        with trio.fail_after(3600):
            async with trio.open_nursery() as nursery:
                for host, place in places.items():
                    await place(network, nursery, {"there": THERE, "other": OTHER}[host])
                began = trio.current_time()
                try:
                    async with open_engine(work, settings, Listener(), doors=doors) as engine:
                        await scenario(Client(engine, network, nursery))
                        engine.close(terminate=True)
                except ConnectError as exc:
                    failures.append(exc)  # Raised below: the nursery would wrap it into a group.
                heard.lines = [(when - began, text) for when, text in heard.lines]
                nursery.cancel_scope.cancel()

    failures: list[ConnectError] = []
    with listen() as heard:
        deterministic_run(main, seed=1)
    if failures:
        raise failures[0]
    return heard.lines


REFUSALS = [
    pytest.param(
        put_node_of_others,
        None,
        "it does not accept our secret: copy the secret file of one machine to the other (see"
        " `dispy-trio secret`)",
        id="wrong secret",
    ),
    pytest.param(
        put_node_of(python=(3, 99)),
        None,
        f"it runs Python 3.99, this side Python 3.{sys.version_info[1]}: use the same minor version"
        " on both",
        id="wrong Python",
    ),
    pytest.param(
        put_node_of(version=99),
        None,
        "it speaks version 99 of the protocol, this side version 1: install the same dispy-trio on"
        " both",
        id="wrong protocol",
    ),
    pytest.param(
        put_nothing,
        AuthenticationError(f"{NODE} has another certificate than ours: give both sides the same"),
        "it has another certificate than ours: give both sides the same",
        id="wrong certificate",
    ),
]
DELAYS = [
    pytest.param(put_nothing, None, 0, "Connection refused", id="nothing listens"),
    pytest.param(
        put_nothing,
        ConnectError(f"{NODE}: Network is unreachable; the loopback interface is down"),
        0,
        "Network is unreachable; the loopback interface is down",
        id="lo is down",
    ),
    pytest.param(
        put_greeter(b""),
        None,
        5,
        "no handshake within 5 s; is this a dispy-trio node?",
        id="a server that waits, as HTTP's do",
    ),
    pytest.param(
        put_greeter(b"SSH-2.0-OpenSSH_9.2\r\n"),
        None,
        0,
        "it is not a dispy-trio node: it says b'SSH-2.0-'",
        id="a server that greets",
    ),
    pytest.param(
        put_greeter(b"\0\xff" * 5000),
        None,
        0,
        "it is not a dispy-trio node: it says " + repr(b"\0\xff" * 4),
        id="garbage",
    ),
    pytest.param(
        put_listener(hang_up),
        None,
        0,
        "it closed the connection during the handshake; is this a dispy-trio node?",
        id="a server that hangs up",
    ),
]


@pytest.mark.parametrize(("place", "error", "second", "text"), DELAYS)
def test_trouble_is_told_when_it_happens_and_each_minute_while_jobs_wait(
    place: Place, error: DispyError | None, second: float, text: str
) -> None:
    async def scenario(client: Client) -> None:
        job = client.submit(1)
        await trio.sleep(190)
        assert job.status is JobStatus.Created

    told = run(scenario, error=error, there=place)
    assert [text for _, text in told] == [
        f"node {NODE} is not usable: {text} (retrying)",
        *[f"a job of 'double': no node can run it now: {NODE}: {text}"] * 3,
    ]
    assert [when for when, _ in told] == pytest.approx([second, 60, 120, 180], abs=0.1)


@pytest.mark.parametrize(("place", "error", "text"), REFUSALS)
def test_a_refusal_that_waiting_can_t_mend_ends_the_jobs_that_wait_and_those_that_come_later(
    place: Place, error: DispyError | None, text: str
) -> None:
    reason = f"no node can run 'double': {text.replace('it', NODE, 1)}"

    async def scenario(client: Client) -> None:
        early = [client.submit(number) for number in (1, 2)]
        await trio.sleep(0.1)
        late = [client.submit(3), client.submit(4, JobExtras())]
        await trio.sleep(200)
        late.append(client.submit(5))
        await trio.testing.wait_all_tasks_blocked()
        for job in early + late:
            assert (job.status, job.exception) == (JobStatus.Terminated, reason)

    told = run(scenario, error=error, there=place)
    assert [text for _, text in told] == [
        f"node {NODE} is not usable: {text} (retrying)",
        reason,
    ]
    assert [when for when, _ in told] == pytest.approx([0, 0], abs=0.1)


async def use_no_node(_client: Client) -> None:
    await trio.lowlevel.checkpoint()
    raise AssertionError("there is no node")


@pytest.mark.parametrize(("place", "error", "text"), REFUSALS)
def test_nobody_waits_for_a_first_node_when_all_refuse(
    place: Place, error: DispyError | None, text: str
) -> None:
    with pytest.raises(ConnectError) as caught:
        run(use_no_node, error=error, connect_timeout=30, there=place)
    assert str(caught.value) == f"no node can run 'double': {text.replace('it', NODE, 1)}"


@pytest.mark.parametrize(("place", "error", "second", "text"), DELAYS)
def test_who_waits_for_a_first_node_is_told_of_each(
    place: Place, error: DispyError | None, second: float, text: str
) -> None:
    with pytest.raises(ConnectError) as caught:
        run(use_no_node, error=error, connect_timeout=30, there=place)
    assert str(caught.value) == f"no node is usable after 30 s: {NODE}: {text}"


def test_a_node_that_has_not_answered_yet_is_told_of_too() -> None:
    with pytest.raises(ConnectError) as caught:
        run(use_no_node, connect_timeout=2, there=put_greeter(b""))
    assert str(caught.value) == f"no node is usable after 2 s: {NODE}: no answer yet"


def test_jobs_wait_while_one_of_the_nodes_may_come() -> None:
    async def scenario(client: Client) -> None:
        job = client.submit(1)
        await trio.sleep(70)
        assert job.status is JobStatus.Created
        await put_node(client.network, client.nursery, OTHER)
        await client.engine.wait_drained()
        assert job.result == 2

    told = run(scenario, nodes=[NODE, f"{OTHER}:{PORT}"], there=put_node_of_others)
    assert [text.partition(": ")[0] for _, text in told] == [
        f"node {OTHER}:{PORT} is not usable",
        f"node {NODE} is not usable",
        "a job of 'double'",
    ]
    assert "does not accept our secret" in told[2][1]
    assert f"{OTHER}:{PORT}: Connection refused" in told[2][1]


def test_each_change_is_told_once() -> None:
    async def scenario(client: Client) -> None:
        network = client.network
        early = client.submit(1)
        await trio.sleep(20)
        async with trio.open_nursery() as others:
            await put_node_of_others(network, others, THERE)
            await trio.sleep(20)
            assert early.status is JobStatus.Terminated
            others.cancel_scope.cancel()
        await trio.sleep(10)
        late = client.submit(2)
        await trio.sleep(10)
        assert late.status is JobStatus.Created, "nobody refuses us now"
        async with trio.open_nursery() as ours:
            await put_node(network, ours, THERE)
            await client.engine.wait_drained()
            assert late.result == 4
            await trio.sleep(60)
            ours.cancel_scope.cancel()
        await trio.sleep(20)

    told = [text for _, text in run(scenario)]
    assert told[0].endswith("Connection refused (retrying)")
    assert "does not accept our secret" in told[1]
    assert told[2].startswith("no node can run 'double'")
    assert [text for text in told[3:] if not text.startswith("a job of")] == [
        f"node {NODE} is not usable: it said goodbye (retrying)",
        f"node {NODE} is not usable: Connection refused (retrying)",
    ]


def test_what_takes_long_on_a_node_is_told() -> None:
    async def scenario(client: Client) -> None:
        client.submit(1)
        client.submit(2)
        await client.engine.wait_drained()

    told = run(scenario, there=put_a_node(spawner=Slow))
    text = "it loads the computation, or runs its setup"
    assert told == [(60, f"2 jobs of 'double': no node can run it now: {NODE}: {text}")]


def test_jobs_that_ask_for_too_much_are_reminded_of() -> None:
    async def scenario(client: Client) -> None:
        client.submit(1, JobExtras(JobOptions(Conditions(cpus=99))))
        await trio.sleep(130)

    told = run(scenario, there=put_node)
    assert len(told) == 3
    assert all("jobs that ask for 99 cpus wait: no node has so much" in text for _, text in told)


def test_nothing_is_told_while_jobs_run_or_none_wait() -> None:
    async def scenario(client: Client) -> None:
        for number in range(1, 10):
            client.submit(number)
        await client.engine.wait_drained()
        await trio.sleep(300)

    assert run(scenario, there=put_a_node(duration=200.0)) == []


def test_opening_ends_where_the_caller_is_cancelled_already() -> None:
    """Names may have been looked up meanwhile, which nothing interrupts."""

    async def main() -> None:
        network = MemoryNetwork(seed=1)
        doors = Doors(network.host(CLIENT), SECRET, seeded_tokens(1, "client"))
        settings = ClusterSettings(choose_nodes([NODE]), pulse_interval=1.0)
        work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
        with trio.CancelScope() as scope:
            scope.cancel()
            async with open_engine(work, settings, Listener(), doors=doors):
                await trio.sleep(1)
        assert scope.cancelled_caught

    deterministic_run(main, seed=1)
