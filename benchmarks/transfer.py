"""``python -m benchmarks.transfer``: a large file as a dependency, to two nodes at a time.

Reports how long it took, whether the content arrived, how much memory the supervisors took beyond
what they have when idle, and how late their pulses were meanwhile.
"""

import argparse
import contextlib
import hashlib
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import dispy_trio as dispy
from benchmarks.systems import port_of, started

PULSE = 1.0
HOSTS = ("127.0.0.2", "127.0.0.3")


def digest(name: str) -> str:
    """What a job finds in the file."""
    with open(name, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Watch(threading.Thread):
    """Looks at the memory of some processes, ten times a second."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self._done = threading.Event()
        self.idle = [process.memory_info().rss for process in processes]
        self.peak = list(self.idle)

    def run(self) -> None:
        while not self._done.wait(0.1):
            for index, process in enumerate(self._processes):
                self.peak[index] = max(self.peak[index], process.memory_info().rss)

    def stop(self) -> list[float]:
        """How much each has grown, at most; MiB."""
        self._done.set()
        self.join()
        return [(peak - idle) / 2**20 for peak, idle in zip(self.peak, self.idle, strict=True)]


def write_file(path: Path, size: int) -> str:
    """Random content; its SHA-256."""
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        while size:
            data = os.urandom(min(size, 2**20))
            file.write(data)
            hasher.update(data)
            size -= len(data)
    return hasher.hexdigest()


def measure(size: int) -> int:
    """Run, report, and return the exit status."""
    pulses: dict[str, list[float]] = {host: [] for host in HOSTS}
    ready = threading.Semaphore(0)

    def cluster_status(status: int, node: Any, job: Any) -> None:
        if status == dispy.DispyNode.AvailInfo:
            pulses[node.ip_addr].append(time.monotonic())
        elif status == dispy.DispyNode.Initialized:
            ready.release()

    def wait_ready() -> None:
        for _ in HOSTS:
            ready.acquire()

    told = write_file(Path("large.bin"), size)
    with _nodes() as (nodes, processes):
        # What the first computation of all costs belongs to being idle.
        with dispy.JobCluster(abs, nodes=nodes, cluster_status=cluster_status) as warm:
            wait_ready()
            warm.submit(-1)()
        watch = Watch(processes)
        watch.start()
        start = time.monotonic()
        with dispy.JobCluster(
            digest,
            nodes=nodes,
            depends=["large.bin"],
            pulse_interval=PULSE,
            cluster_status=cluster_status,
        ) as cluster:
            wait_ready()
            seconds = time.monotonic() - start
            jobs = [cluster.submit_node(node, "large.bin") for node in nodes]
            right = all(job is not None and job() == told for job in jobs)
        grown = watch.stop()
    late = max(
        after - before - PULSE
        for times in pulses.values()
        for before, after in itertools.pairwise(times)
    )
    print(f"{size / 2**20:.0f} MiB to {len(nodes)} nodes: {seconds:.1f} s")
    print(f"content verified by jobs: {right}")
    print(f"supervisors' memory above idle, at most: {max(grown):.1f} MiB (target 64)")
    print(f"latest pulse: {late:.3f} s late, of an interval of {PULSE:g} s (target one interval)")
    return 0 if right and max(grown) <= 64 and late <= PULSE else 1


@contextlib.contextmanager
def _nodes() -> Iterator[tuple[list[str], list[psutil.Process]]]:
    """Two nodes: their addresses, and their processes."""
    addresses, processes = [], []
    with contextlib.ExitStack() as stack:
        for host in HOSTS:
            port_file = Path(f"{host}.port").absolute()
            command = [sys.executable, "-m", "dispy_trio", "node", "--host", host, "--port", "0"]
            node = stack.enter_context(started(*command, "--port-file", str(port_file)))
            addresses.append(f"{host}:{port_of(node, port_file)}")
            processes.append(psutil.Process(node.pid))
        yield addresses, processes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--size", type=int, default=2048, metavar="MIB")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="transfer-") as scratch:
        os.chdir(scratch)
        os.environ["TMPDIR"] = scratch
        os.environ["XDG_CONFIG_HOME"] = scratch
        try:
            return measure(given.size * 2**20)
        finally:
            os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
