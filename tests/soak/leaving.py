"""``python -m tests.soak.leaving``: Trio programs that are cancelled or interrupted at any moment.

Each opens a cluster, runs jobs and closes it, half of them with a node of its own. Cancelled are
many in one process, by a deadline; each interrupted one is a process that gets a SIGINT. All of them
have to end within a second, with no word but that of the interrupt, and nothing may be left: no
process, no file, no computation on the node.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SLOWEST = 1.0
"""Seconds that leaving may take."""
LIMIT = 60.0
MARK = "LEAVING_SOAK"
CANCELS_EACH = 10
"""In one process."""

PROGRAM = """
import sys, time
import trio
from dispy_trio import open_cluster

nodes = sys.argv[1].split() or None

def work(seconds):
    time.sleep(seconds)
    return seconds

async def use():
    async with open_cluster(work, nodes, connect_timeout=30) as cluster:
        await cluster.run(0)
        jobs = [cluster.submit(0.02) for _ in range(20)]
        async for _ in cluster.map([0.005] * 20):
            pass
        await jobs[0].wait()
        with trio.move_on_after(0.05):
            await cluster.run(10)

async def cancelled(seconds):
    with trio.move_on_after(seconds) as scope:
        await use()
    return trio.current_time() - scope.deadline if scope.cancelled_caught else 0.0

print("ready", flush=True)
if len(sys.argv) > 2:
    for seconds in sys.argv[2:]:
        print(trio.run(cancelled, float(seconds)), flush=True)
else:
    start = time.monotonic()
    trio.run(use)
    print(time.monotonic() - start)
"""


class Place:
    """Where programs run, and what they leave there."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.mark = uuid.uuid4().hex
        self.program = scratch / "program.py"
        self.program.write_text(PROGRAM)
        (scratch / "tmp").mkdir()
        self.environment = {
            **os.environ,
            MARK: self.mark,
            "TMPDIR": str(scratch / "tmp"),
            "XDG_CONFIG_HOME": str(scratch / "config"),
            "XDG_STATE_HOME": str(scratch / "state"),
            "XDG_CACHE_HOME": str(scratch / "cache"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python; warnings are errors."""
        return subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.scratch,
            env=self.environment,
        )

    def left(self, spared: set[int]) -> list[str]:
        """The processes that were started here and live, but for some; and the temporary files."""
        found = [str(path) for path in (self.scratch / "tmp").rglob("*")]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) in spared:
                continue
            try:
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # It has ended meanwhile, or is another user's.
        return found


def cancel_some(place: Place, nodes: str, moments: Sequence[float]) -> tuple[float, str]:
    """Run a program that is cancelled at each of these; the slowest exit, and what it said."""
    process = place.start(str(place.program), nodes, *map(str, moments))
    out, err = process.communicate(timeout=LIMIT)
    seconds = [float(line) for line in out.splitlines()[1:]]
    if process.returncode != 0 or len(seconds) != len(moments):
        err += f"exit code {process.returncode}"
    return max(seconds, default=0.0), err


def interrupt_one(place: Place, nodes: str, moment: float) -> tuple[float, str]:
    """Send a program a SIGINT that many seconds after its imports; how long it took to end."""
    process = place.start(str(place.program), nodes)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(moment)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    seconds = time.monotonic() - sent
    if out and not err:
        return seconds, ""  # It had ended by itself.
    expected = process.returncode == -signal.SIGINT and err.endswith("\nKeyboardInterrupt\n")
    return seconds, "" if expected else f"{err}exit code {process.returncode}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, and tell; exit code 1 when something was left, said, or slow."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.leaving")
    parser.add_argument("--cancels", type=int, default=500)
    parser.add_argument("--interrupts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="programs")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="leaving-") as scratch:
        place = Place(Path(scratch))
        node = place.start("-m", "dispy_trio", "node", "--host", "127.0.0.1", "--port", "0")
        assert node.stdout is not None
        address = node.stdout.readline().removeprefix("listening on ").strip()
        before = len(os.listdir(f"/proc/{node.pid}/fd"))
        for nodes in (address, ""):
            whole = place.start(str(place.program), nodes)
            usual = float(whole.communicate(timeout=LIMIT)[0].split()[-1])
        its_own = place.left({node.pid})
        print(f"undisturbed: {usual:.2f} s", flush=True)

        good = True
        with ThreadPoolExecutor(options.at_once) as pool:
            for name, tries, one in (
                ("cancelled", options.cancels // CANCELS_EACH, cancel_some),
                ("interrupted", options.interrupts, interrupt_one),
            ):
                running = []
                for _ in range(tries):
                    moments = [rng.uniform(0, usual) for _ in range(CANCELS_EACH)]
                    given = moments if one is cancel_some else moments[0]
                    running.append(pool.submit(one, place, rng.choice(["", address]), given))  # type: ignore[arg-type]
                ended = [each.result() for each in running]
                slowest = max(seconds for seconds, _ in ended)
                said = [text for _, text in ended if text]
                count = tries * CANCELS_EACH if one is cancel_some else tries
                print(f"{name} {count} times; slowest {slowest:.3f} s (at most {SLOWEST:g})")
                print(f"  {len(said)} said something; first: {said[0]}" if said else "  silent")
                good &= slowest <= SLOWEST and not said
        time.sleep(1.0)  # What the last ones had on the node is removed there.
        after = len(os.listdir(f"/proc/{node.pid}/fd"))
        left = [each for each in place.left({node.pid}) if each not in its_own]
        print(f"left: {left or 'nothing'}; descriptors of the node: {before} and {after}")
        good &= not left and after <= before
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=LIMIT)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
