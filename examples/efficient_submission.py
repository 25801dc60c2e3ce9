"""Efficient job submission: never more than a few jobs at a time, however many there are.

All jobs that were submitted and have not ended lie in memory with their arguments. A bound keeps
that small: `job_status` makes room when a job has ended, and no list of jobs is kept.

    python examples/efficient_submission.py
"""

import threading

import dispy_trio as dispy

JOBS = 500
BOUND = 20
ENDS = (
    dispy.DispyJob.Finished,
    dispy.DispyJob.Terminated,
    dispy.DispyJob.Cancelled,
    dispy.DispyJob.Abandoned,
)


def compute(n, data):
    return n + len(data)


def on_job(job):
    global pending, total
    if job.status in ENDS:
        if job.status == dispy.DispyJob.Finished:
            total += job.result
        with counting:
            pending -= 1
        room.release()


if __name__ == "__main__":
    room, counting = threading.Semaphore(BOUND), threading.Lock()
    pending = most = total = 0
    cluster = dispy.JobCluster(compute, job_status=on_job)
    for n in range(JOBS):
        room.acquire()  # Waits while BOUND jobs are under way.
        with counting:
            pending += 1
            most = max(most, pending)
        cluster.submit(n, b"x" * 1000)
    cluster.close()
    print(f"{JOBS} jobs, at most {most} at a time, results sum up to {total}")
