"""Updating nodes: run a program once on every node, to install something, say.

    python examples/update_nodes.py                   # what kind of system is it?
    python examples/update_nodes.py df --si /         # any program with its arguments

The program is looked up here, as a shell would, and sent. Each node is told to run it when it is
ready.
"""

import os
import queue
import sys

import dispy_trio as dispy


def on_status(status, node, job):
    if status == dispy.DispyNode.Initialized:
        ready.put(node)


if __name__ == "__main__":
    program, *args = sys.argv[1:] or ["uname", "-s"]
    ready = queue.SimpleQueue()
    cluster = dispy.JobCluster(program, cluster_status=on_status)
    jobs = []
    for _ in os.environ.get("DISPY_TRIO_NODES", "this machine").split(","):
        node = ready.get()
        jobs.append(cluster.submit_node(node, *args))
    for job in jobs:
        status = job()
        print(f"{job.ip_addr}: exit status {status}, {job.stdout.decode().strip()}")
    cluster.close()
