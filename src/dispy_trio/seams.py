"""The only doors to the outside: network, wall clock, randomness, files and processes.

Each is passed in. Production gives the real ones (`runtime.net`, `compute.processes`); a simulated
cluster gives those of `testing`, and then runs in one process under `trio.testing.MockClock`.
Durations never come through here: they are `trio.current_time()`, which the mock clock serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio
from attrs import define, field

from dispy_trio.core.workers import (
    TemplateDied,
    TemplateEvent,
    TemplateFailed,
    TemplateReady,
    WorkerCall,
    WorkerDied,
    WorkerJob,
    WorkerRecalled,
    WorkerRefused,
    WorkerResult,
    WorkerResults,
    WorkerStarted,
)

__all__ = [
    "ByteStream",
    "Listener",
    "Net",
    "Spawner",
    "Store",
    "Template",
    "TemplateDied",
    "TemplateEvent",
    "TemplateFailed",
    "TemplateReady",
    "WallClock",
    "WorkerCall",
    "WorkerDied",
    "WorkerJob",
    "WorkerRecalled",
    "WorkerRefused",
    "WorkerResult",
    "WorkerResults",
    "WorkerStarted",
]

WallClock = Callable[[], float]
"""Seconds since the epoch, for timestamps that people read; `time.time` in production."""


# --- network -----------------------------------------------------------------------------------
class ByteStream(Protocol):
    """One reliable, ordered byte stream."""

    @property
    def peer(self) -> str:
        """Address of the other end, ``host:port``, for error texts."""
        ...

    @property
    def secure(self) -> bytes:
        """SHA-256 of the listening side's TLS certificate; empty when the stream is not TLS."""
        ...

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Hand over what the kernel takes at once, never waiting.

        Returns the number of bytes taken, possibly 0 (TLS streams always answer 0).

        Raises:
            ConnectionLost: the stream is dead.
        """
        ...

    def receive_nowait(self, buffer: memoryview) -> int | None:
        """Put what is there at the start of `buffer`; None when nothing is, 0 at the end."""
        ...

    @property
    def descriptor(self) -> int | None:
        """To wait on outside of Trio, for streams that allow `receive_nowait` from any thread."""
        ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything. A failure or cancellation in the middle leaves the stream unusable."""
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and put them at the start of `buffer`; 0 means the other end closed."""
        ...

    async def aclose(self) -> None:
        """Close at once; later calls raise `ConnectionLost`."""
        ...


class Listener(Protocol):
    """Accepts byte streams on one bound address."""

    @property
    def address(self) -> tuple[str, int]:
        """The address bound, with the port the kernel chose when 0 was asked for."""
        ...

    async def accept(self) -> ByteStream: ...

    async def aclose(self) -> None: ...


class Net(Protocol):
    """Dials and listens."""

    async def dial(self, host: str, port: int) -> ByteStream:
        """Open a stream.

        Raises:
            ConnectError: names the address and the reason.
        """
        ...

    async def listen(self, host: str, port: int) -> Listener:
        """Bind; port 0 lets the system choose.

        Raises:
            PortInUse: names the address.
        """
        ...


# --- files -------------------------------------------------------------------------------------
class Store(Protocol):
    """Directories and segments on this machine."""

    async def make_directory(self, name: str) -> str:
        """Make a fresh directory, 0700, whose name begins with `name`; return its path, without
        links."""
        ...

    async def lasting_directory(self, name: str) -> str:
        """The directory of that name, 0700, which outlives the node; made when it is missing."""
        ...

    def remove_soon(self, path: str) -> None:
        """Have a directory removed with all that is in it, while other things go on."""
        ...

    async def take_away(self, path: str) -> None:
        """Free a directory's name at once, and have it removed soon; it may be gone already."""
        ...

    async def run(self) -> None:
        """Remove what is to be removed, and what dead nodes left; until cancelled."""
        ...

    async def aclose(self) -> None:
        """Remove the directories that are left, but for the lasting ones.

        Cancelled, it leaves them to the next node that starts.
        """
        ...

    def make_segment(self, size: int) -> tuple[int, memoryview]:
        """Make a shared memory file of that many bytes, and map it."""
        ...


# --- processes ---------------------------------------------------------------------------------
class Template(Protocol):
    """One computation's process that forks workers. All methods are sync and never wait.

    What happens is told through the callback given to `Spawner.open_template`, one event at a
    time, from the same Trio thread.
    """

    def start_worker(self, worker: int) -> None:
        """Fork a worker; `WorkerStarted`, `WorkerRefused` or `WorkerDied` follows."""
        ...

    def send_jobs(self, worker: int, jobs: Sequence[WorkerJob]) -> None:
        """Append to the worker's queue."""
        ...

    def poll(self, worker: int) -> tuple[int, float]:
        """Deliver results that the worker has finished but not announced.

        Returns the sequence of the last job it started and when that was (epoch seconds).
        """
        ...

    def linger(self, worker: int, seconds: float) -> None:
        """Block until the worker has a result, for at most that many seconds."""
        ...

    def recall(self, worker: int) -> None:
        """Take back all jobs the worker has not started; `WorkerRecalled` follows."""
        ...

    def interrupt(self, worker: int, sequence: int) -> None:
        """SIGINT to the job's process group, if that very job still runs."""
        ...

    def terminate(self, worker: int, sequence: int) -> None:
        """SIGTERM to the job's process group, if that very job still runs."""
        ...

    def kill(self, worker: int) -> None:
        """SIGKILL to the worker's whole process group; `WorkerDied` follows."""
        ...

    def stop_worker(self, worker: int) -> None:
        """Ask an idle worker to exit; `WorkerDied` follows with ``how="stopped"``."""
        ...

    def output(self, worker: int, sequence: int) -> tuple[bytes, bytes]:
        """What the job has written to stdout and stderr since this was asked last; nothing when
        it does not run any more."""
        ...

    async def clean_up(self, timeout: float) -> str:
        """Kill the workers and run the computation's cleanup; what went wrong, or nothing."""
        ...

    def answer(self, worker: int, call: int, body: dict[str, Any]) -> None:
        """Answer a `WorkerCall`."""
        ...

    def give_up(self, text: str) -> None:
        """Kill everything; `TemplateDied` with that text follows."""
        ...

    async def aclose(self) -> None:
        """Kill what is left, reap it, release every descriptor and file. Returns when gone."""
        ...


@define
class TemplateSettings:
    """What a template process is told beside its bundle."""

    directory: str
    """The computation's directory: workers start in it, and it is first on ``sys.path``."""
    node_name: str = ""
    node_ip: str = ""
    arguments: bytes = b""
    """Pickled arguments of setup and cleanup."""
    setup_timeout: float = 0.0
    """Seconds until `TemplateFailed`; 0 for no limit."""
    init: str = ""
    """Path of the node's own Python file, which is run before all else."""
    message_timeout: float = 10.0
    """Seconds that a client has to take what a job sends it, when the job does not say."""
    environment: dict[str, str] = field(factory=dict)
    output_limit: int = 0
    """Bytes kept of each of a job's stdout and stderr; the middle of longer ones is cut out. 0 for
    all."""


class Spawner(Protocol):
    """Starts template processes."""

    async def open_template(
        self,
        bundle: memoryview | bytes,
        settings: TemplateSettings,
        on_event: Callable[[TemplateEvent], None],
        nursery: trio.Nursery,
    ) -> Template:
        """Start a template and hand it the bundle; returns before it has loaded it."""
        ...

    def prepare(self) -> None:
        """Start a process ahead of the first computation, to save its start-up."""
        ...

    def close(self) -> None:
        """End what `prepare` started, if it was not used."""
        ...
