"""Command-line: a program run many times, with other arguments each time.

``dispy-trio run PROGRAM`` makes one job of each ``-a``. A shell is not needed for it, so this
walk-through starts the command itself, one step after the other, and says what it starts:

    python examples/command_line.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(__file__).resolve().with_name("collatz.py")


def dispy_trio(*words: str) -> None:
    print("$ dispy-trio", *words, flush=True)
    subprocess.run([sys.executable, "-m", "dispy_trio", *words], check=True)


if __name__ == "__main__":
    # Two jobs. Nodes are named by -n, or by DISPY_TRIO_NODES; without any, all processors here.
    dispy_trio("run", str(PROGRAM), "-a", "27", "-a", "97")

    # One -a holds all arguments of its job, with spaces between them.
    dispy_trio("run", str(PROGRAM), "-a", "6 7", "-a", "871")

    # A function of a file, without a program round it: a call for each argument, a string.
    dispy_trio("run", f"{PROGRAM}:describe", "27", "97")

    # -f sends a file. Jobs find it where they run, under its path relative to the directory here.
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        Path("numbers.txt").write_text("703\n6171\n")
        dispy_trio("run", str(PROGRAM), "-f", "numbers.txt", "-a", "@numbers.txt")
        os.chdir("/")
