"""Where this library runs, what it says elsewhere, and that no machine type is in what travels."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dispy_mapreduce import columns
from dispy_trio import messages
from dispy_trio.models import Conditions
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.protocol.codec import encode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming-from-dispy.md").read_text()

ELSEWHERE = """
import sys, types
sys.platform = {platform!r}
sys.implementation = types.SimpleNamespace(**{{**vars(sys.implementation), "name": {name!r}}})
import dispy_trio
"""


@pytest.mark.parametrize(
    ("platform", "name"),
    [("darwin", "cpython"), ("win32", "cpython"), ("linux", "pypy"), ("freebsd14", "cpython")],
)
def test_the_import_elsewhere_says_in_one_line_what_to_do(platform: str, name: str) -> None:
    program = ELSEWHERE.format(platform=platform, name=name)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: dispy_trio runs on Linux with CPython, not on {platform} with {name}; what to"
        " do instead: 'Platforms' in docs/coming-from-dispy.md"
    )
    assert "\n## Platforms\n" in PAGE


# --- nodes of several machine types in one cluster -------------------------------------------------
# What travels is msgpack (one form on every machine), pickles (likewise, and code objects depend on
# the minor version of Python alone, which both sides compare), and structs and columns, seen here.
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def struct_formats(tree: ast.AST) -> list[str]:
    """The beginnings of all formats that are given to `struct`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        if re.fullmatch(
            r"struct\.(Struct|pack|unpack|pack_into|unpack_from)", ast.unparse(call.func)
        ):
            found.append(ast.unparse(call.args[0]).removeprefix("f"))
    return found


def test_no_struct_depends_on_the_machine() -> None:
    formats = {
        path.name: struct_formats(ast.parse(path.read_text()))
        for path in SOURCES
        if "struct" in path.read_text()
    }
    assert formats["framing.py"] == ["'<IB'", "'<QQQI'"]
    assert all(text.startswith("'<") for found in formats.values() for text in found), formats


def test_what_travels_is_the_same_bytes_on_every_machine() -> None:
    jobs = messages.RunJobs(
        1, [7, 2**40], [0, 1], [b"a", b"b"], [3], Conditions(timeout=1.5, gpus=2)
    )
    assert bytes(encode(jobs)).hex() == (
        "a90000000b87ac61636b6e6f776c65646765649103a8617474656d707473920001ab636f6d7075746174696f6e"
        "01aa636f6e646974696f6e7388a46370757301a46770757302a56772616365c0a869736f6c61746564c2a86d61"
        "785f6a6f627300a66d656d6f727900a97265736f757263657380a774696d656f7574cb3ff8000000000000a46c"
        "656674c0a76e756d626572739207cf0000010000000000a87061796c6f61647392c40161c40162"
    )
    hello = Hello(3, (3, 12), Role.CLIENT, Kind.BULK, "0f" * 16, b"\1" * 32)
    assert hello.encode()[8:] == bytes.fromhex("0300030c0102" + "0f" * 16 + "01" * 32)
    assert columns.encode([1, -2], [0.5, 2.0]) == bytes.fromhex(
        "69 64 0200000000000000 0800000000000000 1000000000000000"
        " 01000000 feffffff 000000000000e03f 0000000000000040"
    )
