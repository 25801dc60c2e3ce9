"""The functions and variables that dispy's jobs find under fixed names: what `dispy_trio.job` offers to new code."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from dispy_trio.child import calls, context, sending

__all__ = ["NodeLogger", "job_names"]


class NodeLogger:
    """Writes to the log of the node; ``dispynode_logger`` in jobs, setup and cleanup."""

    DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50

    def log(self, level: int, message: Any, *args: Any) -> None:
        """Log at a numeric level, as in `logging`."""
        text = str(message) % args if args else str(message)
        if context.is_job:
            calls.call("log", {"level": level, "text": text[:16_000]})
        else:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            print(stamp, context.node_name, text, file=sys.__stderr__, flush=True)

    def debug(self, message: Any, *args: Any) -> None:
        self.log(self.DEBUG, message, *args)

    def info(self, message: Any, *args: Any) -> None:
        self.log(self.INFO, message, *args)

    def warning(self, message: Any, *args: Any) -> None:
        self.log(self.WARNING, message, *args)

    warn = warning

    def error(self, message: Any, *args: Any) -> None:
        self.log(self.ERROR, message, *args)

    def critical(self, message: Any, *args: Any) -> None:
        self.log(self.CRITICAL, message, *args)


def dispy_provisional_result(result: Any, relay: bool = False, timeout: float | None = None) -> int:
    """Send a result before the end of the job: 0, or -1 when it can't be, or the client did not
    take it; stderr of the job says why."""
    del relay  # There is one way to the client, whatever lies on it.
    try:
        sending.send_result(result, timeout)
    except (OSError, ValueError) as exc:
        print(f"dispy_provisional_result: {exc}", file=sys.stderr)
        return -1
    return 0


def dispy_send_file(path: str, relay: bool = False, timeout: float | None = None) -> int:
    """Send a file to the client: 0, or -1 when it can't be; stderr of the job says why."""
    del relay
    try:
        sending.send_file(path, timeout)
    except (OSError, ValueError) as exc:
        print(f"dispy_send_file: {exc}", file=sys.stderr)
        return -1
    return 0


def job_names(shut_down: Callable[[], None] | None = None) -> dict[str, Any]:
    """The names, as things stand.

    Args:
        shut_down: what ``dispynode_shutdown`` does; None where it can't be called.
    """
    names: dict[str, Any] = {
        "dispy_provisional_result": dispy_provisional_result,
        "dispy_send_file": dispy_send_file,
        "dispy_job_path": context.directory,
        "dispy_node_name": context.node_name,
        "dispy_node_ip_addr": context.node_address,
        "dispynode_logger": NodeLogger(),
    }
    if shut_down is not None:
        names["dispynode_shutdown"] = shut_down
    return names
