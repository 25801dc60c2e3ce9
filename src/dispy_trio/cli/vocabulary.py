"""The words that commands have in common, so that each means the same in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = [
    "CONNECT_TIMEOUT",
    "HOURS",
    "SECRET_SEEN",
    "TRUST",
    "Certfile",
    "Command",
    "ConnectTimeout",
    "Debug",
    "Depends",
    "Group",
    "Json",
    "JsonLines",
    "Keyfile",
    "Nodes",
    "Secret",
    "SecretFile",
    "Status",
    "Timeout",
]

CONNECT_TIMEOUT = 30
"""Seconds to wait for a first node."""

SECRET_SEEN = "--secret can be seen by all who list processes; prefer --secret-file"
"""What to say to who uses it."""

# Headings in the help.
TRUST = "Who may use it"
HOURS = "When it serves"

Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        "--nodes",
        "-n",
        metavar="HOST[:PORT]",
        help="Run on this node; repeatable. Without: on those in $DISPY_TRIO_NODES, or on this"
        " machine.",
    ),
]
Depends = Annotated[
    list[Path] | None,
    typer.Option(
        "--depends", "-f", metavar="FILE", help="File that the jobs need beside them; repeatable."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", help="Terminate a job that runs longer."),
]
ConnectTimeout = Annotated[
    float,
    typer.Option(
        "--connect-timeout",
        metavar="SECONDS",
        help="End with status 3 when no node can be used within this time.",
    ),
]
Status = Annotated[
    bool, typer.Option("--status", help="Show a table of the nodes at the end, on stderr.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
JsonLines = Annotated[
    bool, typer.Option("--jsonl", help="Print JSON instead of text, a line for each result.")
]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="The secret that nodes and clients share; the one of dispy-trio secret when not"
        " given.",
        rich_help_panel=TRUST,
    ),
]
Secret = Annotated[
    str,
    typer.Option(
        "--secret",
        "-s",
        metavar="TEXT",
        help="The secret itself; others can see it. Better: a file.",
        rich_help_panel=TRUST,
    ),
]
Certfile = Annotated[
    Path | None,
    typer.Option(
        "--certfile",
        metavar="FILE",
        help="Certificate (PEM) for connections with TLS.",
        rich_help_panel=TRUST,
    ),
]
Keyfile = Annotated[
    Path | None,
    typer.Option(
        "--keyfile",
        metavar="FILE",
        help="Its key, when that is not in the same file.",
        rich_help_panel=TRUST,
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", "-d", help="Say everything, with the tracebacks of errors.")
]


class _Plain:
    """Shows flags as words without a value, arguments by their names alone, and text as it fits."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the other base
        for param in params:
            if getattr(param, "is_flag", False) or getattr(param, "count", False):
                param.metavar = ""
                param.show_default = False
            elif param.param_type_name == "argument":
                # Their names say more than the type in Python.
                param.display_type_rich = lambda ctx: None
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.help: str | None
        if self.help is not None:
            # Of all paragraphs but the first, Typer keeps the lines of the source.
            paragraphs = self.help.split("\n\n")
            self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        super().format_help(ctx, formatter)  # type: ignore[misc]  # of the other base


class Command(_Plain, TyperCommand):
    """A command with plain help."""


class Group(_Plain, TyperGroup):
    """A group of commands with plain help."""
