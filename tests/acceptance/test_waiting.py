"""What a user is told of places where there is no node; the rest is in `tests/simulation`."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from .conftest import LIMIT, World

PROGRAM = """
import sys
import dispy_trio as dispy

dispy.JobCluster(abs, nodes=sys.argv[1:] or None).submit(-1).wait()
"""


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something that is no node, on a port of its own; its address."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()

        def run() -> None:
            while True:
                connection, _ = server.accept()
                held.append(connection)
                if closing.is_set():
                    return
                serve(connection)

        closing = threading.Event()
        thread = threading.Thread(target=run)
        thread.start()
        yield f"{host}:{port}"
        closing.set()
        socket.create_connection((host, port)).close()
        thread.join()
        for connection in held:
            connection.close()


def read_told(world: World, *command: str, count: int) -> list[str]:
    """The first lines in which a program that waits is told of nodes."""
    program = world.start(*command)
    assert program.stderr is not None
    ending = threading.Timer(LIMIT, program.kill)
    ending.start()
    lines: list[str] = []
    while len(lines) < count and (line := program.stderr.readline()):
        if "is not usable" in line:
            lines.append(line.rstrip())
    ending.cancel()
    program.kill()
    return lines


def test_what_is_not_a_node_is_told_of(world: World) -> None:
    path = world.write("program.py", PROGRAM)
    with (
        socket.socket() as closed,
        serving(lambda connection: None) as silent,
        serving(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n")) as greeting,
    ):
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        lines = read_told(world, sys.executable, str(path), silent, greeting, nobody, count=3)
    told = dict(line.partition("node ")[2].split(" is not usable: ") for line in lines)
    assert told == {
        nobody: "Connection refused (retrying)",
        greeting: "it is not a dispy-trio node: it says b'220 mail' (retrying)",
        silent: "no handshake within 5 s; is this a dispy-trio node? (retrying)",
    }


def test_a_loopback_interface_that_is_down_is_told_of(world: World) -> None:
    path = world.write("program.py", PROGRAM)
    (line,) = read_told(
        world, "unshare", "--user", "--map-root-user", "--net", "--kill-child", sys.executable,
        str(path), count=1,
    )  # fmt: skip
    assert line.endswith(
        "Network is unreachable; the loopback interface is down (`ip link set lo up`) (retrying)"
    )
