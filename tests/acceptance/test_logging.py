"""What programs see of the library's messages, which have configured logging or have not."""

from __future__ import annotations

import re
import sys

from .conftest import LIMIT, World

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d dispy_trio"
PROGRAM = """
import logging, sys
import dispy_trio as dispy

def double(n):
    return 2 * n

def job_status(job):
    raise ValueError(f"mine {job.result}")

if "configured" in sys.argv:
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level=logging.INFO)
if "silent" in sys.argv:
    logging.getLogger().addHandler(logging.NullHandler())

dispy.logger.debug("below the level")
dispy.logger.info("begun")
chatty = dispy.JobCluster(double, name="chatty", loglevel=dispy.logger.DEBUG)
usual = dispy.JobCluster(double, name="usual")
quiet = dispy.JobCluster(
    double, name="quiet", loglevel=dispy.logger.CRITICAL, job_status=job_status, cpus=1
)
for cluster in (chatty, usual, quiet):
    job = cluster.submit(1)
    assert job() == 2
    cluster.cancel(job)
    assert cluster.allocate_node(17) == -1
    cluster.close()
dispy.logger.error("below the level of the cluster made last")
dispy.logger.critical("ended")
"""
TOLD = (
    r"{0}INFO{1}begun\n"
    r"{0}DEBUG{1}no nodes named: using an embedded local node at [\d.:]+\n"
    r"{0}WARNING{1}job 1 has ended; it can't be cancelled\n"
    r"{0}WARNING{1}allocate_node: .*\n"
    r"{0}WARNING{1}job 2 has ended; it can't be cancelled\n"
    r"{0}WARNING{1}allocate_node: .*\n"
    r"{0}CRITICAL{1}ended\n"
)


def run(world: World, *args: str) -> tuple[str, str]:
    program = world.start(sys.executable, world.write("program.py", PROGRAM), *args)
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    return out, err


def test_a_program_that_configures_no_logging_sees_messages_with_their_time(world: World) -> None:
    out, err = run(world)
    assert out == ""
    assert re.fullmatch(TOLD.format(f"{STAMP} ", ": "), err), err


def test_a_program_that_configures_logging_gets_the_same_messages_there(world: World) -> None:
    out, err = run(world, "configured")
    assert re.fullmatch(TOLD.format("", " "), out), out
    assert err == ""


def test_a_program_that_wants_silence_has_it(world: World) -> None:
    assert run(world, "silent") == ("", "")
