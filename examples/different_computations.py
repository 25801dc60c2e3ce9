"""Execute different computations: one cluster, and a function of its own for each job.

The computation of the cluster is only a delegate. The function that a job needs is sent with that
job, is found by its name, and is gone when the job has ended.

    python examples/different_computations.py
"""

import dispy_trio as dispy


def delegate(name, *args):
    return globals()[name](*args)


def mean(*numbers):
    return sum(numbers) / len(numbers)


def greatest_common_divisor(a, b):
    while b:
        a, b = b, a % b
    return a


def reverse(text):
    return text[::-1]


if __name__ == "__main__":
    cluster = dispy.JobCluster(delegate)
    jobs = []
    for function, *args in (
        (mean, 3, 5, 10),
        (greatest_common_divisor, 1071, 462),
        (reverse, "stressed"),
        (mean, 1, 2),
    ):
        job = cluster.submit(function.__name__, *args, dispy_job_depends=[function])
        job.id = f"{function.__name__}{tuple(args)}"
        jobs.append(job)
    for job in jobs:
        print(f"{job.id} is {job()}")
    cluster.close()
