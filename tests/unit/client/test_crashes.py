"""What `faulthandler` wrote is told with the end of a job, without the calls that are ours."""

from __future__ import annotations

import pytest

from dispy_trio.client.jobs import SubmittedJob
from dispy_trio.models import JobStatus, Outcome

TOLD = b"killed by SIGSEGV (11), on node n"
REPORT = """\
Fatal Python error: Segmentation fault

Current thread 0x00007fd4f920eb80 (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File "/home/me/program.py", line 4 in boom"""
OURS = """
  File "/lib/dispy_trio/child/worker.py", line 239 in _one_job
  File "/lib/dispy_trio/child/template.py", line 323 in _become_worker
  File "<string>", line 4 in <module>
"""


def died(stderr: str, outcome: Outcome = Outcome.DIED) -> SubmittedJob[int]:
    return SubmittedJob(
        7,
        None,
        id=7,
        state=JobStatus.Terminated,
        outcome=outcome,
        reply=TOLD,
        output=(b"", stderr.encode()),
    )


@pytest.mark.parametrize(
    "before", ["", "about to\n", "Fatal Python error: mine\n", "x" * 10**6 + "\n"]
)
@pytest.mark.parametrize("after", ["", "\nExtension modules: numpy (total: 1)"])
def test_a_crash_is_told_with_its_stack(before: str, after: str) -> None:
    job = died(before + REPORT + OURS + after)
    assert job.exception == f"{TOLD.decode()}\n{REPORT}{after and chr(10) + after}"
    assert str(job.reason()).count("Segmentation fault") == 1
    assert job.stderr == before + REPORT + OURS + after, "which is as it was written"


def test_what_else_was_written_is_no_crash() -> None:
    assert died("last words\n").exception == TOLD.decode()
    assert died(REPORT, Outcome.EXITED).exception == TOLD.decode()
    dropped = died(REPORT)
    dropped.stderr = None
    assert dropped.exception == TOLD.decode()
