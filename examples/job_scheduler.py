"""Process status notifications, second part: a job scheduler of one's own.

Jobs are not queued by `submit`: the program hears of each node that is ready and of each job that
ends, and decides by itself what that node is to do next, with `submit_node`.

    python examples/job_scheduler.py
"""

import queue
import threading

import dispy_trio as dispy

PIECES = list(range(1, 25))


def compute(n):
    import time

    time.sleep(0.01)
    return n * n


def give_next(node):
    """Give the node a piece, if there is one left."""
    if pieces:
        job = cluster.submit_node(node, pieces.pop())
        if job is None:
            print(f"{node.ip_addr} did not take a job")


def on_status(status, node, job):
    with deciding:  # Held also while the cluster is made, so `cluster` is there.
        if status == dispy.DispyNode.Initialized:
            for _ in range(node.cpus):
                give_next(node)
        elif status == dispy.DispyJob.Finished:
            done.put((node.ip_addr, job.result))
            give_next(node)


if __name__ == "__main__":
    pieces, done, deciding = list(PIECES), queue.SimpleQueue(), threading.Lock()
    with deciding:
        cluster = dispy.JobCluster(compute, cluster_status=on_status)
    counts, total = {}, 0
    for _ in PIECES:
        address, square = done.get()
        counts[address] = counts.get(address, 0) + 1
        total += square
    for address, count in sorted(counts.items()):
        print(f"{address} did {count} jobs")
    print(f"the squares of 1 to {len(PIECES)} sum up to {total}")
    cluster.close()
