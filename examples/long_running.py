"""Long running computations: a job that is cancelled hands over what it has so far.

`cancel` raises KeyboardInterrupt in the job. A job that catches it has five seconds to return a
value, and then has finished as any other.

    python examples/long_running.py
"""

import queue

import dispy_trio as dispy


def leibniz(terms):
    quarter, n = 0.0, 0
    try:
        while n < terms:
            quarter += (-1) ** n / (2 * n + 1)
            n += 1
            if n == 100_000:
                dispy_provisional_result(4 * quarter)  # noqa: F821 - given to jobs
    except KeyboardInterrupt:
        pass  # Somebody is content with less; whatever has been summed up is the result.
    return n, 4 * quarter


def on_job(job):
    if job.status == dispy.DispyJob.ProvisionalResult:
        good_enough.put(job.result)


if __name__ == "__main__":
    good_enough = queue.SimpleQueue()
    cluster = dispy.JobCluster(leibniz, job_status=on_job)
    job = cluster.submit(10**12)  # Days.
    print(f"on the way: {good_enough.get():.3f}")
    cluster.cancel(job)
    n, pi = job()
    assert job.status == dispy.DispyJob.Finished
    assert 100_000 <= n < 10**12
    print(f"cancelled, with a result: {pi:.3f}")
    cluster.close()
