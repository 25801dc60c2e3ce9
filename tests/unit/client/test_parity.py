"""Blocking and Trio clusters can do the same: their public methods, and those of their options."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import dispy_trio
from dispy_trio.client import cluster, optioned

JOB_ID = "a handle's id can be set"
LEAVING = "leaving the block ends the cluster"
BLOCKING_ONLY = {
    "close": LEAVING,
    "shutdown": LEAVING,
    "submit_job_id": JOB_ID,
    "submit_job_id_node": JOB_ID,
}
TRIO_ONLY = {
    "events": "blocking programs have the callbacks job_status and cluster_status",
    "name": "an attribute of each blocking cluster",
    "limiter": "bounds tasks of Trio",
    "run": "submits and awaits; blocking programs call the job",
    "run_sync": "blocking programs make a cluster of a function that calls any",
    "leave_to_parent": "not for users: called at a fork",
}
OTHER_PARAMETERS = {
    "node_jobs.from_node": "has no effect in blocking clusters; dispy has it",
    "send_file.relay": "has no effect in blocking clusters; dispy has it",
    "wait.timeout": "Trio's programs have trio.fail_after",
}
PAIRS = [
    (dispy_trio.JobCluster, dispy_trio.Cluster),
    (optioned.OptionedCluster, cluster.OptionedCluster),
]


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("blocking", "trio_kind"), PAIRS)
def test_what_one_kind_of_cluster_has_the_other_has_too(blocking: Any, trio_kind: Any) -> None:
    assert public(blocking) - public(trio_kind) <= set(BLOCKING_ONLY)
    assert public(trio_kind) - public(blocking) <= set(TRIO_ONLY)


def test_each_exception_is_one() -> None:
    blocking, trio_kind = PAIRS[0]
    assert set(BLOCKING_ONLY) == public(blocking) - public(trio_kind)
    assert set(TRIO_ONLY) == public(trio_kind) - public(blocking)


@pytest.mark.parametrize("kind", range(2))
def test_and_what_blocking_clusters_are_told_trio_clusters_are_told(kind: int) -> None:
    blocking, trio_kind = PAIRS[kind]
    missing = []
    for name in sorted(public(blocking) & public(trio_kind)):
        theirs = inspect.signature(getattr(blocking, name)).parameters
        ours = inspect.signature(getattr(trio_kind, name)).parameters
        missing += [f"{name}.{parameter}" for parameter in theirs if parameter not in ours]
    assert set(missing) <= set(OTHER_PARAMETERS)


# --- handles -----------------------------------------------------------------------------------------
def test_a_handle_shows_what_users_need_and_nothing_else() -> None:
    handle: Any = dispy_trio.JobHandle(1, b"")
    shown = [name for name in dir(handle) if not name.startswith("__")]
    for name in shown:
        assert not name.startswith("_")
        getattr(handle, name)
    # All that dispy's jobs have, but what blocks.
    documented = {"id", "result", "stdout", "stderr", "exception", "status", "ip_addr"}
    documented |= {"submit_time", "start_time", "end_time", "cancel", "wait", "wait_ended"}
    assert documented <= set(shown)
    for internal in ("payload", "node_key", "attempt", "waiters", "extras", "number"):
        assert internal not in shown
        assert internal not in repr(handle)


# --- blocks of the other kind --------------------------------------------------------------------------
def test_a_trio_cluster_in_a_plain_with_names_the_right_form() -> None:
    block = dispy_trio.open_cluster(abs)
    with pytest.raises(TypeError, match=r"async with open_cluster.*with JobCluster"), block:
        raise AssertionError


async def test_a_blocking_cluster_in_an_async_with_names_the_right_form() -> None:
    made: Any = dispy_trio.JobCluster(abs, nodes=["127.0.0.1:1"], secret="parity")
    with pytest.raises(TypeError, match=r"with JobCluster.*async with open_cluster"):
        async with made:
            raise AssertionError
    # Nothing of it is left.
    with pytest.raises(dispy_trio.ClusterClosed):
        made.submit(1)
