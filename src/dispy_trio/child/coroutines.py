"""An async function as a computation: each call of it is a run of Trio.

A job's interrupt is a KeyboardInterrupt, which might come anywhere in Trio's own code. While Trio
runs it is a cancellation instead: the function sees `trio.Cancelled` at its next checkpoint.

This module is imported only where a computation is async: Trio is not small.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from dispy_trio.child import context

__all__ = ["Coroutine"]


class Coroutine:
    """Calls an async function, and returns what it returns."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of the function.

        Raises:
            KeyboardInterrupt: the job was cancelled, and the function ended by it.
        """
        run = _Run()
        context.on_interrupt = run.interrupt
        try:
            value = trio.run(run.main, self.function, args, kwargs)
        finally:
            context.on_interrupt = None
        if run.scope.cancelled_caught:
            raise KeyboardInterrupt
        return value


class _Run:
    """One call."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._interrupted = False

    async def main(
        self,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._token = trio.lowlevel.current_trio_token()
        # Either this line sees that it came before, or `interrupt` sees the token.
        if self._interrupted:
            self.scope.cancel()
        with self.scope:
            return await function(*args, **kwargs)

    def interrupt(self) -> None:
        """Cancel the call. Runs in a signal handler, on the thread of the call."""
        self._interrupted = True
        if self._token is not None:
            try:
                self._token.run_sync_soon(self.scope.cancel)
            except trio.RunFinishedError:
                pass  # It came too late: the call is over.
