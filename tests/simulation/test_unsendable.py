"""What fits into no frame ends the one job, or the one use of a node, that it is about."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import trio

from dispy_trio import messages
from dispy_trio.client.engine import Doors, Engine, open_engine
from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.client.nodes import choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.config import NodeSettings
from dispy_trio.errors import DispyError, LocalError
from dispy_trio.models import Conditions, JobExtras, JobOptions
from dispy_trio.protocol.auth import Kind, Role
from dispy_trio.protocol.codec import FRAME_LIMITS, decode, encode
from dispy_trio.protocol.framing import FRAME_LIMIT, FrameDecoder
from dispy_trio.protocol.splitting import halves
from dispy_trio.runtime.peer import accept_connection
from dispy_trio.seams import ByteStream
from dispy_trio.services.node import run_node
from dispy_trio.testing import MemoryNetwork, deterministic_run, seeded_tokens
from tests.integration.test_odd_messages import make_outside

from .kit import PORT, SECRET, History, Simulation

HALF = FRAME_LIMIT // 2
"""Bytes of an argument that fits into a frame, and whose double does not."""


def add(simulation: Simulation, engine: Engine, value: object, payload: bytes = b"") -> None:
    number = len(simulation.jobs) + 1
    job: SubmittedJob[Any] = SubmittedJob(
        number, payload or pickle.dumps(((value,), {})), id=number
    )
    simulation.jobs.append(job)
    engine.queue.append(job)


def sessions_of(engine: Engine) -> dict[str, object]:
    return {key: link._peer for key, link in engine.links.items()}


def test_arguments_that_fit_into_no_frame_end_their_job_alone() -> None:
    simulation = Simulation(seed=1)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        await engine.usable.wait()
        await trio.sleep(1)
        before = sessions_of(engine)
        for number in range(6):
            add(simulation, engine, number)
        add(simulation, engine, None, bytes(2 * FRAME_LIMIT))
        for number in range(6):
            add(simulation, engine, number)
        engine.wake()
        await engine.wait_drained()
        assert sessions_of(engine) == before, "no session has ended for it"

    simulation.run(scenario)
    assert {number: ends for number, ends in simulation.ends.items() if ends != ["Finished"]} == {
        7: ["Terminated"]
    }
    assert b"could not be sent: a RunJobs of" in simulation.jobs[6].reply


def test_conditions_that_no_node_takes_end_their_job_alone() -> None:
    simulation = Simulation(seed=1)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        await engine.usable.wait()
        for conditions in (Conditions(memory=2**70), Conditions(timeout=-1.0)):
            add(simulation, engine, 1)
            job = engine.queue.pop()
            job.extras = JobExtras(JobOptions(conditions))
            engine.queue_aside(job)
        add(simulation, engine, 1)
        engine.wake()
        await engine.wait_drained()

    simulation.run(scenario)
    ends = [simulation.ends[number] for number in (1, 2, 3)]
    assert ends == [["Terminated"], ["Terminated"], ["Finished"]]
    assert b"can't be encoded" in simulation.jobs[0].reply
    assert b"$.conditions.timeout" in simulation.jobs[1].reply


def test_a_result_that_fits_into_no_frame_ends_its_job_alone() -> None:
    simulation = Simulation(seed=1)

    async def scenario(simulation: Simulation, engine: Engine, _nursery: trio.Nursery) -> None:
        await engine.usable.wait()
        await trio.sleep(1)
        before = sessions_of(engine)
        for value in (1, "x" * (HALF + 1000), 2):
            add(simulation, engine, value)
        engine.wake()
        await engine.wait_drained()
        assert sessions_of(engine) == before, "no session has ended for it"

    simulation.run(scenario)
    ends = [simulation.ends[number] for number in (1, 2, 3)]
    assert ends == [["Finished"], ["Terminated"], ["Finished"]]
    assert b"could not be sent: a JobsFinished of" in simulation.jobs[1].reply


def run_beside(node: Any, use: Any, opening: messages.OpenComputation) -> None:
    """A client of one node that is a function."""

    async def main() -> None:
        network = MemoryNetwork(seed=1)
        simulation = Simulation(seed=1)
        settings = ClusterSettings(choose_nodes([f"10.0.0.2:{PORT}"]), pulse_interval=5.0)
        doors = Doors(network.host("10.0.0.1"), SECRET, seeded_tokens(1, "client"))
        listener = await network.host("10.0.0.2").listen("10.0.0.2", PORT)

        async def serve(stream: ByteStream) -> None:
            hello = make_outside(network, "10.0.0.2", []).hello
            try:
                theirs = await accept_connection(
                    stream, SECRET.value, hello(Role.NODE, Kind.CONTROL, "ab" * 16)
                )
                if theirs.kind == Kind.CONTROL:
                    await node(stream)
                else:
                    await trio.sleep_forever()
            except DispyError:
                pass  # The client is gone.

        async def accept() -> None:
            while True:
                nursery.start_soon(serve, await listener.accept())

        with trio.fail_after(3600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                async with open_engine(
                    Work(opening), settings, History(simulation), doors=doors
                ) as engine:
                    await use(simulation, engine)
                nursery.cancel_scope.cancel()

    deterministic_run(main, seed=1)


OPENING = messages.OpenComputation(1, "double", "00", b"bundle", 0)


def test_a_computation_that_can_t_be_sent_fails_on_its_node_with_the_reason() -> None:
    async def node(stream: ByteStream) -> None:
        await stream.send_all(encode(messages.SessionState("n", 1, "", [], [], [])))
        while await stream.receive_into(memoryview(bytearray(65536))):
            pass

    async def use(simulation: Simulation, engine: Engine) -> None:
        add(simulation, engine, 1)
        engine.wake()
        await engine.wait_drained()
        assert simulation.ends == {1: ["Terminated"]}
        assert b"the computation could not be sent: " in simulation.jobs[0].reply
        assert b"$.digest" in simulation.jobs[0].reply

    run_beside(node, use, messages.OpenComputation(1, "double", "no digest", b"bundle", 0))


def test_a_node_may_know_any_number_of_jobs() -> None:
    many = list(range(2**40, 2**40 + 600_000))
    cancelled: list[int] = []
    heard = trio.Event()
    state = messages.SessionState("n", 1, "", many, [0] * len(many), [1])
    parts = halves(state)
    assert parts is not None

    async def node(stream: ByteStream) -> None:
        for part in parts:
            await stream.send_all(encode(part))
        decoder = FrameDecoder("client", FRAME_LIMITS)
        buffer = memoryview(bytearray(1 << 20))
        while count := await stream.receive_into(buffer):
            for kind, body in decoder.receive_data(buffer[:count]):
                message = decode(kind, body, "client")
                if isinstance(message, messages.CancelJobs):
                    cancelled.extend(message.numbers)
                    if len(cancelled) == len(many):
                        heard.set()
                elif isinstance(message, messages.CloseComputation):
                    await stream.send_all(encode(messages.ComputationClosed(1)))

    async def use(_simulation: Simulation, engine: Engine) -> None:
        with trio.fail_after(60):
            await heard.wait()

    run_beside(node, use, OPENING)
    assert cancelled == many


@pytest.mark.parametrize(("lasts", "least", "most"), [(0.01, 115, 130), (10.0, 57, 64)])
def test_a_node_that_breaks_each_session_is_dialled_less_and_less(
    lasts: float, least: int, most: int
) -> None:
    """But at once where a session has been good for something."""
    sessions: list[float] = []

    async def node(stream: ByteStream) -> None:
        sessions.append(trio.current_time())
        await stream.send_all(encode(messages.SessionState("n", 1, "", [], [], [])))
        await trio.sleep(lasts)
        await stream.aclose()

    async def use(_simulation: Simulation, _engine: Engine) -> None:
        await trio.sleep(600)

    run_beside(node, use, OPENING)
    assert least < len(sessions) < most


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resources": {"disk": 2**63}}, r"\$\.resources"),
        ({"resources": {"caf\udce9": 1}}, "surrogates not allowed"),
        ({"gpus": 2**63}, r"\$\.resources"),
    ],
)
def test_a_node_that_no_client_could_be_told_of_does_not_start(
    settings: dict[str, Any], said: str
) -> None:
    async def main() -> None:
        network = MemoryNetwork(seed=1)
        await run_node(
            NodeSettings(host="10.0.0.2", port=PORT, **settings),
            make_outside(network, "10.0.0.2", []),
        )

    with pytest.raises(LocalError, match=said):
        deterministic_run(main, seed=1)
