"""Distributing objects: instances of one's own classes as arguments and as results.

dispy needs the class in ``depends``; here it may be there, and is sent along in any case.

    python examples/distributing_objects.py
"""

import dispy_trio as dispy


class Range:
    """Some numbers, and how many of them are primes, once somebody has counted."""

    def __init__(self, start, end):
        self.start = start
        self.end = end
        self.primes = None

    def count(self):
        divisors = range(2, int(self.end**0.5) + 1)
        numbers = range(max(self.start, 2), self.end)
        self.primes = sum(all(n % d for d in divisors if d * d <= n) for n in numbers)

    def __str__(self):
        return f"{self.start} to {self.end}: {self.primes} primes"


def compute(numbers):
    numbers.count()  # On the node, in a copy.
    return numbers


if __name__ == "__main__":
    cluster = dispy.JobCluster(compute, depends=[Range])
    jobs = [cluster.submit(Range(start, start + 1000)) for start in range(0, 5000, 1000)]
    total = 0
    for job in jobs:
        counted = job()
        print(counted)
        total += counted.primes
    print(f"{total} primes in all")
    cluster.close()
