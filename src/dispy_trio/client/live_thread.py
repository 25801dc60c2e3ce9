"""A thread that writes what jobs print: a terminal that is stopped, or a pipe that nobody reads, keeps
no cluster from its work."""

from __future__ import annotations

import threading
from collections import deque

from dispy_trio.client.live import LiveOutput

__all__ = ["SHOW_GRACE", "LiveThread"]

MOST_HELD = 8 * 1024 * 1024
"""Characters that wait to be written; with more of them it is shown no more."""
SHOW_GRACE = 2.0
"""Seconds that the end of a cluster waits for what is not written yet."""


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
        self._thread: threading.Thread | None = None

    def _put(self, which: int, text: str) -> None:
        with self._changed:
            if self._held > MOST_HELD:
                self._texts.clear()
                for each in (0, 1):
                    self._live.fail(each, TimeoutError("nobody reads it as fast as jobs write"))
                return
            self._texts.append((which, text))
            self._held += len(text)
            self._changed.notify_all()
            if self._thread is None:
                # It may wait for a reader for ever, and no program waits for it.
                self._thread = threading.Thread(
                    target=self._run, name="dispy_trio live output", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._texts:
                    self._held = 0
                    if self._finishing:
                        return
                    self._changed.wait()
                which, text = self._texts.popleft()
                self._held -= len(text)
            self._write(which, text)

    def finish(self, seconds: float) -> None:
        """Wait until all is written, or for so long."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                with self._changed:
                    self._texts.clear()
                for which in (0, 1):
                    self._live.fail(which, TimeoutError("nobody reads it"))
