"""Process status notifications: functions that are told what happens to jobs and nodes.

`job_status` is called with each provisional result and each end of a job, `cluster_status` with
every step of jobs and nodes. They run one after the other in a thread of the client.

    python examples/status_notifications.py
"""

import dispy_trio as dispy

JOB_STEPS = {
    dispy.DispyJob.Created: "created",
    dispy.DispyJob.Running: "running",
    dispy.DispyJob.ProvisionalResult: "provisional result",
    dispy.DispyJob.Finished: "finished",
    dispy.DispyJob.Terminated: "terminated",
}


def compute(n):
    total = 0
    for i in range(1, n + 1):
        total += i
        if i == n // 2:
            dispy_provisional_result(total)  # noqa: F821 - given to jobs
    if n == 5:
        raise ValueError("five is not liked")
    return total


def on_job(job):
    print(f"job_status: job {job.id} is {JOB_STEPS[job.status]}, result {job.result}")
    if job.exception:
        print(f"job_status: job {job.id} raised {job.exception.splitlines()[-1]}")


def on_cluster(status, node, job):
    if status == dispy.DispyNode.Initialized:
        print(f"cluster_status: node {node.ip_addr} is ready, with {node.cpus} processors")
    elif status == dispy.DispyNode.Closed:
        print(f"cluster_status: node {node.ip_addr} is closed")
    elif job is not None:
        where = f" on {node.ip_addr}" if node is not None else ""
        print(f"cluster_status: job {job.id} is {JOB_STEPS[status]}{where}")


if __name__ == "__main__":
    cluster = dispy.JobCluster(compute, job_status=on_job, cluster_status=on_cluster)
    for n in (4, 5, 6):
        cluster.submit(n)
    cluster.wait()
    cluster.close()  # When this returns, the functions have been called for all that happened.
    print("closed")
