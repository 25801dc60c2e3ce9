"""What one job does to its process, and what it forks, no other job of the cluster feels."""

from __future__ import annotations

import json

import pytest

from .conftest import World

SCRIPT = """\
import json, os, sys
import dispy_trio as dispy

def compute(n, runs):
    import decimal, multiprocessing, os, signal, sys, time
    before = (os.getcwd(), os.umask(0o022), dict(os.environ), list(sys.path),
              decimal.getcontext().prec, sys.getrecursionlimit())
    descriptor = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"%d\\n" % n)
    os.close(descriptor)
    match n % 8:
        case 0:
            os.fork()
        case 1:
            signal.alarm(1)
            os.chdir("/")
            os.umask(0o777)
        case 2:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.environ["LEFT"] = str(n)
            sys.path.insert(0, "/nowhere")
        case 3:
            decimal.getcontext().prec = 3
            sys.setrecursionlimit(300)
        case 4 if n % 5 == 0:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                pool.map(abs, [-1])
        case 5 if n % 5 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return before

if __name__ == "__main__":
    runs = os.path.abspath("runs")
    with dispy.JobCluster(compute) as cluster:
        given = cluster.options(isolation=sys.argv[1])
        jobs = [given.submit(n, runs) for n in range(160)]
        found = [job() for job in jobs]
        ended = [n for n, job in enumerate(jobs) if job.status != dispy.DispyJob.Finished]
    print(json.dumps({
        "ran": sorted(int(line) for line in open(runs)),
        "ended": ended,
        "surroundings": len({repr(what) for what in found if what is not None}),
    }))
"""


@pytest.mark.parametrize("isolation", ["worker", "job"])
def test_every_job_runs_once_and_finds_what_the_first_one_found(
    world: World, isolation: str
) -> None:
    outcome = json.loads(world.run(SCRIPT, isolation))
    assert outcome["ran"] == list(range(160))
    assert outcome["ended"] == [n for n in range(160) if n % 40 == 5]
    assert outcome["surroundings"] == 1
