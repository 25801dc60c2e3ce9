"""``python -m benchmarks.probe``: one workload on one system, its figures written to a file.

A process of its own, so that imports and memory are that system's alone, and a file rather than
stdout, which systems and their workers print to. Not meant to be called by hand.
"""

import argparse
import json
from pathlib import Path

from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS, Size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe")
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    size = Size(rounds=options.repeat, quick=options.quick)
    figures = WORKLOADS[options.workload](SYSTEMS[options.system], size)
    options.figures.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
