"""`open_cluster` while it opens: whatever ends it, ends it at once, and what was begun is gone."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, Self

import pytest
import trio

from dispy_mapreduce import map_reduce_async
from dispy_trio import open_cluster
from dispy_trio.client import cluster as cluster_module
from dispy_trio.client.embedded import EmbeddedNode
from dispy_trio.client.nodes import ClusterStatus

LIMIT = 30.0


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[EmbeddedNode]:
    """All embedded nodes that are started."""
    started: list[EmbeddedNode] = []

    class Recorded(EmbeddedNode):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            started.append(self)

    monkeypatch.setattr(cluster_module, "EmbeddedNode", Recorded)
    monkeypatch.delenv("DISPY_TRIO_NODES", raising=False)
    return started


def has_ended(node: EmbeddedNode) -> bool:
    return node._process.poll() is not None


@pytest.mark.parametrize("name", ["secret", "certfile", "secret_file"])
async def test_the_embedded_node_ends_when_settings_are_refused(
    nodes: list[EmbeddedNode], tmp_path: Path, name: str
) -> None:
    """Also by an error that nobody foresaw: a secret that is a number, or a path that is none."""
    wrong: Any = {"secret": 5, "certfile": str(tmp_path / "missing"), "secret_file": "a\0b"}[name]
    with pytest.raises(Exception):  # noqa: B017 - whichever it is
        async with open_cluster(abs, **{name: wrong}):
            raise AssertionError("it is open")
    (node,) = nodes
    assert has_ended(node)


@pytest.mark.parametrize("checkpoints", [0, 1, 3, 8])
async def test_the_embedded_node_ends_when_its_opening_is_cancelled(
    nodes: list[EmbeddedNode], checkpoints: int
) -> None:
    scope = trio.CancelScope()

    async def use() -> None:
        with scope:
            async with open_cluster(abs, secret="a password", connect_timeout=LIMIT) as cluster:
                await cluster.run(-1)
                await trio.sleep_forever()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            while not nodes:  # noqa: ASYNC110 - it is to be seen at once
                await trio.lowlevel.checkpoint()
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert all(map(has_ended, nodes))


class _SlowNames:
    """A name server that does not answer until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, interrupt: bool) -> None:
        self.asked = threading.Event()
        self.released = threading.Event()
        self.interrupt = interrupt
        monkeypatch.setattr(cluster_module, "choose_nodes", self._look_up)

    def _look_up(self, _nodes: Any) -> None:
        self.asked.set()
        if self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        assert self.released.wait(LIMIT)


async def _open() -> None:
    async with open_cluster(abs, ["a.name"]):
        raise AssertionError("it is open")


def test_a_deadline_ends_an_opening_that_waits_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _SlowNames(monkeypatch, interrupt=False)

    async def main() -> None:
        with trio.move_on_after(0.05) as scope:
            await _open()
        assert scope.cancelled_caught
        assert not names.released.is_set()

    trio.run(main)
    names.released.set()
    assert names.asked.is_set()


def test_ctrl_c_ends_an_opening_that_waits_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _SlowNames(monkeypatch, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trio.run(_open)
    assert not names.released.is_set()
    names.released.set()


def test_ctrl_c_in_map_reduce_async_is_a_plain_keyboard_interrupt() -> None:
    """Although it comes through the nurseries of the cluster and of the engine."""

    class Interrupted:
        """A cluster in whose use the user types Ctrl-C."""

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        def status(self) -> ClusterStatus:
            return ClusterStatus([], 0)

        def submit(self, _task: object) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trio.run(_reduce, Interrupted())


async def _reduce(cluster: Any) -> None:
    await map_reduce_async(_words, sum, ["a b", "a"], cluster=lambda _runner: cluster)


def _words(line: str) -> list[tuple[str, int]]:
    return [(word, 1) for word in line.split()]
