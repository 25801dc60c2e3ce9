"""Counts the words in the sources of Python's standard library, on all processors.

Prints the ten most frequent. With ``--check`` a plain loop counts them too, and the program says
whether the two agree.
"""

import argparse
import heapq
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dispy_mapreduce import InlineEngine, map_reduce


def mapper(line: str) -> Iterator[tuple[str, int]]:
    """Each word of a line, once for every time it is there."""
    for word in line.split():
        yield word, 1


reducer = sum


def library_sources() -> list[Path]:
    """All modules of the running interpreter that came with it."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(library.rglob("*.py"))
    return [path for path in modules if "site-packages" not in path.relative_to(library).parts]


def plain_count(paths: Iterable[Path]) -> Counter[str]:
    """The same by one loop."""
    counts: Counter[str] = Counter()
    for path in paths:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for line in file:
                counts.update(line.split())
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with a plain loop")
    parser.add_argument("--inline", action="store_true", help="run in this process, to debug")
    parser.add_argument("--node", action="append", metavar="HOST:PORT", help="a node to use")
    options = parser.parse_args()

    sources = library_sources()
    counts = map_reduce(
        mapper,
        reducer,
        sources,
        nodes=options.node,
        cluster=InlineEngine() if options.inline else None,
    ).to_dict()

    # The most frequent first; of equally frequent ones, in the order of the alphabet.
    for word, count in heapq.nsmallest(10, counts.items(), key=lambda item: (-item[1], item[0])):
        print(word, count)
    if options.check:
        agrees = counts == plain_count(sources)
        print("a plain loop counts the same" if agrees else "A PLAIN LOOP COUNTS DIFFERENTLY")
        return 0 if agrees else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
