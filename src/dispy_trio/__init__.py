"""Distributed and parallel computing for Python on structured concurrency.

Programs written for dispy 4.15 run after ``import dispy_trio as dispy``. Trio programs use
`open_cluster`. Names are handed on lazily, so that a child process that starts here stays small.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if sys.platform != "linux" or sys.implementation.name != "cpython":
    # In a line: what is missing would be told deep in some module, and piece by piece.
    raise ImportError(
        f"dispy_trio runs on Linux with CPython, not on {sys.platform} with"
        f" {sys.implementation.name}; what to do instead: 'Platforms' in docs/coming-from-dispy.md"
    )

if TYPE_CHECKING:
    from dispy_trio import config as config
    from dispy_trio import httpd as httpd
    from dispy_trio import job as job
    from dispy_trio.child.alias import install_as_dispy as install_as_dispy
    from dispy_trio.client.ambient import run_sync as run_sync
    from dispy_trio.client.blocking import JobCluster as JobCluster
    from dispy_trio.client.cluster import Cluster as Cluster
    from dispy_trio.client.cluster import open_cluster as open_cluster
    from dispy_trio.client.events import ClusterEvents as ClusterEvents
    from dispy_trio.client.events import EventsMissed as EventsMissed
    from dispy_trio.client.events import JobEnded as JobEnded
    from dispy_trio.client.events import JobProvisional as JobProvisional
    from dispy_trio.client.events import JobRequeued as JobRequeued
    from dispy_trio.client.events import JobStarted as JobStarted
    from dispy_trio.client.events import NodeLost as NodeLost
    from dispy_trio.client.events import NodeUsable as NodeUsable
    from dispy_trio.client.handles import JobHandle as JobHandle
    from dispy_trio.client.jobs import DispyJob as DispyJob
    from dispy_trio.client.nodes import ClusterStatus as ClusterStatus
    from dispy_trio.client.nodes import DispyNode as DispyNode
    from dispy_trio.client.nodes import DispyNodeAvailInfo as DispyNodeAvailInfo
    from dispy_trio.client.nodes import NodeAllocate as NodeAllocate
    from dispy_trio.errors import AuthenticationError as AuthenticationError
    from dispy_trio.errors import ClusterClosed as ClusterClosed
    from dispy_trio.errors import ClusterFailed as ClusterFailed
    from dispy_trio.errors import ConnectError as ConnectError
    from dispy_trio.errors import DispyError as DispyError
    from dispy_trio.errors import JobAbandoned as JobAbandoned
    from dispy_trio.errors import JobCancelled as JobCancelled
    from dispy_trio.errors import JobFailed as JobFailed
    from dispy_trio.errors import JobTerminated as JobTerminated
    from dispy_trio.errors import PickleArgumentError as PickleArgumentError
    from dispy_trio.errors import PythonMismatch as PythonMismatch
    from dispy_trio.errors import RemoteTraceback as RemoteTraceback
    from dispy_trio.errors import ResultUnpicklable as ResultUnpicklable
    from dispy_trio.errors import VersionMismatch as VersionMismatch
    from dispy_trio.logs import logger as logger
    from dispy_trio.models import JobStatus as JobStatus

_HOMES = {
    "JobCluster": "client.blocking",
    "Cluster": "client.cluster",
    "open_cluster": "client.cluster",
    "install_as_dispy": "child.alias",
    "run_sync": "client.ambient",
    **dict.fromkeys(
        (
            "ClusterEvents",
            "EventsMissed",
            "JobEnded",
            "JobProvisional",
            "JobRequeued",
            "JobStarted",
            "NodeLost",
            "NodeUsable",
        ),
        "client.events",
    ),
    "DispyJob": "client.jobs",
    "JobHandle": "client.handles",
    "JobStatus": "models",
    "logger": "logs",
    **dict.fromkeys(
        ("ClusterStatus", "DispyNode", "DispyNodeAvailInfo", "NodeAllocate"), "client.nodes"
    ),
    **dict.fromkeys(
        (
            "AuthenticationError",
            "ClusterClosed",
            "ClusterFailed",
            "ConnectError",
            "DispyError",
            "JobAbandoned",
            "JobCancelled",
            "JobFailed",
            "JobTerminated",
            "PickleArgumentError",
            "PythonMismatch",
            "RemoteTraceback",
            "ResultUnpicklable",
            "VersionMismatch",
        ),
        "errors",
    ),
}

_MODULES = frozenset({"config", "httpd", "job"})
_LATER = frozenset({"SharedJobCluster", "recover_jobs"})
"""Names of dispy that only tell what serves meanwhile."""

__all__ = [*sorted([*_HOMES, *_MODULES]), "__version__"]  # noqa: PLE0604 - every key is a str


def __getattr__(name: str) -> object:
    import importlib

    if name in _MODULES:
        # Importing a module of this package sets the attribute, too.
        return importlib.import_module(f"{__name__}.{name}")
    home = "client.later" if name in _LATER else _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
