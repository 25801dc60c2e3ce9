"""MapReduce, as dispy's manual builds it: two clusters in one program, on nodes of their own.

What the jobs of the first cluster return is sorted into groups here, and each group is a job of
the second. mapreduce.py is the same in a few lines; there the data does not pass through here.

    python examples/mapreduce_two_clusters.py
"""

import os
from pathlib import Path

import dispy_trio as dispy

GROUPS = 4


def mapper(text):
    """The words of a file, each with how often it is there."""
    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def reducer(pairs):
    """The sum for each word of a group."""
    sums = {}
    for word, count in pairs:
        sums[word] = sums.get(word, 0) + count
    return sums


if __name__ == "__main__":
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    named = os.environ.get("DISPY_TRIO_NODES", "").split(",")
    some, others = (named[::2], named[1::2]) if len(named) > 1 else (None, None)
    map_cluster = dispy.JobCluster(mapper, nodes=some)
    reduce_cluster = dispy.JobCluster(reducer, nodes=others)

    groups = [[] for _ in range(GROUPS)]
    for job in [map_cluster.submit(text) for text in texts]:
        for word, count in job().items():
            groups[sum(word.encode()) % GROUPS].append((word, count))
    counts = {}
    for job in [reduce_cluster.submit(group) for group in groups]:
        counts.update(job())

    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]:
        print(word, count)
    map_cluster.close()
    reduce_cluster.close()
