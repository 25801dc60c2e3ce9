"""Replace in-memory data: when a node is through with one set of data, it is given the next.

`allocate` is called when a node is found, and again by `resetup_node`; the arguments it sets are
those of the next `setup`. A node for which nothing is left answers 0 and is not used any more.

    python examples/replace_in_memory.py
"""

import queue

import dispy_trio as dispy

SETS = ["amber", "birch", "cedar", "dune", "ember"]
JOBS_PER_SET = 2


def setup(name):
    global letters
    letters = sorted(name)  # Imagine a file of some gigabytes.
    return 0


def cleanup(name):
    global letters
    del letters


def compute(n):
    return "".join(letters), letters[n]


class TakeNext(dispy.NodeAllocate):
    """Gives each node the next set, and remembers which one it has."""

    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=""):
        if ip_addr not in given:
            if not waiting:
                return 0
            given[ip_addr] = waiting.pop(0)
        self.setup_args = (given[ip_addr],)
        return cpus


def on_status(status, node, job):
    events.put((status, node, job))  # Looked at by the main thread, one after the other.


if __name__ == "__main__":
    waiting, given, left = list(SETS), {}, {}
    events = queue.SimpleQueue()
    cluster = dispy.JobCluster(
        compute, nodes=[TakeNext("*")], setup=setup, cleanup=cleanup, cluster_status=on_status
    )
    results = 0
    while results < len(SETS) * JOBS_PER_SET:
        status, node, job = events.get()
        if status == dispy.DispyNode.Initialized:
            left[node.ip_addr] = JOBS_PER_SET
            for n in range(JOBS_PER_SET):
                cluster.submit_node(node, n)
        elif status == dispy.DispyJob.Finished:
            results += 1
            print(f"{given[node.ip_addr]} on {node.ip_addr}: {job.result}")
            left[node.ip_addr] -= 1
            if not left[node.ip_addr]:
                del given[node.ip_addr]
                cluster.resetup_node(node)
    cluster.close()
