"""The systems that are compared, each reduced to submitting one job and gathering results.

Only the standard library is imported here: this module also runs under a peer's own interpreter.
The systems themselves are imported when they are opened, so that a probe holds one of them at a
time and its memory is that system's.
"""

import contextlib
import functools
import importlib
import importlib.util
import operator
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

WORKERS = 2
_FEW = (300,)
_HUNDREDS = (1_000,)
_THOUSANDS = (5_000,)
_MANY = (10_000, 100_000)
_NODE_READY_TIMEOUT = 20.0

Call = Callable[..., object]
# No type is common to what the systems hand out for a job, hence Any for handles.
Handle = Any


class Session(NamedTuple):
    """A system with its workers, ready for jobs that all call the same function."""

    submit: Callable[[object], Handle]
    """The system's own single-job call, with as little as possible wrapped round it."""
    gather: Callable[[list[Handle]], list[object]]
    """All results in the order of the handles; raises what a job raised."""
    node_pid: int | None = None
    """The process that passes jobs on to workers, where there is one outside this process."""


class System(NamedTuple):
    """What the harness knows about a system before it opens it."""

    open: Callable[[Call], AbstractContextManager[Session]]
    module: str
    """What has to be importable for the system to be there."""
    sizes: tuple[int, ...]
    """Numbers of jobs for W1, small enough for a slow system and large enough for a fast one; the
    best of them counts."""
    whole_process: str = ""
    """A program that starts two workers, has one result and ends; empty where W4 makes no sense."""
    workloads: tuple[str, ...] = ("W1", "W2", "W3", "W4")


def is_importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _each(result: Callable[[Handle], object]) -> Callable[[list[Handle]], list[object]]:
    return lambda handles: [result(handle) for handle in handles]


@contextlib.contextmanager
def _multiprocessing(call: Call) -> Iterator[Session]:
    import multiprocessing

    with multiprocessing.Pool(WORKERS) as pool:
        apply_async = pool.apply_async
        yield Session(
            lambda value: apply_async(call, (value,)), _each(operator.methodcaller("get"))
        )


@contextlib.contextmanager
def _concurrent_futures(call: Call) -> Iterator[Session]:
    from concurrent.futures import Future, ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        yield Session(partial(executor.submit, call), _each(Future.result))


@contextlib.contextmanager
def _loky(call: Call) -> Iterator[Session]:
    loky = importlib.import_module("loky")
    with loky.ProcessPoolExecutor(max_workers=WORKERS) as executor:
        yield Session(partial(executor.submit, call), _each(operator.methodcaller("result")))


@contextlib.contextmanager
def _mpire(call: Call) -> Iterator[Session]:
    mpire = importlib.import_module("mpire")
    with mpire.WorkerPool(n_jobs=WORKERS, keep_alive=True) as pool:
        apply_async = pool.apply_async
        yield Session(
            lambda value: apply_async(call, (value,)), _each(operator.methodcaller("get"))
        )


@contextlib.contextmanager
def _dask(call: Call) -> Iterator[Session]:
    distributed = importlib.import_module("distributed")
    with distributed.Client(
        n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
    ) as client:
        yield Session(partial(client.submit, call, pure=False), client.gather)


@contextlib.contextmanager
def _ray(call: Call) -> Iterator[Session]:
    ray = importlib.import_module("ray")
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        yield Session(ray.remote(call).remote, ray.get)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _executorlib(call: Call) -> Iterator[Session]:
    executorlib = importlib.import_module("executorlib")
    with executorlib.SingleNodeExecutor(max_workers=WORKERS, block_allocation=True) as executor:
        yield Session(partial(executor.submit, call), _each(operator.methodcaller("result")))


@contextlib.contextmanager
def _ppft(call: Call) -> Iterator[Session]:
    ppft = importlib.import_module("ppft")
    server = ppft.Server(ncpus=WORKERS)
    try:
        submit = server.submit
        yield Session(
            lambda value: submit(call, (value,)), _each(operator.methodcaller("__call__"))
        )
    finally:
        server.destroy()


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _while_starting(node: subprocess.Popen[bytes]) -> Iterator[None]:
    """Turns for looking whether a node is ready; raises when it ends or takes too long instead."""
    patience = time.monotonic() + _NODE_READY_TIMEOUT
    while time.monotonic() < patience:
        if node.poll() is not None:
            raise RuntimeError(f"the node ended with code {node.returncode} before it was ready")
        yield
        time.sleep(0.02)
    raise RuntimeError(f"the node was not ready within {_NODE_READY_TIMEOUT:g} s")


def port_of(node: subprocess.Popen[bytes], port_file: Path) -> int:
    """Wait for the node to write its port."""
    for _ in _while_starting(node):
        text = port_file.read_text().split() if port_file.exists() else []
        if text:
            return int(text[0])
    raise AssertionError("waiting ends by a port or by an exception")


def _wait_listening(node: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the node accepts connections."""
    for _ in _while_starting(node):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return


@contextlib.contextmanager
def _dispy_trio(call: Call, **options: object) -> Iterator[Session]:
    """A node of its own, reached over TCP loopback, as on a cluster.

    Args:
        call: what jobs run.
        options: of each job, as of `JobCluster.options`.
    """
    dispy = importlib.import_module("dispy_trio")
    port_file = Path("node.port").absolute()
    port_file.unlink(missing_ok=True)
    serve = ["node", "--host", "127.0.0.1", "--port", "0", "--cpus", str(WORKERS)]
    with started(sys.executable, "-m", "dispy_trio", *serve, "--port-file", str(port_file)) as node:
        address = f"127.0.0.1:{port_of(node, port_file)}"
        cluster = dispy.JobCluster(call, nodes=[address])
        submit = cluster.options(**options).submit if options else cluster.submit
        try:
            yield Session(submit, _each(lambda job: job()), node.pid)
        finally:
            cluster.close()


@contextlib.contextmanager
def _dispy(call: Call) -> Iterator[Session]:
    dispy = importlib.import_module("dispy")
    node_program = Path(sys.executable).with_name("dispynode.py")
    prefix = Path("dispy-node").absolute()
    prefix.mkdir(exist_ok=True)
    serve = ["--host", "127.0.0.1", "--cpus", str(WORKERS), "--daemon", "--clean"]
    with started(
        sys.executable, str(node_program), *serve, "--dest_path_prefix", str(prefix)
    ) as node:
        _wait_listening(node, dispy.config.DispyPort + 1)
        cluster = dispy.JobCluster(call, host="127.0.0.1", nodes=["127.0.0.1"])

        def result(handle: Handle) -> object:
            # dispy loses one job in some hundreds to a race in its node and hands back None for it.
            # Its users have to send such a job again, and so does this.
            value, job = handle
            got: object = job()
            while job.status != dispy.DispyJob.Finished:
                job = cluster.submit(value)
                got = job()
            return got

        try:
            yield Session(lambda value: (value, cluster.submit(value)), _each(result), node.pid)
        finally:
            cluster.close()


_FUTURES_PROGRAM = """
from {module} import {name}
from benchmarks.calls import same
if __name__ == "__main__":
    with {name}({workers}) as executor:
        assert executor.submit(same, 1).result() == 1
"""

_POOL_PROGRAM = """
from {module} import {name}
from benchmarks.calls import same
if __name__ == "__main__":
    with {name}({workers}) as pool:
        assert pool.apply_async(same, (1,)).get() == 1
"""

_DASK_PROGRAM = f"""
from distributed import Client
from benchmarks.calls import same
if __name__ == "__main__":
    with Client(n_workers={WORKERS}, threads_per_worker=1, dashboard_address=None) as client:
        assert client.submit(same, 1).result() == 1
"""

_RAY_PROGRAM = f"""
import ray
from benchmarks.calls import same
ray.init(num_cpus={WORKERS}, include_dashboard=False, log_to_driver=False)
assert ray.get(ray.remote(same).remote(1)) == 1
ray.shutdown()
"""

_DISPY_TRIO_PROGRAM = f"""
import dispy_trio as dispy
from benchmarks.calls import same
if __name__ == "__main__":
    cluster = dispy.JobCluster(same, cpus={WORKERS})
    assert cluster.submit(1)() == 1
    cluster.close()
"""


def _program(template: str, module: str, name: str) -> str:
    return template.format(module=module, name=name, workers=WORKERS)


SYSTEMS = {
    "dispy_trio": System(
        _dispy_trio, "dispy_trio", _MANY, _DISPY_TRIO_PROGRAM, ("W1", "W2", "W3", "W4", "W5")
    ),
    "dispy_trio_isolated": System(
        functools.partial(_dispy_trio, isolation="job"), "dispy_trio", _THOUSANDS, workloads=("W1",)
    ),
    "multiprocessing": System(
        _multiprocessing,
        "multiprocessing",
        _MANY,
        _program(_POOL_PROGRAM, "multiprocessing", "Pool"),
    ),
    "concurrent_futures": System(
        _concurrent_futures,
        "concurrent.futures",
        (10_000,),
        _program(_FUTURES_PROGRAM, "concurrent.futures", "ProcessPoolExecutor"),
    ),
    "loky": System(
        _loky, "loky", (10_000,), _program(_FUTURES_PROGRAM, "loky", "ProcessPoolExecutor")
    ),
    "mpire": System(_mpire, "mpire", (10_000,), _program(_POOL_PROGRAM, "mpire", "WorkerPool")),
    "dask": System(_dask, "distributed", _HUNDREDS, _DASK_PROGRAM),
    "ray": System(_ray, "ray", _THOUSANDS, _RAY_PROGRAM),
    "executorlib": System(
        _executorlib,
        "executorlib",
        _THOUSANDS,
        _program(_FUTURES_PROGRAM, "executorlib", "SingleNodeExecutor"),
    ),
    "ppft": System(_ppft, "ppft", _THOUSANDS, workloads=("W1", "W2", "W3")),
    "dispy": System(_dispy, "dispy", _FEW, workloads=("W1", "W2")),
}
"""By the name that ``--only`` takes. dispy runs under the interpreter given by ``--dispy-python``."""
