"""Updating globals: jobs of one node share a value, and each may improve it.

What an ordinary global of `setup` is set to by a job, other jobs do not see: each runs in a process
of its own. Values and arrays of multiprocessing lie in shared memory. Every node has its own.

    python examples/updating_globals.py
"""

import dispy_trio as dispy

LIMIT = 10_000
PIECE = 1_000


def setup():
    global best
    import multiprocessing

    best = multiprocessing.Array("q", 2)  # The number, and the length of its chain.
    return 0


def cleanup():
    global best
    del best


def longest_chain(start, end):
    improved = 0
    for number in range(start, end):
        n, steps = number, 0
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
        if steps > best[1]:  # A quick look; the one that counts is under the lock.
            with best.get_lock():
                if steps > best[1]:
                    best[:] = [number, steps]
                    improved += 1
    return improved, tuple(best)


if __name__ == "__main__":
    cluster = dispy.JobCluster(longest_chain, setup=setup, cleanup=cleanup)
    jobs = []
    for start in range(1, LIMIT, PIECE):
        job = cluster.submit(start, start + PIECE)
        job.id = f"{start} to {start + PIECE - 1}"
        jobs.append(job)
    winners = set()
    for job in jobs:
        improved, best_so_far = job()
        print(f"{job.id}: improved {improved} times, on {job.ip_addr}")
        winners.add(best_so_far)
    number, steps = max(winners, key=lambda found: found[1])
    print(f"the longest chain below {LIMIT} starts at {number} and has {steps} steps")
    cluster.close()
