"""Play many programs of `tests.simulation.users`: by default the seeds below 2000, else from one to another.

::

    python -W error -m tests.soak.users 100 200
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.users import Users


def play(seed: int) -> None:
    """One program."""
    logging.disable(logging.CRITICAL)  # Nodes tell of each client that they lose.
    Users(seed).play()


def main() -> None:
    """Play them, and tell how many; the first that fails ends it with its seed."""
    first, last = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (0, 2000)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for seed, played in enumerate(
            [pool.submit(play, seed) for seed in range(first, last)], first
        ):
            try:
                played.result()
            except BaseException as exc:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"seed {seed}: {exc!r}") from exc
    print(f"{last - first} programs left nothing behind")


if __name__ == "__main__":
    main()
