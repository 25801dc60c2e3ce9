"""Recover jobs and nodes: a node dies, and its jobs are done by others.

With ``reentrant=True`` jobs of a lost node are sent elsewhere, so they may run more than once.
Without it they end as Abandoned, and run at most once. Try it with two nodes:

    dispy-trio node --port 9701 --cpus 2
    dispy-trio node --port 9702 --cpus 2
    DISPY_TRIO_NODES=127.0.0.1:9701,127.0.0.1:9702 python examples/reentrant.py

and end one of them while it runs. What this release does not have yet is dispy's second half of
that chapter: to fetch the results of a client that has died (`recover_jobs`).
"""

import dispy_trio as dispy


def compute(n):
    import time

    time.sleep(0.2)
    return 2 * n


if __name__ == "__main__":
    cluster = dispy.JobCluster(compute, reentrant=True, pulse_interval=0.5)
    jobs = [cluster.submit(n) for n in range(20)]
    for n, job in enumerate(jobs):
        result = job()
        assert result == 2 * n, job.exception
        print(f"job {job.id} was done by {job.ip_addr}", flush=True)
    print("all of them were done")
    cluster.close()
