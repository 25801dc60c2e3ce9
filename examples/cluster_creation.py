"""Cluster creation: the ways to say which nodes a cluster may use, and how much of them.

``nodes`` takes one node or a list of them, each as a string, a tuple, a dict or a `NodeAllocate`.
``"*"`` stands for all that are known: those of DISPY_TRIO_NODES, or this machine.

    python examples/cluster_creation.py
"""

import os

import dispy_trio as dispy


class OneProcessor(dispy.NodeAllocate):
    """Use a single processor of each node that runs Linux, and no other node."""

    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=""):
        return min(cpus, 1) if platform.startswith("Linux") else 0


def compute(n):
    return n + 1


def try_out(how, nodes):
    with dispy.JobCluster(compute, nodes=nodes) as cluster:
        jobs = [cluster.submit(n) for n in range(10)]
        results = [job() for job in jobs]
        addresses = sorted({job.ip_addr for job in jobs})
    assert results == list(range(1, 11))
    print(f"{how}: {' '.join(addresses)}")


if __name__ == "__main__":
    try_out("whatever there is", None)
    try_out("one processor of each", [OneProcessor("*")])
    if named := os.environ.get("DISPY_TRIO_NODES"):
        host, _, port = named.split(",")[0].rpartition(":")
        try_out("host and port", f"{host}:{port}")
        try_out("host, port and processors", [(host, int(port), 1)])
        try_out("the same as a dict", [{"host": host, "port": int(port), "cpus": 1}])
        try_out("the same as an object", [dispy.NodeAllocate(host, port=int(port), cpus=1)])
