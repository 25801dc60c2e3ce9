"""The options of a node: where they come from, what each may be, and what settings they make.

Every option is a field of `NodeOptions` and has a reader, which takes a value of the command line
or of a TOML file and either returns it or says what is allowed. A key of the file is the name of an
option, with dashes or underscores; the command line comes before the file.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs
from attrs import field, frozen

from dispy_trio.config import DEFAULT_PORT, NodeSettings
from dispy_trio.errors import LocalError
from dispy_trio.services.hours import ServiceHours, parse_time

__all__ = [
    "NodeOptions",
    "gather_options",
    "hours_of",
    "options_without_effect",
    "parse_size",
    "settings_of",
    "write_config",
]

T = TypeVar("T")
Reader = Callable[[object], T]
"""Returns the value, or raises a `ValueError` that says what is allowed."""

ALIASES = {"scheduler_node": "scheduler_host"}
"""Other names of options, for files; the manual of dispy has both."""
NOT_SAVED = ("secret", "admin_secret", "clean")
"""Secrets have a file of their own, and to clean is a deed, not a setting."""


# --- readers ---------------------------------------------------------------------------------
def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {value!r}")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of strings, not {value!r}")
    return tuple(text(part) for part in value)


def path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"must be a path, not {value!r}")
    return Path(value).expanduser()


def existing(value: object) -> Path:
    found = path(value)
    if not found.is_file():
        raise ValueError(f"{found} is not a file")
    return found


def address(value: object) -> str:
    """One address; the option may be repeated in dispy, but our node listens on one."""
    hosts = texts([value] if isinstance(value, str) else value)
    if len(hosts) != 1 or not hosts[0]:
        raise ValueError("must be one address; 0.0.0.0 listens on all of them")
    return hosts[0]


def time_of_day(value: object) -> str:
    parse_time(text(value))
    return text(value)


def whole(low: int | None = None, high: int | None = None) -> Reader[int]:
    allowed = "a whole number" + (
        f" from {low} to {high}"
        if low is not None and high is not None
        else ("" if low is None else f", at least {low}")
    )

    def read(value: object) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            raise ValueError(f"must be {allowed}, not {value!r}")
        return value

    return read


def number(allowed: str, fits: Callable[[float], bool]) -> Reader[float]:
    def read(value: object) -> float:
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or not fits(value)
        ):
            raise ValueError(f"must be {allowed}, not {value!r}")
        return float(value)

    return read


def one_of(*allowed: str) -> Reader[str]:
    def read(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"must be {' or '.join(allowed)}, not {value!r}")
        return str(value)

    return read


def size(value: object) -> str:
    given = str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)
    parse_size(given)
    return given


def amounts(value: object) -> dict[str, int]:
    """A table of the file, or ``NAME=N`` for each of the command line."""
    pairs = list(value.items()) if isinstance(value, dict) else [_amount(p) for p in texts(value)]
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"names {twice[0]!r} twice")
    read = whole(0)
    return {name: read(amount) for name, amount in pairs}


def _amount(pair: str) -> tuple[str, int]:
    name, _, amount = pair.partition("=")
    if not name or not re.fullmatch(r"\d+", amount, re.ASCII):
        raise ValueError(f"must be NAME=N with a whole number, not {pair!r}")
    return name, int(amount)


def parse_size(given: str) -> int:
    """Bytes of ``N`` with an optional unit, as powers of 1024.

    Raises:
        ValueError: it is no such size.
    """
    match = re.fullmatch(r"(\d+)([kmgt]?)", given, re.ASCII | re.IGNORECASE)
    if match is None:
        raise ValueError(f"must be a number of bytes, with k, m, g or t if you like, not {given!r}")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")


# --- the options -----------------------------------------------------------------------------
@frozen
class NodeOptions:
    """What a node is asked for, in the units and the spelling of the command line."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    cpus: int = 0
    gpus: int = 0
    resource: dict[str, int] = field(factory=dict)
    name: str = ""
    secret: str = ""
    secret_file: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    dest_path_prefix: Path | None = None
    init: Path | None = None
    max_file_size: str = "0"
    zombie_interval: float = 60.0
    """Minutes."""
    zombie_jobs: Literal["run", "end"] = "run"
    msg_timeout: float = 10.0
    """Seconds."""
    service_start: str | None = None
    service_stop: str | None = None
    service_end: str | None = None
    serve: int = -1
    client_shutdown: bool = False
    force_cleanup: bool = False
    clean: bool = False
    daemon: bool = False
    debug: bool = False
    port_file: Path | None = None
    ext_host: tuple[str, ...] = ()
    ipv4_udp_multicast: bool = False
    scheduler_host: str | None = None
    ping_interval: float = 0.0
    """Seconds."""
    admin_secret: str = ""
    unsafe_setup: bool = False


_READERS: dict[str, Reader[Any]] = {
    "host": address,
    "port": whole(0, 65535),
    "cpus": whole(),
    "gpus": whole(0),
    "resource": amounts,
    "name": text,
    "secret": text,
    "secret_file": path,
    "certfile": existing,
    "keyfile": existing,
    "dest_path_prefix": path,
    "init": existing,
    "max_file_size": size,
    "zombie_interval": number("0, or at least 1 minute", lambda n: n == 0 or n >= 1),
    "zombie_jobs": one_of("run", "end"),
    "msg_timeout": number("more than 0 seconds", lambda n: n > 0),
    "service_start": time_of_day,
    "service_stop": time_of_day,
    "service_end": time_of_day,
    "serve": whole(-1),
    "client_shutdown": flag,
    "force_cleanup": flag,
    "clean": flag,
    "daemon": flag,
    "debug": flag,
    "port_file": path,
    "ext_host": texts,
    "ipv4_udp_multicast": flag,
    "scheduler_host": text,
    "ping_interval": number("0, or at least 10 seconds", lambda n: n == 0 or n >= 10),
    "admin_secret": text,
    "unsafe_setup": flag,
}


def gather_options(given: Mapping[str, object], config: Path | None = None) -> NodeOptions:
    """The options of the command line, and those of the file that it does not name.

    Args:
        given: what the command line names, by names with underscores.
        config: a TOML file.

    Raises:
        LocalError: names the option, or the key and its file, and says what is allowed.
    """
    read = _read_config(config) if config is not None else {}
    return NodeOptions(**{**read, **_read(given, _spell)})


def _spell(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _read_config(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            table = tomllib.load(opened)
    except OSError as exc:
        raise LocalError(f"can't read the configuration {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise LocalError(f"the configuration {file} is not TOML: {exc}") from exc
    given: dict[str, object] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        name = ALIASES.get(name, name)
        if name in given:
            raise LocalError(f"{key} in {file}: is there twice")
        if name in ("secret", "admin_secret"):
            # Configurations are shown around; a secret's own file must not be readable by others.
            raise LocalError(f"{key} in {file}: does not belong there; name a file, secret-file")
        if name not in _READERS and name != "dispy_port":
            raise LocalError(f"{key} in {file}: there is no such option")
        given[name] = value
    return _read(given, lambda name: f"{name.replace('_', '-')} in {file}")


def _read(given: Mapping[str, object], name_of: Callable[[str], str]) -> dict[str, Any]:
    """Check the values of one source, and turn dispy's base port into ours."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        read = whole(1, 65534) if name == "dispy_port" else _READERS[name]
        try:
            values[name] = read(value)
        except ValueError as exc:
            raise LocalError(f"{name_of(name)}: {exc}") from exc
    if "dispy_port" in values:
        if "port" in values:
            raise LocalError(f"{name_of('dispy_port')} and {name_of('port')}: give one of them")
        # dispy's clients have the base port, its nodes the next one.
        values["port"] = values.pop("dispy_port") + 1
    return values


def write_config(file: Path, options: NodeOptions) -> None:
    """Save the options as a file for ``--config``; never a secret.

    Raises:
        LocalError: it can't be written.
    """
    import tomli_w

    table: dict[str, Any] = {}
    for name, value in attrs.asdict(options).items():
        if name in NOT_SAVED or value is None or value in ("", (), {}):
            continue  # TOML has no word for nothing.
        table[name.replace("_", "-")] = str(value) if isinstance(value, Path) else value
    try:
        file.write_text(tomli_w.dumps(table))
    except OSError as exc:
        raise LocalError(f"can't write the configuration {file}: {exc.strerror}") from exc


# --- what they mean --------------------------------------------------------------------------
def settings_of(options: NodeOptions) -> NodeSettings:
    """The settings of the node.

    Raises:
        LocalError: two options contradict each other.
    """
    if options.secret and options.secret_file is not None:
        raise LocalError("--secret and --secret-file: give one of them")
    if options.keyfile is not None and options.certfile is None:
        raise LocalError("--keyfile: needs --certfile")
    return NodeSettings(
        host=options.host,
        port=options.port,
        cpus=options.cpus,
        name=options.name,
        secret=options.secret,
        secret_file=options.secret_file,
        certfile=options.certfile,
        keyfile=options.keyfile,
        dest_path_prefix=options.dest_path_prefix,
        init=options.init,
        max_file_size=parse_size(options.max_file_size),
        zombie_interval=60.0 * options.zombie_interval,
        zombie_jobs=options.zombie_jobs,
        message_timeout=options.msg_timeout,
        client_shutdown=options.client_shutdown,
        force_cleanup=options.force_cleanup,
        serve=options.serve,
        gpus=options.gpus,
        resources=dict(options.resource),
    )


def hours_of(options: NodeOptions) -> ServiceHours | None:
    """The service hours; None when there are none.

    Raises:
        LocalError: they are incomplete or not in order.
    """
    times = (options.service_start, options.service_stop, options.service_end)
    if times == (None, None, None):
        return None
    start, stop, end = (None if time is None else parse_time(time) for time in times)
    if stop is None and end is None:
        raise LocalError("--service-start: needs --service-stop or --service-end")
    try:
        return ServiceHours(start, stop, end)
    except LocalError as exc:
        raise LocalError(f"--service-start, --service-stop, --service-end: {exc}") from exc


def options_without_effect(options: NodeOptions) -> list[str]:
    """A line for each option that is given but does nothing (yet)."""
    dialled = "has no effect yet: clients dial nodes by their address"
    reasons = {
        "ext_host": dialled,
        "ipv4_udp_multicast": dialled,
        "scheduler_host": dialled,
        "ping_interval": dialled,
        "admin_secret": "has no effect yet: there is nothing to administer nodes with; clients dial"
        " them by their address, and the node's secret lets them in",
        "unsafe_setup": "has no effect: setup always runs in the computation's own process",
    }
    return [f"{_spell(name)} {why}" for name, why in reasons.items() if getattr(options, name)]
