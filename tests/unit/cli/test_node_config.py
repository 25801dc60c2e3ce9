"""Options of a node: files and command lines, and what is said of a bad one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.cli import node_config
from dispy_trio.cli.node_config import (
    NodeOptions,
    gather_options,
    hours_of,
    options_without_effect,
    parse_size,
    settings_of,
    write_config,
)
from dispy_trio.config import NodeSettings
from dispy_trio.errors import LocalError
from dispy_trio.services.hours import ServiceHours


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_every_option_can_be_read() -> None:
    assert set(node_config._READERS) == {option.name for option in attrs.fields(NodeOptions)}


def test_without_options_the_settings_are_the_defaults() -> None:
    assert settings_of(gather_options({})) == NodeSettings()


def test_what_is_given_arrives_in_the_units_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.touch()
    given: dict[str, object] = {
        "host": ["127.0.0.2"],
        "dispy_port": 51347,
        "cpus": -1,
        "gpus": 2,
        "resource": ["licence=3", "tape=0"],
        "name": "alpha",
        "secret_file": tmp_path / "secret",
        "certfile": file,
        "keyfile": file,
        "dest_path_prefix": tmp_path,
        "init": file,
        "max_file_size": "3M",
        "zombie_interval": 2.5,
        "zombie_jobs": "end",
        "msg_timeout": 20.0,
        "serve": 3,
        "client_shutdown": True,
        "force_cleanup": True,
    }
    assert settings_of(gather_options(given)) == NodeSettings(
        host="127.0.0.2",
        port=51348,
        cpus=-1,
        gpus=2,
        resources={"licence": 3, "tape": 0},
        name="alpha",
        secret_file=tmp_path / "secret",
        certfile=file,
        keyfile=file,
        dest_path_prefix=tmp_path,
        init=file,
        max_file_size=3 * 1024 * 1024,
        zombie_interval=150.0,
        zombie_jobs="end",
        message_timeout=20.0,
        serve=3,
        client_shutdown=True,
        force_cleanup=True,
    )


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    config = write(
        tmp_path, 'cpus = 3\nname = "file"\nzombie_interval = 5\ndispy-port = 9800\nserve = 7\n'
    )
    options = gather_options({"cpus": 0, "port": 0}, config)
    assert options.cpus == 0  # Also when it says what is the default.
    assert options.port == 0  # Also when the file says it by another name.
    assert options.name == "file"
    assert options.zombie_interval == 5.0
    assert options.serve == 7


def test_a_file_has_tables_and_lists_for_what_is_repeated(tmp_path: Path) -> None:
    config = write(tmp_path, 'ext-host = ["a", "b"]\nscheduler_node = "c"\n[resource]\nx = 1\n')
    options = gather_options({}, config)
    assert options.ext_host == ("a", "b")
    assert options.scheduler_host == "c"
    assert options.resource == {"x": 1}


BAD_VALUES = [
    ("cpus", "1", "whole number"),
    ("cpus", True, "whole number"),
    ("cpus", 1.5, "whole number"),
    ("port", 65536, "from 0 to 65535"),
    ("port", -1, "from 0 to 65535"),
    ("dispy_port", 65535, "from 1 to 65534"),
    ("gpus", -1, "at least 0"),
    ("serve", -2, "at least -1"),
    ("host", "", "one address"),
    ("host", ["a", "b"], "0.0.0.0"),
    ("name", 1, "string"),
    ("zombie_interval", 0.5, "at least 1 minute"),
    ("zombie_interval", "60", "at least 1 minute"),
    ("zombie_jobs", "stay", "run or end"),
    ("zombie_jobs", 1, "run or end"),
    ("ping_interval", 9, "at least 10 seconds"),
    ("msg_timeout", 0, "more than 0"),
    ("msg_timeout", float("nan"), "more than 0"),
    ("msg_timeout", True, "more than 0"),
    ("max_file_size", "1x", "number of bytes"),
    ("max_file_size", "-1", "number of bytes"),
    ("max_file_size", -1, "number of bytes"),
    ("max_file_size", True, "string"),
    ("service_start", "25:00", "HH:MM"),
    ("service_stop", "8", "HH:MM"),
    ("service_end", 800, "string"),
    ("client_shutdown", "True", "true or false"),
    ("ext_host", "a", "list of strings"),
    ("ext_host", [1], "string"),
    ("init", "no/such/file.py", "is not a file"),
    ("certfile", "no/such/file.pem", "is not a file"),
    ("secret_file", "", "path"),
    ("resource", {"a": -1}, "at least 0"),
    ("resource", ["a"], "NAME=N"),
    ("resource", ["=1"], "NAME=N"),
    ("resource", ["a=x"], "NAME=N"),
    ("resource", ["a=1", "a=2"], "twice"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_VALUES)
def test_a_bad_value_is_told_with_its_option_and_what_is_allowed(
    name: str, value: object, allowed: str
) -> None:
    with pytest.raises(LocalError) as caught:
        gather_options({name: value})
    assert str(caught.value).startswith(f"--{name.replace('_', '-')}: ")
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus = 'many'", "cpus in {}: must be a whole number"),
        ("dest_path_prefix = 3", "dest-path-prefix in {}: must be a path"),
        ("colour = 'red'", "colour in {}: there is no such option"),
        ("config = 'x'", "config in {}: there is no such option"),
        ("secret = 'x'", "secret in {}: does not belong there; name a file, secret-file"),
        ("msg-timeout = 1\nmsg_timeout = 2", "msg_timeout in {}: is there twice"),
        ("port = 1\ndispy_port = 2", "dispy-port in {0} and port in {0}: give one of them"),
        ("[DEFAULT]\ncpus = 2", "DEFAULT in {}: there is no such option"),
        ("cpus = ", "the configuration {} is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_key_and_file(
    tmp_path: Path, text: str, said: str
) -> None:
    config = write(tmp_path, text)
    with pytest.raises(LocalError) as caught:
        gather_options({}, config)
    assert str(caught.value).startswith(said.format(config))


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"gone\.toml: No such file"):
        gather_options({}, tmp_path / "gone.toml")
    noise = tmp_path / "noise.toml"
    noise.write_bytes(b"\xff\xfe")
    with pytest.raises(LocalError, match="is not TOML"):
        gather_options({}, noise)


def test_both_ports_are_one_too_many() -> None:
    with pytest.raises(LocalError, match="--dispy-port and --port: give one"):
        gather_options({"port": 1, "dispy_port": 2})


FILES = {"secret_file", "certfile", "keyfile", "dest_path_prefix", "init", "port_file"}
TIMES = {"service_start", "service_stop", "service_end"}


@st.composite
def legal_options(draw: st.DrawFn) -> dict[str, Any]:
    """Values of any options, as a command line has them."""
    values: dict[str, st.SearchStrategy[Any]] = {
        "host": st.sampled_from(["localhost", "::1"]),
        "port": st.integers(0, 65535),
        "cpus": st.integers(-100, 100),
        "serve": st.integers(-1, 100),
        "gpus": st.integers(0, 8),
        "resource": st.dictionaries(
            st.text(st.characters(exclude_characters="=", exclude_categories=["Cs"]), min_size=1),
            st.integers(0, 9),
        ),
        "max_file_size": st.sampled_from(["0", "7", "3k", "4G"]),
        "zombie_interval": st.floats(1, 1e6),
        "zombie_jobs": st.sampled_from(["run", "end"]),
        "msg_timeout": st.floats(0.001, 1e6),
        "ping_interval": st.floats(10, 1e6),
        "ext_host": st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
        "name": st.text(st.characters(exclude_categories=["Cs"])),
        "scheduler_host": st.sampled_from(["a", "b.c"]),
        **{name: st.just(Path(__file__)) for name in FILES},
        **{name: st.sampled_from(["0:00", "23:59"]) for name in TIMES},
    }
    for field in attrs.fields(NodeOptions):
        if field.default is False:
            values[field.name] = st.booleans()
    names = draw(st.sets(st.sampled_from(sorted(values))))
    return {name: draw(values[name]) for name in sorted(names)}


@given(legal_options())
def test_what_was_saved_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]
) -> None:
    file = tmp_path_factory.getbasetemp() / "saved.toml"
    options = gather_options(given)
    write_config(file, options)
    assert gather_options({}, file) == attrs.evolve(options, clean=False)


def test_secrets_are_not_saved(tmp_path: Path) -> None:
    file = tmp_path / "saved.toml"
    write_config(file, gather_options({"secret": "a word", "admin_secret": "a word"}))
    assert "secret" not in file.read_text()
    assert "clean" not in tomllib.loads(file.read_text())


def test_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="can't write the configuration"):
        write_config(tmp_path / "gone" / "node.toml", NodeOptions())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"secret": "a", "secret_file": "b"}, "--secret and --secret-file"),
        ({"keyfile": __file__}, "--keyfile: needs --certfile"),
    ],
)
def test_options_that_contradict_each_other_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(LocalError, match=said):
        settings_of(gather_options(given))


def test_service_hours_are_put_together() -> None:
    assert hours_of(NodeOptions()) is None
    night = {"service_start": "17:00", "service_stop": "6:00", "service_end": "8:00"}
    assert hours_of(gather_options(night)) == ServiceHours(17 * 60, 6 * 60, 8 * 60)
    with pytest.raises(LocalError, match="--service-start: needs --service-stop or --service-end"):
        hours_of(gather_options({"service_start": "17:00"}))
    with pytest.raises(LocalError, match="--service-start, --service-stop, --service-end"):
        hours_of(gather_options({"service_stop": "8:00", "service_end": "6:00"}))


def test_what_has_no_effect_is_told_once_each() -> None:
    assert options_without_effect(NodeOptions()) == []
    lines = options_without_effect(
        gather_options(
            {
                "ext_host": ["a"],
                "ipv4_udp_multicast": True,
                "scheduler_host": "b",
                "ping_interval": 10.0,
                "admin_secret": "c",
                "unsafe_setup": True,
            }
        )
    )
    assert [line.split()[0] for line in lines] == [
        "--ext-host",
        "--ipv4-udp-multicast",
        "--scheduler-host",
        "--ping-interval",
        "--admin-secret",
        "--unsafe-setup",
    ]
    assert all("has no effect" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10", 10), ("2k", 2048), ("2K", 2048), ("1t", 1 << 40)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size
