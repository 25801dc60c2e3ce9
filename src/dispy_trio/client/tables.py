"""The table that `print_status` prints."""

from __future__ import annotations

from collections.abc import Iterator

from dispy_trio.client.nodes import ClusterStatus

__all__ = ["size_text", "status_lines"]

_ROW = "{:<30.30} | {:>5} | {:>7} | {:>10} | {:>13} | {:>9} | {:>9}"


def status_lines(status: ClusterStatus, wall_time: float) -> Iterator[str]:
    """The lines of the table.

    Args:
        status: of the cluster.
        wall_time: seconds to compare the nodes' time with.
    """
    yield _ROW.format("Node", "CPUs", "Jobs", "Sec/Job", "Node Time Sec", "Sent", "Rcvd")
    yield "-" * 101
    total = 0.0
    for node in status.nodes:
        total += node.cpu_time
        mean = node.cpu_time / node.jobs_done if node.jobs_done else 0.0
        label = f"{node.address} ({node.name})"
        yield _ROW.format(
            label,
            node.cpus,
            node.jobs_done,
            f"{mean:.3g}",
            f"{node.cpu_time:.3f}",
            size_text(node.tx),
            size_text(node.rx),
        )
    yield ""
    for node in status.nodes:
        if holders := node.slot_holders:
            yield f"Slots of {node.address} held by others: {', '.join(map(str, holders))}"
    yield f"Jobs pending: {status.jobs_pending}"
    speedup = total / wall_time if wall_time else 0.0
    yield (
        f"Total job time: {total:.3f} sec, wall time: {wall_time:.3f} sec, speedup: {speedup:.3f}"
    )


def size_text(count: int) -> str:
    """Bytes, in the unit that suits."""
    value = float(count)
    for unit in ("B", "K", "M", "G"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} T"
