"""Canonical program: one function, ten jobs, their results.

Each job integrates a tenth of a quarter of the unit circle; the sum is pi / 4.

    python examples/canonical.py

Without nodes it runs on all processors of this machine. With nodes:

    DISPY_TRIO_NODES=host1:9701,host2:9701 python examples/canonical.py
"""


def compute(start, end, steps):
    # Runs on a node: what it needs, it imports.
    import math
    import socket

    width = (end - start) / steps
    middles = (start + (n + 0.5) * width for n in range(steps))
    area = sum(math.sqrt(1 - x * x) for x in middles) * width
    return socket.gethostname(), area


if __name__ == "__main__":
    import dispy_trio as dispy

    cluster = dispy.JobCluster(compute)
    jobs = []
    for i in range(10):
        job = cluster.submit(i / 10, (i + 1) / 10, steps=20_000)
        job.id = i  # Anything that helps to know it again.
        jobs.append(job)
    total = 0.0
    for job in jobs:
        host, area = job()  # Waits until the job has ended.
        print(f"job {job.id} took {job.end_time - job.start_time:.3f} s on {host}, {job.ip_addr}")
        total += area
    print(f"pi is about {4 * total:.5f}")
    cluster.print_status()
    cluster.close()
