"""In-memory processing: data that every node prepares once, and all of its jobs use.

`setup` runs once on each node, before the jobs. What it makes global is there for the jobs without
being sent or copied; a lock or a shared value of multiprocessing is one for all jobs of the node.
`cleanup` runs when the cluster is closed. Both get the node's `setup_args`.

    python examples/in_memory.py
"""

import dispy_trio as dispy

LIMIT = 100_000


def setup(limit):
    global lock, served, sieve
    import multiprocessing

    sieve = bytearray([0, 0]) + bytearray([1]) * (limit - 2)  # sieve[n] is 1 when n is a prime
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit, n)))
    lock = multiprocessing.Lock()
    served = multiprocessing.Value("i", 0, lock=False)
    return 0  # Anything but 0, 1 and 2 is a failure: the node is not used.


def cleanup(limit):
    global lock, served, sieve
    del lock, served, sieve


def count(start, end):
    with lock:
        served.value += 1
        turn = served.value
    return sum(sieve[start:end]), turn


if __name__ == "__main__":
    nodes = [dispy.NodeAllocate("*", setup_args=(LIMIT,))]
    cluster = dispy.JobCluster(count, nodes=nodes, setup=setup, cleanup=cleanup)
    jobs = [cluster.submit(start, start + 5000) for start in range(0, LIMIT, 5000)]
    turns = {}
    total = 0
    for job in jobs:
        primes, turn = job()
        total += primes
        turns.setdefault(job.ip_addr, []).append(turn)
    print(f"{total} primes below {LIMIT}")
    for address, of_node in sorted(turns.items()):
        print(f"{address}: jobs {min(of_node)} to {max(of_node)} of {len(of_node)} used one sieve")
    cluster.close()
