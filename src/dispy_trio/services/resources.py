"""What is free on this machine, as psutil tells."""

from __future__ import annotations

from dispy_trio.messages import NodeStatus

__all__ = ["read_status"]


def read_status(free_disk: int, seconds: float | None) -> NodeStatus:
    """What is free now.

    Args:
        free_disk: bytes, where computations have their files.
        seconds: how long to watch the processors for it, blocking; None compares with the last
            time.
    """
    # Imported here: a node that nobody watches starts without it.
    import psutil

    return NodeStatus(
        cpu=100.0 - psutil.cpu_percent(interval=seconds),
        memory=psutil.virtual_memory().available,
        disk=free_disk,
        swap=100.0 - psutil.swap_memory().percent,
    )
