"""Count the words of Python's standard library, some 30 MB of text, on all processors.

Prints the ten most frequent; with ``--check`` also counts them in a plain loop and compares.
"""

import argparse
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from dispy_mapreduce import files, map_reduce


def mapper(line):
    for word in line.split():
        yield word, 1


reducer = sum


def sources():
    """The sources of the running interpreter's own library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)


def count_plainly(paths):
    counts = Counter()
    for path in paths:
        # Lines end where map_reduce ends them: at newlines only.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for line in lines:
                counts.update(line.split())
    return counts


def most_frequent(counts):
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with a plain count")
    check = parser.parse_args().check
    paths = sources()
    counts = map_reduce(mapper, reducer, files(*paths)).to_dict()
    for word, count in most_frequent(counts):
        print(f"{word} {count}")
    if check:
        same = counts == dict(count_plainly(paths))
        print("equal to a plain count" if same else "NOT equal to a plain count")
        return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
