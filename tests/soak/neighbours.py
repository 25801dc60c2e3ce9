"""``python -m tests.soak.neighbours``: an honest client beside one that hurts, on one node.

For as long as asked, one client does to its node all that `tests.soak.hurts` knows, and leaves in
every way there is; another, which knows the secret, says what `tests.soak.odd` knows. Beside them an
honest client counts.
In the end every honest job must have been right and have run once, the slowest no-op must have
been quick, and the node must be what it was before: the same process, no more descriptors, no more
memory, no process and no directory left.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

import dispy_trio
from dispy_trio.runtime.marks import MARK
from tests.soak.hurts import KINDS, hurt
from tests.soak.odd import be_odd

SLOWEST = 0.5
"""Seconds that an honest no-op may take."""
GROWTH = 32 * 1024 * 1024
"""Bytes that the node's memory may have grown."""
ODD_ROUNDS = 3
"""After each so many rounds somebody who knows the secret says odd things."""
LIMIT_OF_ROUND = 60.0
SETTLE = 240.0
"""Seconds for all that clients have left on the node to be gone."""
WAYS_TO_LEAVE = ("close", "terminate", "kill", "exit", "cancel")


# --- the honest client -----------------------------------------------------------------------
def count(number: int, journal: str) -> int:
    """A job that leaves a line on disk, so that nobody has to be believed how often it ran."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b"%d\n" % number)
    os.close(descriptor)
    print(number)
    return number * number


def honest(address: str, scratch: Path) -> None:
    """Count until a line comes on stdin; print what was seen as JSON."""
    journal = str(scratch / "journal")
    wrong: list[str] = []
    slowest = 0.0
    done = 0
    stopped = False
    with dispy_trio.JobCluster(count, nodes=[address]) as cluster:
        cluster.submit(-1, journal)()
        while not stopped:
            stopped = _has_line()
            batch = [cluster.submit(n, journal) for n in range(done, done + 20)]
            for number, job in enumerate(batch, done):
                value = job()
                if value != number * number or job.stdout != f"{number}\n":
                    wrong.append(f"{number}: {job.status} {job.exception} {value!r} {job.stdout!r}")
            done += len(batch)
            start = time.perf_counter()
            lone = cluster.submit(done, journal)
            value = lone()
            slowest = max(slowest, time.perf_counter() - start)
            if value != done * done:
                wrong.append(f"{done}: {lone.status} {lone.exception}")
            done += 1
    runs = collections.Counter(int(line) for line in Path(journal).read_text().split())
    for number in range(done):
        if runs[number] != 1:
            wrong.append(f"{number} ran {runs[number]} times")
    print(json.dumps({"done": done, "slowest": slowest, "wrong": wrong[:20]}), flush=True)


def _has_line() -> bool:
    import select

    return bool(select.select([sys.stdin], [], [], 0)[0])


# --- the client that hurts -------------------------------------------------------------------
def hurting(address: str, seed: int, kinds: Sequence[str], leave: str = "") -> None:
    """One cluster that hurts; how it leaves is drawn too, unless it is given."""
    draw = random.Random(seed)
    options = {"isolation": "job"} if draw.random() < 0.3 else {}
    cluster = dispy_trio.JobCluster(hurt, nodes=[address])
    submit = cluster.options(**options).submit if options else cluster.submit
    jobs = [submit(draw.choice(kinds)) for _ in range(draw.randrange(1, 12))]
    until = time.monotonic() + draw.uniform(0.1, 5.0)
    leave = leave or draw.choice(WAYS_TO_LEAVE)
    if leave == "cancel":
        for job in draw.sample(jobs, len(jobs) // 2):
            cluster.cancel(job)
    while time.monotonic() < until and not all(job.ended for job in jobs):
        time.sleep(0.02)
    if leave == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if leave == "exit":
        os._exit(0)
    cluster.close(timeout=5, terminate=True)


# --- the referee -----------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.role == "honest":
        honest(options.address, Path(options.scratch))
        return 0
    if options.role == "odd":
        be_odd(options.address, options.seed)
        return 0
    if options.role == "hurting":
        hurting(options.address, options.seed, options.kinds, options.leave)
        return 0
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        return referee(options, Path(scratch))


def referee(options: argparse.Namespace, scratch: Path) -> int:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(scratch / "config")}
    places = scratch / "node"
    with _node(options.cpus, environment, places, scratch) as (node, address):
        # What a node takes once is not growth; and what this one leaves is not to count as before.
        _run_hurting(address, options.seed, ["return_much"], environment, scratch, "close")
        before = _settled(node, places, _NOTHING)
        with _honest_client(address, environment, scratch) as client:
            rounds, end = _hurt_in_rounds(options, node, address, client, environment, scratch)
            if end:
                print(f"{end} in round {rounds}")
                return 1
            out, _ = client.communicate(b"stop\n", timeout=LIMIT_OF_ROUND)
        seen = json.loads(out)
        after = _settled(node, places, before)
        left = [str(path) for path in places.glob("*/computation-*")]
        left += [_about(process) for process in node.children(recursive=True)]
        if after["descriptors"] > before["descriptors"]:
            left += sorted(_descriptors(node.pid))
    print(f"{rounds} rounds of hurting; honest jobs: {seen['done']}")
    print(f"slowest honest no-op: {seen['slowest']:.3f} s (at most {SLOWEST:g})")
    print(f"node before: {before}")
    print(f"node after:  {after}")
    faults = list(seen["wrong"]) + [f"left: {path}" for path in left]
    if seen["slowest"] > SLOWEST:
        faults.append("a no-op was too slow")
    if after["memory"] - before["memory"] > GROWTH:
        faults.append("the node's memory has grown")
    if after["descriptors"] > before["descriptors"]:
        faults.append("the node holds more descriptors")
    if after["children"] > before["children"]:
        faults.append("the node has processes left")
    for fault in faults:
        print("WRONG:", fault)
    return 1 if faults else 0


def _about(process: psutil.Process) -> str:
    try:
        state = f"{process.status()} for {time.time() - process.create_time():.0f} s"
        return f"process {process.pid} of {process.ppid()}, {state}: {process.cmdline()[-4:]}"
    except psutil.NoSuchProcess:
        return f"process {process.pid}, which has just ended"


def _hurt_in_rounds(
    options: argparse.Namespace,
    node: psutil.Process,
    address: str,
    client: subprocess.Popen[bytes],
    environment: dict[str, str],
    scratch: Path,
) -> tuple[int, str]:
    """How many rounds there were, and what ended before its time."""
    rounds = 0
    until = time.monotonic() + options.minutes * 60
    while time.monotonic() < until:
        seed = options.seed + rounds
        _run_hurting(address, seed, options.kinds, environment, scratch)
        if rounds % ODD_ROUNDS == 0:
            _run("odd", address, seed, [], environment, scratch)
        rounds += 1
        if not node.is_running() or node.status() == psutil.STATUS_ZOMBIE:
            return rounds, "the node died"
        if client.poll() is not None:
            return rounds, "the honest client ended"
    return rounds, ""


@contextmanager
def _honest_client(
    address: str, environment: dict[str, str], scratch: Path
) -> Iterator[subprocess.Popen[bytes]]:
    client = subprocess.Popen(
        [*_role("honest", address), "--scratch", str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=_ROOT,
    )
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


_ROOT = Path(__file__).resolve().parents[2]


def _role(name: str, address: str) -> list[str]:
    return [sys.executable, "-m", "tests.soak.neighbours", "--role", name, "--address", address]


def _run_hurting(
    address: str,
    seed: int,
    kinds: Sequence[str],
    environment: dict[str, str],
    scratch: Path,
    leave: str = "",
) -> None:
    arguments = ["--kinds", *kinds, "--leave", leave]
    _run("hurting", address, seed, arguments, environment, scratch)


def _run(
    role: str,
    address: str,
    seed: int,
    arguments: Sequence[str],
    environment: dict[str, str],
    scratch: Path,
) -> None:
    command = [*_role(role, address), "--seed", str(seed), *arguments]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(scratch / f"{role}.log").open("ab"),
    )
    try:
        process.wait(LIMIT_OF_ROUND)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"seed {seed}: the {role} client did not end within {LIMIT_OF_ROUND:g} s")


@contextmanager
def _node(
    cpus: int, environment: dict[str, str], places: Path, scratch: Path
) -> Iterator[tuple[psutil.Process, str]]:
    command = [sys.executable, "-m", "dispy_trio", "node", "--host", "127.0.0.1", "--port", "0"]
    command += ["--cpus", str(cpus), "--zombie-interval", "1", "--dest-path-prefix", str(places)]
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(scratch / "node.log").open("wb"),
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield psutil.Process(process.pid), line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log = (scratch / "node.log").read_text(errors="replace")
        for block in [part for part in log.split("\n\n") if "Traceback" in part][:5]:
            print("node log:", block[-3000:])


_NOTHING = {"descriptors": sys.maxsize, "children": 0, "directories": 0}


def _vital_signs(node: psutil.Process, places: Path) -> dict[str, int]:
    return {
        "pid": node.pid,
        "memory": node.memory_info().rss,
        "descriptors": len(_descriptors(node.pid)),
        "children": len(node.children(recursive=True)),
        "directories": len(list(places.glob("*/computation-*"))),
    }


def _descriptors(pid: int) -> list[str]:
    """What a node has open, but for its hold on the directories that last, which it keeps for life."""
    links: list[str] = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(path))
        except FileNotFoundError:
            pass  # Closed since it was listed.
    return [link for link in links if not link.endswith(f"/clients/{MARK}")]


def _settled(node: psutil.Process, places: Path, most: dict[str, int]) -> dict[str, int]:
    """The signs once what the last clients left is gone, or has had the time for it."""
    # What a killed client had sent runs on to its end, and is kept for a minute after that.
    until = time.monotonic() + SETTLE
    while True:
        signs = _vital_signs(node, places)
        if time.monotonic() > until or all(
            signs[sign] <= most[sign] for sign in ("descriptors", "children", "directories")
        ):
            return signs
        time.sleep(0.2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.neighbours", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--role", choices=("referee", "honest", "hurting", "odd"), default="referee"
    )
    parser.add_argument("--leave", choices=("", *WAYS_TO_LEAVE), default="")
    parser.add_argument("--address", default="")
    parser.add_argument("--scratch", default="")
    return parser


if __name__ == "__main__":
    sys.exit(main())
