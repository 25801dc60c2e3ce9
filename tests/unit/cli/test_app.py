"""The command line: spellings, and what is given as opposed to what is default."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import typer.main
from typer.testing import CliRunner

from dispy_trio.cli import app as module
from dispy_trio.cli import node as node_module
from dispy_trio.cli import run as run_module
from dispy_trio.cli.node_config import NodeOptions
from dispy_trio.cli.run import RunOptions
from dispy_trio.errors import LocalError


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets what a whole process logs."""
    level = logging.getLogger().level
    monkeypatch.setattr(module, "_debug", False)
    yield
    logging.getLogger().setLevel(level)


def invoke(*words: str) -> None:
    result = CliRunner().invoke(module.app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def node_options(monkeypatch: pytest.MonkeyPatch, *words: str) -> NodeOptions:
    """What a node would be run with."""
    seen: list[NodeOptions] = []
    monkeypatch.setattr(node_module, "run", seen.append)
    invoke("node", *words)
    return seen[0]


def run_options(monkeypatch: pytest.MonkeyPatch, *words: str) -> RunOptions:
    seen: list[RunOptions] = []

    def run_jobs(options: RunOptions) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(run_module, "run_jobs", run_jobs)
    invoke("run", *words)
    return seen[0]


def test_the_help_tells_the_defaults_that_hold() -> None:
    command = typer.main.get_command(module.app).commands["node"]
    told = {parameter.name: parameter.default for parameter in command.params}
    for name in ("config", "save_config", "dispy_port"):
        assert told.pop(name) is None
    for option in attrs.fields(NodeOptions):
        holds = getattr(NodeOptions(), option.name)
        assert (told.pop(option.name) or None) in (holds or None, [holds]), option.name
    assert not told


def test_without_words_a_node_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_options(monkeypatch) == NodeOptions()


def test_the_spelling_of_dispy_is_understood(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert node_options(
        monkeypatch,
        *("--dest_path_prefix", f"{tmp_path}/a_b"),
        *("--dispy_port=1000", "--ext_host", "my_host", "--ext_host", "--my_other_host"),
        *("--client_shutdown", "--force_cleanup", "--ipv4_udp_multicast", "--unsafe_setup"),
        *("--zombie_interval", "1", "--ping_interval", "10", "--msg_timeout", "5"),
        *("--service_start", "8:00", "--service_stop", "9:00", "--service_end", "10:00"),
        *("--scheduler_host", "a", "--admin_secret", "b", "--max_file_size", "1m", "--serve", "2"),
        *("-c", "-1", "-i", "::1", "-s", "c", "--daemon", "--clean", "--name", "my_name"),
    ) == NodeOptions(
        dest_path_prefix=tmp_path / "a_b",
        port=1001,
        ext_host=("my_host", "--my_other_host"),
        client_shutdown=True,
        force_cleanup=True,
        ipv4_udp_multicast=True,
        unsafe_setup=True,
        zombie_interval=1.0,
        ping_interval=10.0,
        msg_timeout=5.0,
        service_start="8:00",
        service_stop="9:00",
        service_end="10:00",
        scheduler_host="a",
        admin_secret="b",
        max_file_size="1m",
        serve=2,
        cpus=-1,
        host="::1",
        secret="c",
        daemon=True,
        clean=True,
        name="my_name",
    )


def test_scheduler_node_is_the_name_in_the_manual(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_options(monkeypatch, "--scheduler_node", "a").scheduler_host == "a"


def test_a_word_of_the_command_line_replaces_that_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text("cpus = 3\ndaemon = true\nclient-shutdown = true\n")
    options = node_options(
        monkeypatch, "--config", str(config), "--cpus", "0", "--no-client-shutdown"
    )
    assert options == NodeOptions(daemon=True)


def test_a_configuration_is_saved_instead_of_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    invoke("node", "--save_config", str(config), "--resource", "tape=1", "-p", "1000")
    assert node_options(monkeypatch, "--config", str(config)) == NodeOptions(
        port=1001, resource={"tape": 1}
    )


def test_debug_of_a_node_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_options(monkeypatch, "-d").debug
    assert logging.getLogger().level == logging.DEBUG
    assert module._debug


def test_a_bad_word_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalError, match="--zombie-interval: must be 0, or at least 1 minute"):
        node_options(monkeypatch, "--zombie_interval", "0.5")


def test_run_takes_the_words_of_dispy_cmd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_options(
        monkeypatch,
        *("-a", "--my_level 1", "-a", "2", "-f", "a_b.txt", "-n", "my_host", "--nodes", "b"),
        *("-c", "--secret_file", "s_f", "--certfile", "c", "--keyfile", "k", "--ip_addr", "i"),
        *("--scheduler_node", "s", "--timeout", "3", "--retries", "2", "--status", "--no-live"),
        *("my_program", "x_y", "--", "--z_z"),
    ) == RunOptions(
        computation="my_program",
        argument_strings=["--my_level 1", "2"],
        arguments=["x_y", "--z_z"],
        depends=[Path("a_b.txt")],
        nodes=["my_host", "b"],
        cleanup=False,
        live=False,
        timeout=3.0,
        retries=2,
        status=True,
        secret_file=Path("s_f"),
        certfile=Path("c"),
        keyfile=Path("k"),
        ip_addr="i",
        scheduler_node="s",
    )


def test_run_s_defaults_are_the_same_on_both_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    options = attrs.asdict(run_options(monkeypatch, "program"))
    for name, value in attrs.asdict(RunOptions("program")).items():
        assert (options[name] or None) == (value or None), name
