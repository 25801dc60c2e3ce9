"""MapReduce with `map_reduce`: the words of some files, counted on all nodes.

Compare mapreduce_two_clusters.py, which prints the same. wordcount.py counts larger files.

    python examples/mapreduce.py
"""

from pathlib import Path

from dispy_mapreduce import map_reduce


def words(line):
    for word in line.split():
        yield word, 1


if __name__ == "__main__":
    files = sorted(Path(__file__).parent.glob("*.py"))
    counts = map_reduce(words, sum, files).to_dict()
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]:
        print(word, count)
