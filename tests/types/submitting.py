"""What type checkers say of jobs. The `types` session checks this file; nothing runs it.

An error that is expected here and does not come is one itself (``warn_unused_ignores``).
"""

from __future__ import annotations

from typing import assert_type

import dispy_trio as dispy


def compute(n: int, scale: float = 1.0) -> float:
    return n * scale


cluster = dispy.JobCluster(compute, depends=["data.csv"])
Job = dispy.DispyJob[float]

# The arguments are those of the computation.
assert_type(cluster.submit(1), Job)
assert_type(cluster.submit(1, scale=2.0), Job)
assert_type(cluster.submit_job_id("id", 1), Job)
assert_type(cluster.submit_node("host", 1, 2.0), Job | None)
assert_type(cluster.submit_job_id_node("id", "host", 1), Job | None)
cluster.submit("one")  # type: ignore[call-overload]
cluster.submit(1, size=2)  # type: ignore[call-overload]
cluster.submit_job_id("id")  # type: ignore[call-overload]
cluster.submit_node("host")  # type: ignore[call-overload]

# What one job needs beside them may be given with each.
assert_type(cluster.submit(1, dispy_job_depends=["more.csv", compute]), Job)
assert_type(cluster.submit_job_id("id", 1, scale=2.0, dispy_job_depends=[]), Job)
assert_type(cluster.submit_node("host", 1, dispy_job_depends=("more.csv",)), Job | None)
assert_type(cluster.submit_job_id_node("id", "host", 1, dispy_job_depends=[]), Job | None)
cluster.submit(1, dispy_job_depends=17)  # type: ignore[call-overload]

optioned = cluster.options(timeout=60)
assert_type(optioned.submit(1, dispy_job_depends=["more.csv"]), Job)
assert_type(optioned.submit_job_id("id", 1, dispy_job_depends=["more.csv"]), Job)
assert_type(optioned.submit_node("host", 1, dispy_job_depends=["more.csv"]), Job | None)
optioned.submit("one")  # type: ignore[call-overload]

# A job of a program's own.
own: dispy.DispyJob[float] = dispy.DispyJob(None, (1,), {})


async def call_any(limit: int) -> None:
    async with dispy.open_cluster() as any_function:
        assert_type(await any_function.run_sync(compute, 1), float)
        assert_type(await dispy.run_sync(len, "abc", limit=limit), int)
    async with dispy.open_cluster(compute) as trio_cluster:
        assert_type(await trio_cluster.run(1), float)
        assert_type(await trio_cluster.submit_node("host", 1), dispy.JobHandle[float])
