"""What a node is started with: its own file, its secret or certificate, how many clients it serves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dispy_trio as dispy

from .conftest import LIMIT, World


def where() -> str:
    return str(dispy_node_ip_addr)  # type: ignore[name-defined]  # noqa: F821


def open_cluster(world: World, computation: Callable[..., Any], *nodes: str, **options: Any) -> Any:
    options.setdefault("secret_file", world.secret_file)
    return dispy.JobCluster(computation, nodes=list(nodes), **options)


def test_init_and_close_of_the_nodes_own_file(world: World) -> None:
    closed = world.tmp_path / "closed"
    init = world.write(
        "init.py",
        f"""
import os

def init():
    global site
    site = "here"
    return 0

def close():
    with open({str(closed)!r}, "w") as file:
        file.write(site)
""",
    )
    node = world.start_node("127.0.0.2", "--init", str(init))

    def read() -> str:
        return str(site)  # type: ignore[name-defined]  # noqa: F821

    with open_cluster(world, read, node.address) as cluster:
        assert cluster.submit()() == "here"
    assert closed.read_text() == "here"


def test_init_that_fails_is_told_to_the_client(world: World) -> None:
    init = world.write("init.py", "def init():\n    return 3\n")
    node = world.start_node("127.0.0.2", "--init", str(init))
    with open_cluster(world, where, node.address) as cluster:
        job = cluster.submit()
        assert job() is None
        assert "returned 3 instead of 0" in job.exception


def test_a_node_that_serves_one_client_ends_after_it(world: World) -> None:
    node = world.start_node("127.0.0.2", "--serve", "1")
    cluster = open_cluster(world, where, node.address)
    assert cluster.submit()() == "127.0.0.2"
    with pytest.raises(dispy.ConnectError):
        open_cluster(world, where, node.address, connect_timeout=0.5)
    assert cluster.submit()() == "127.0.0.2"
    cluster.close()
    assert node.process.wait(timeout=LIMIT) == 0


@pytest.mark.parametrize("allowed", [True, False])
def test_a_client_may_shut_a_node_down_only_if_that_allows_it(world: World, allowed: bool) -> None:
    def cleanup() -> None:
        dispynode_shutdown()  # type: ignore[name-defined]  # noqa: F821

    options = ["--client-shutdown"] if allowed else []
    node = world.start_node("127.0.0.2", *options)
    with open_cluster(world, where, node.address, cleanup=cleanup) as cluster:
        assert cluster.submit()() == "127.0.0.2"
    if allowed:
        assert node.process.wait(timeout=LIMIT) == 0
        assert "cleanup failed" not in node.process.communicate()[1]
    else:
        with open_cluster(world, where, node.address) as cluster:
            assert cluster.submit()() == "127.0.0.2"


def test_force_cleanup_removes_what_clients_want_left(world: World) -> None:
    node = world.start_node("127.0.0.2", "--force-cleanup")

    def path() -> str:
        return str(dispy_job_path)  # type: ignore[name-defined]  # noqa: F821

    options = {"dest_path": "kept", "cleanup": False}
    with open_cluster(world, path, node.address, **options) as cluster:
        directory = cluster.submit()()
    assert not os.path.exists(directory)


def test_a_password_instead_of_a_secret_file(world: World) -> None:
    node = world.start_node("127.0.0.2", "--secret", "open sesame")
    with open_cluster(world, where, node.address, secret="open sesame") as cluster:
        assert cluster.submit()() == "127.0.0.2"
    with pytest.raises(dispy.ConnectError, match="secret"):
        open_cluster(world, where, node.address, secret="another", connect_timeout=1)


def make_certificate(directory: Path, name: str) -> tuple[str, str]:
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=x",
        "-keyout",
    ]
    subprocess.run([*command, key, "-out", cert], check=True, capture_output=True)
    return str(cert), str(key)


def test_a_shared_certificate_lets_in_who_has_it(world: World) -> None:
    cert, key = make_certificate(world.tmp_path, "ours")
    node = world.start_node("127.0.0.2", "--certfile", cert, "--keyfile", key)
    options = {"secret_file": None, "certfile": cert, "keyfile": key}
    with open_cluster(world, where, node.address, **options) as cluster:
        assert cluster.submit()() == "127.0.0.2"
    cert, key = make_certificate(world.tmp_path, "theirs")
    options = {"secret_file": None, "certfile": cert, "keyfile": key, "connect_timeout": 60}
    with pytest.raises(dispy.ConnectError, match="has another certificate than ours"):
        open_cluster(world, where, node.address, **options)
    options["keyfile"] = str(world.tmp_path / "gone.key")
    with pytest.raises(dispy.DispyError, match=r"can.t use the certificate .*gone.key: No such"):
        open_cluster(world, where, node.address, **options)
    with pytest.raises(dispy.ConnectError):
        open_cluster(world, where, node.address, secret_file=None, secret="x", connect_timeout=2)


def test_nodes_named_in_the_environment(
    world: World, two_nodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPY_TRIO_NODES", ", ".join(two_nodes))
    for nodes, expected in (
        (None, {"127.0.0.2", "127.0.0.3"}),
        (["*"], {"127.0.0.2", "127.0.0.3"}),
        (["127.0.0.3*"], {"127.0.0.3"}),
        (["127.0.0.2/32"], {"127.0.0.2"}),
        ([dispy.NodeAllocate("*.0.0.3")], {"127.0.0.3"}),
    ):
        found = set()
        cluster = dispy.JobCluster(slow_where, nodes=nodes, secret_file=world.secret_file)
        with cluster:
            until = time.monotonic() + LIMIT
            while found != expected:
                assert time.monotonic() < until, (nodes, found)
                found |= {job() for job in [cluster.submit() for _ in range(8)]}
                assert found <= expected


def slow_where() -> str:
    time.sleep(0.05)
    return str(dispy_node_ip_addr)  # type: ignore[name-defined]  # noqa: F821


def test_a_client_killed_in_the_middle_of_a_file_leaves_nothing_on_the_node(world: World) -> None:
    node = world.start_node("127.0.0.2", "--zombie-interval", "0")
    script = """
import sys
import dispy_trio as dispy

open("large", "wb").truncate(400_000_000)
cluster = dispy.JobCluster(len, nodes=[sys.argv[1]], depends=["large"])
print("sending", flush=True)
cluster.submit([])()
"""
    program = world.start(sys.executable, world.write("send.py", script), node.address)
    world.read_line(program)
    root = world.tmp_path / f"dispy-trio-{os.getuid()}"
    until = time.monotonic() + LIMIT

    def unfinished() -> list[str]:
        """A file has no name until it is whole."""
        found = []
        for entry in os.scandir(f"/proc/{node.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
                found.append(os.readlink(entry.path))
        return [file for file in found if file.startswith(str(root)) and "#" in file]

    while not unfinished():
        assert time.monotonic() < until
        time.sleep(0.005)
    program.send_signal(signal.SIGKILL)
    program.wait()
    while unfinished() or list(root.rglob(".dispy-*.part")):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not list(root.rglob("large"))
    with open_cluster(world, where, node.address) as cluster:
        assert cluster.submit()() == "127.0.0.2"


def test_what_a_job_logs_is_seen_on_the_node(world: World) -> None:
    def talk() -> None:
        dispynode_logger.info("job %s on %s", 7, dispy_node_name)  # type: ignore[name-defined]  # noqa: F821

    node = world.start_node("127.0.0.2", "--name", "here")
    with open_cluster(world, talk, node.address) as cluster:
        assert cluster.submit()() is None
    node.process.terminate()
    assert "INFO a job says: job 7 on here" in node.process.communicate(timeout=LIMIT)[1]
