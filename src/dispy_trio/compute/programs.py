"""Computations that are programs: where they are found, and what stands for them on nodes."""

from __future__ import annotations

import os
import shutil

from dispy_trio.child.program import Program
from dispy_trio.models import JobFile

__all__ = ["find_program"]


def find_program(text: str, java: str) -> tuple[Program, JobFile]:
    """The program of that path, or of that name on ``$PATH``, and the file that nodes are sent.

    Python and Java sources are run by the node's own Python and Java.

    Args:
        text: path or name.
        java: path of Java on the nodes.

    Raises:
        ValueError: there is none, or it can't be executed; says what to do.
    """
    path = text if os.path.isfile(text) else shutil.which(text)
    if os.path.isdir(text):
        raise ValueError(f"computation {text!r} is a directory, not a program")
    if path is None:
        raise ValueError(f"computation {text!r} is neither a file nor a program on $PATH")
    name = os.path.basename(path)
    if not name.endswith((".py", ".java")) and not os.access(path, os.X_OK):
        raise ValueError(f"computation {text!r} is not executable; type: chmod +x {text}")
    return Program(name, java), JobFile(os.path.abspath(path), name)
