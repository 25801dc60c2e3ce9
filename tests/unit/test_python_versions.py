"""Nothing in the code behaves differently on the first patch releases of the Pythons we support."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(
    [
        ROOT / "noxfile.py",
        *(
            path
            for folder in ("src", "tests", "examples", "benchmarks")
            for path in (ROOT / folder).rglob("*.py")
        ),
    ]
)
OTHER_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def raises_in_except_star(code: str) -> list[int]:
    """The lines that raise in an ``except*``: before Python 3.11.4 a group comes out of it."""
    return [
        line
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
        for statement in handler.body
        for line in _raises(statement)
    ]


def _raises(node: ast.AST) -> Iterator[int]:
    if isinstance(node, OTHER_FUNCTIONS):
        return  # Called from elsewhere.
    if isinstance(node, ast.Raise):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _raises(child)


def test_nothing_raises_in_except_star() -> None:
    found = {path: lines for path in CODE if (lines := raises_in_except_star(path.read_text()))}
    assert not found


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("    pass", []),
        ("    raise", [4]),
        ("    if 1:\n        raise KeyError from None", [5]),
        ("    def later():\n        raise KeyError", []),
    ],
)
def test_a_raise_in_except_star_is_found(body: str, lines: list[int]) -> None:
    assert raises_in_except_star(f"try:\n    pass\nexcept* OSError:\n{body}\n") == lines
    assert raises_in_except_star(f"try:\n    pass\nexcept OSError:\n{body}\n") == []
