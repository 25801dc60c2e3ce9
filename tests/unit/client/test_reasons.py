"""What is told of a job that ended without a result."""

from __future__ import annotations

import pytest

from dispy_trio.client.jobs import TAIL, UserJob
from dispy_trio.errors import JobTerminated
from dispy_trio.models import JobStatus, Outcome


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (b"", ""),
        (b"one\ntwo", "\none\ntwo"),
        (b"".join(b"%d\n" % n for n in range(80)), "".join(f"\n{n}" for n in range(30, 80))),
        (b"x" * 100_000, "\n" + "x" * TAIL),
        (memoryview(b"long\n" * 5_000_000), "\nlong" * 50),
    ],
)
def test_the_reason_tells_the_last_lines_of_stderr(written: bytes | memoryview, told: str) -> None:
    job: UserJob[None] = UserJob(1, None, JobStatus.Terminated, outcome=Outcome.DIED, id=7)
    job.node_key = "n:1"
    job.reply = b"killed by SIGSEGV (11)"
    job.output = (b"", written)
    reason = job.reason()
    assert isinstance(reason, JobTerminated)
    assert str(reason) == "job 7 on n:1: killed by SIGSEGV (11)" + told
    assert job.stderr == str(written, "ascii")


@pytest.mark.parametrize("reply", [b"how it ended", [memoryview(b"how it ended")]])
def test_how_it_ended_may_have_come_by_itself(reply: object) -> None:
    job: UserJob[None] = UserJob(1, None, JobStatus.Terminated, outcome=Outcome.EXITED)
    job.reply = reply
    assert job.exception == "how it ended"
