"""Texts on their way out of a process of jobs, as JSON in a message of limited size."""

from __future__ import annotations

import json

__all__ = ["fit"]


def fit(text: str, size: int) -> str:
    """The text if it takes no more than `size` bytes as JSON; else its beginning and its end, which
    tells most, with a mark between them."""
    keep = size
    cut = text
    while len(cut) > size or len(json.dumps(cut)) > size:
        keep = keep * 3 // 4
        head = keep // 3
        cut = f"{text[:head]} [… {len(text)} characters, cut here …] {text[head - keep :]}"
    return cut
