"""The command line: spellings, and what is given as opposed to what is default."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import typer.main
from typer.testing import CliRunner

from dispy_trio.cli import app as module
from dispy_trio.cli import mapreduce as mapreduce_module
from dispy_trio.cli import node as node_module
from dispy_trio.cli import run as run_module
from dispy_trio.cli.mapreduce import MapReduceOptions
from dispy_trio.cli.node import Voice
from dispy_trio.cli.node_config import NodeOptions
from dispy_trio.cli.reach import ClusterOptions
from dispy_trio.cli.records import JsonDocument, JsonLines, RecordWriter
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
    return node_call(monkeypatch, *words)[0]


def node_call(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[NodeOptions, Voice]:
    seen: list[tuple[NodeOptions, Voice]] = []

    def run(options: NodeOptions, voice: Voice) -> int:
        seen.append((options, voice))
        return 0

    monkeypatch.setattr(node_module, "run", run)
    invoke("node", *words)
    return seen[0]


def run_options(monkeypatch: pytest.MonkeyPatch, *words: str) -> RunOptions:
    return run_call(monkeypatch, *words)[0]


def run_call(
    monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[RunOptions, RecordWriter | None]:
    seen: list[tuple[RunOptions, RecordWriter | None]] = []

    def run_jobs(options: RunOptions, writer: RecordWriter | None) -> int:
        seen.append((options, writer))
        return 0

    monkeypatch.setattr(run_module, "run_jobs", run_jobs)
    invoke("run", *words)
    return seen[0]


def mapreduce_call(
    monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[MapReduceOptions, RecordWriter | None]:
    seen: list[tuple[MapReduceOptions, RecordWriter | None]] = []
    monkeypatch.setattr(
        mapreduce_module, "run", lambda options, writer: seen.append((options, writer))
    )
    invoke("mapreduce", *words)
    return seen[0]


def test_the_help_tells_the_defaults_that_hold() -> None:
    command = typer.main.get_command(module.app).commands["node"]
    told = {parameter.name: parameter.default for parameter in command.params}
    for name in ("config", "save_config", "dispy_port", "as_json", "as_lines"):
        assert not told.pop(name)
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
        cleanup=False,
        live=False,
        retries=2,
        cluster=ClusterOptions(
            depends=[Path("a_b.txt")],
            nodes=["my_host", "b"],
            timeout=3.0,
            status=True,
            secret_file=Path("s_f"),
            certfile=Path("c"),
            keyfile=Path("k"),
        ),
        ip_addr="i",
        scheduler_node="s",
    )


def or_none(value: object) -> object:
    """Nothing given is an empty list in one place and None in another."""
    if isinstance(value, dict):
        return {name: or_none(part) for name, part in value.items()}
    return value or None


def test_run_s_defaults_are_the_same_on_both_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    options = attrs.asdict(run_options(monkeypatch, "program"))
    assert or_none(options) == or_none(attrs.asdict(RunOptions("program")))


SHARED = (
    *("-n", "a", "--node", "b:7", "--nodes", "c", "--depends", "d", "-f", "e"),
    *("--timeout", "3", "--connect-timeout", "4", "--status", "--secret-file", "s"),
    *("--certfile", "c", "--keyfile", "k"),
)


def test_run_and_mapreduce_have_one_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ClusterOptions(
        nodes=["a", "b:7", "c"],
        depends=[Path("d"), Path("e")],
        timeout=3.0,
        connect_timeout=4.0,
        status=True,
        secret_file=Path("s"),
        certfile=Path("c"),
        keyfile=Path("k"),
    )
    assert run_options(monkeypatch, *SHARED, "program", "-").cluster == expected
    options, _ = mapreduce_call(monkeypatch, *SHARED, "program.py", "-")
    assert options == MapReduceOptions("program.py", ["-"], cluster=expected)
    assert RunOptions("program").cluster.connect_timeout == 30


@pytest.mark.parametrize(
    ("word", "kind"), [("--json", JsonDocument), ("--jsonl", JsonLines), ("--status", type(None))]
)
def test_run_and_mapreduce_print_json_when_asked(
    monkeypatch: pytest.MonkeyPatch, word: str, kind: type
) -> None:
    assert type(run_call(monkeypatch, word, "program")[1]) is kind
    assert type(mapreduce_call(monkeypatch, word, "program.py", "input")[1]) is kind


def test_a_node_prints_json_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("--json", "--jsonl"):
        options, voice = node_call(monkeypatch, word)
        assert options == NodeOptions()
        assert (voice.as_json, voice.as_lines) == (word == "--json", word == "--jsonl")


@pytest.mark.parametrize(
    "command", [("run", "x"), ("mapreduce", "x", "y"), ("node",), ("secret",)], ids=lambda c: c[0]
)
def test_two_kinds_of_json_are_refused(command: tuple[str, ...]) -> None:
    words = [*command, "--json", "--jsonl"]
    with pytest.raises(LocalError, match="--json and --jsonl: give one of them"):
        CliRunner().invoke(module.app, words, catch_exceptions=False)


@pytest.mark.parametrize("word", ["--json", "--jsonl"])
def test_the_secret_s_path_as_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str
) -> None:
    monkeypatch.setenv("DISPY_TRIO_SECRET_FILE", f"{tmp_path}/secret")
    result = CliRunner().invoke(module.app, ["secret", word], catch_exceptions=False)
    assert json.loads(result.stdout) == {"path": f"{tmp_path}/secret"}


# --- help ------------------------------------------------------------------------------------
COMMANDS = ("", "node", "run", "mapreduce", "secret")


def help_of(command: str, columns: int = 100) -> str:
    result = CliRunner().invoke(
        module.app, [*command.split(), "--help"], env={"COLUMNS": str(columns)}
    )
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_types_of_python_and_no_lines_broken_twice(command: str, columns: int) -> None:
    text = help_of(command, columns)
    assert not re.search(
        r"<(bool|int|float|str|path|list)|list\[|\[default: (no-|False|live)", text
    )
    # A line of a paragraph is broken where the next word would not have fitted.
    lines = text.split("╭")[0].splitlines()
    for line, following in pairwise(lines):
        if line.strip() and following.strip():
            assert len(line.rstrip()) + len(following.split()[0]) >= columns - 2, line


def options_of(command: str) -> dict[str, str]:
    """The help of the options that are shown, by their long names."""
    found = typer.main.get_command(module.app).commands[command]  # type: ignore[attr-defined]
    return {
        parameter.opts[0]: f"{parameter.metavar} {parameter.help}"
        for parameter in found.params
        if parameter.param_type_name == "option" and not parameter.hidden
    }


def test_a_word_means_the_same_in_all_commands() -> None:
    commands = [options_of(command) for command in COMMANDS if command]
    for options in commands:
        for name, text in options.items():
            assert all(others.get(name, text) == text for others in commands), name
    assert {"--node", "--secret-file", "--depends", "--timeout", "--connect-timeout"} <= (
        options_of("run").keys() & options_of("mapreduce").keys()
    )


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_reads_as_one_hand(command: str) -> None:
    for name, text in options_of(command).items():
        metavar, _, sentence = text.partition(" ")
        assert metavar == "None" or metavar.upper() == metavar or "|" in metavar or "[" in metavar
        assert re.match(r"[A-Z].*\.$|dispy's ", sentence), name
    assert "Example" in help_of(command)


def test_what_has_no_effect_is_taken_but_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    unused = {
        "node": "ext-host ipv4-udp-multicast scheduler-host ping-interval admin-secret unsafe-setup",
        "run": "ip-addr scheduler-node",
    }
    for command, names in unused.items():
        for name in names.split():
            assert f"--{name}" not in help_of(command)
            assert f"--{name}" not in complete(monkeypatch, f"dispy-trio {command} --")
        assert "--debug" in complete(monkeypatch, f"dispy-trio {command} --")


def complete(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """What a shell offers for it."""
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    result = CliRunner().invoke(
        module.app,
        prog_name="dispy-trio",
        env={"_DISPY_TRIO_COMPLETE": "complete_bash"},
        catch_exceptions=False,
    )
    return result.stdout.split()
