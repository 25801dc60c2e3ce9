"""What a node logs of somebody who comes with a wrong secret, again and again."""

from __future__ import annotations

import logging
import re
import sys

import pytest
import trio

from dispy_trio.errors import AuthenticationError
from dispy_trio.protocol.auth import NONCE_SIZE, PROTOCOL_VERSION, Hello, Kind, Role
from dispy_trio.runtime.peer import dial_connection
from dispy_trio.testing import deterministic_run

from .kit import PORT, Simulation

HELLO = Hello(
    PROTOCOL_VERSION, sys.version_info[:2], Role.CLIENT, Kind.CONTROL, "5" * 32, b"n" * NONCE_SIZE
)


def test_a_wrong_secret_is_logged_once_a_source_and_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    simulation = Simulation(seed=1)
    caplog.set_level(logging.WARNING)

    async def knock(host: str, times: int) -> None:
        for _ in range(times):
            with pytest.raises(AuthenticationError):
                await dial_connection(
                    simulation.network.host(host), "10.0.0.2", PORT, b"a wrong one", HELLO
                )
            await trio.sleep(1)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(simulation.run_node, "10.0.0.2")
            async with trio.open_nursery() as knocking:
                knocking.start_soon(knock, "10.0.0.7", 90)
                knocking.start_soon(knock, "10.0.0.8", 1)
            await trio.sleep(600)
            nursery.cancel_scope.cancel()

    deterministic_run(main, seed=1)
    # Without the port and what comes behind it: a source is a host.
    said = sorted(re.sub(r":\d+ .*", "", record.getMessage()) for record in caplog.records)
    assert said[2:] == ["refused a connection: 10.0.0.7", "refused a connection: 10.0.0.8"]
    counts = [
        re.fullmatch(r"refused (\d+) more connections of 10\.0\.0\.7 .*", s) for s in said[:2]
    ]
    assert sum(int(count[1]) for count in counts if count) == 89
