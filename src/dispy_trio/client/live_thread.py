"""A thread that writes what jobs print: a terminal that is stopped, or a pipe that nobody reads, keeps
no cluster from its work."""

from __future__ import annotations

import select
import threading
from collections import deque
from typing import Any

from dispy_trio.client.live import LiveOutput

__all__ = ["SHOW_GRACE", "LiveThread"]

MOST_HELD = 8 * 1024 * 1024
"""Characters that wait to be written; with more of them it is shown no more."""
SHOW_GRACE = 2.0
"""Seconds that the end of a cluster waits for more of it to be written."""
PIECE = 1000
"""Characters; a pipe into which anything can be written takes them, whatever they are."""
LOOK_SECONDS = 0.1
"""How often it is looked whether anybody still wants it to be shown."""


class LiveThread:
    """Writes what one `LiveOutput` shows."""

    def __init__(self, live: LiveOutput) -> None:
        self._live = live
        self._write = live.put
        live.put = self._put
        self._changed = threading.Condition()
        self._texts: deque[tuple[int, str]] = deque()
        self._held = 0
        self._finishing = False
        self._pieces = 0
        """That were written."""
        self._thread: threading.Thread | None = None

    def _put(self, which: int, text: str) -> None:
        with self._changed:
            if self._held > MOST_HELD:
                self._give_up("nobody reads it as fast as jobs write")
                return
            self._texts.append((which, text))
            self._held += len(text)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="dispy_trio live output", daemon=True
                )
                self._thread.start()

    def _give_up(self, why: str) -> None:
        for which in (0, 1):
            self._live.fail(which, TimeoutError(why))
        self._texts.clear()
        self._held = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts or self._finishing)
                if not self._texts:
                    return
                which, text = self._next_piece()
                self._held -= len(text)
            for start in range(0, len(text), PIECE):
                if not self._wait_writable(which):
                    break
                self._write(which, text[start : start + PIECE])
                self._pieces += 1

    def _next_piece(self) -> tuple[int, str]:
        """Several lines, if they are short: each write is a call of the system."""
        which, text = self._texts.popleft()
        lines = [text]
        length = len(text)
        while self._texts and self._texts[0][0] == which:
            length += len(self._texts[0][1])
            if length > PIECE:
                break
            lines.append(self._texts.popleft()[1])
        return which, "".join(lines)

    def _wait_writable(self, which: int) -> bool:
        """Wait until a stream takes something: a thread that hangs in a write keeps a program from
        its end. False when it is not to be shown any more."""
        descriptor = _descriptor_of(self._live.streams()[which])
        while which not in self._live.failures:
            if descriptor is None or select.select([], [descriptor], [], LOOK_SECONDS)[1]:
                return True
        return False

    def finish(self, seconds: float) -> None:
        """Wait until all is written; when nothing was for `seconds`, what is left never is."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return
        written = -1
        while thread.is_alive() and written != self._pieces:
            written = self._pieces
            thread.join(seconds)
        if thread.is_alive():
            with self._changed:
                self._give_up("nobody reads it")
            thread.join(2 * LOOK_SECONDS)


def _descriptor_of(stream: Any) -> int | None:
    try:
        descriptor: int = stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None  # It is none of the system's, or closed, which is found by writing.
    return descriptor
