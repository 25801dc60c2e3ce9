"""What `faulthandler` wrote to a job's stderr when its process crashed: where it was at that moment."""

from __future__ import annotations

import os
import re

__all__ = ["crash_report", "without_report"]

_OURS = os.path.join("dispy_trio", "child", "")
_BEGIN = re.compile(rb"^Fatal Python error: ", re.MULTILINE)
_SEARCHED = 64 * 1024
"""Bytes at the end of stderr in which it is looked for."""


def _begin(written: bytes | memoryview) -> int:
    """Where the report begins; -1 when there is none."""
    offset = max(0, len(written) - _SEARCHED)
    found = [match.start() for match in _BEGIN.finditer(bytes(written[offset:]))]
    # The last one: a job may have written anything before.
    return offset + found[-1] if found else -1


def crash_report(written: bytes | memoryview) -> str:
    """The report at the end of stderr, without the calls that are ours; empty when there is none."""
    begin = _begin(written)
    if begin < 0:
        return ""
    text = bytes(written[begin:]).decode(errors="backslashreplace")
    lines = text.splitlines()
    ours = next((n for n, line in enumerate(lines) if _OURS in line), len(lines))
    rest = [n for n in range(ours, len(lines)) if not lines[n].startswith("  ")]
    after = rest[0] if rest else len(lines)
    return "\n".join(lines[:ours] + lines[after:]).rstrip()


def without_report(written: bytes | memoryview) -> bytes | memoryview:
    """What was written before it."""
    begin = _begin(written)
    return written if begin < 0 else written[:begin]
