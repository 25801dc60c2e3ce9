"""A plain program that knows nothing of clusters: the length of Collatz chains.

command_line.py and python_script.py run it on nodes. By itself:

    python examples/collatz.py 27 97
"""

import argparse


def steps(n: int) -> int:
    """Halve even numbers, triple odd ones and add one: how often until 1?"""
    count = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        count += 1
    return count


def describe(number: int | str) -> str:
    return f"{number}: {steps(int(number))} steps"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(fromfile_prefix_chars="@")
    parser.add_argument("numbers", type=int, nargs="+", metavar="N", help="1 or more")
    for number in parser.parse_args().numbers:
        print(describe(number))
