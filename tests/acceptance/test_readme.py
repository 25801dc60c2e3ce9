"""What the README says of jobs, sentence by sentence. Its programs are run by tests/unit/test_docs.py,
its lines for a shell by test_namespaces.py and by ``nox -s newcomer``."""

from __future__ import annotations

import sys

from tests.readme import PYTHON, TEXT, steps

from .conftest import LIMIT, World


def ask(world: World, sentence: str, script: str) -> list[str]:
    """Run a program about what a sentence says; return the lines it printed."""
    assert sentence in " ".join(TEXT.split())
    return world.run(f"import os\nimport dispy_trio as dispy\n{script}").splitlines()


def test_the_first_program_shows_how_a_failed_job_looks(world: World) -> None:
    first = next(step.text for step in steps() if step.language == PYTHON)
    program = world.start(sys.executable, world.write("first.py", first))
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, err) == (0, "")
    failed, _, returned = out.partition("ValueError: math domain error\n")
    assert "1 Terminated Traceback (most recent call last):" in failed + returned
    assert "100 9.899494936611665\n" in failed + returned


def test_jobs_run_in_a_folder_of_their_own(world: World) -> None:
    sentence = (
        "Jobs run in a folder of their own on the node, not in yours: what they read has to be sent"
        " with `depends=`."
    )
    script = """
def compute():
    import os
    return os.getcwd(), os.listdir()

open("input.txt", "w").close()
with dispy.JobCluster(compute) as cluster:
    folder, names = cluster.submit()()
    print(folder != os.getcwd(), "input.txt" in names)
with dispy.JobCluster(compute, depends=["input.txt"]) as cluster:
    print("input.txt" in cluster.submit()()[1])
"""
    assert ask(world, sentence, script) == ["True False", "True"]


def test_what_jobs_print_is_captured(world: World) -> None:
    sentence = (
        "What a job and its child programs print is not shown: it is captured in `job.stdout` and"
        " `job.stderr`."
    )
    script = """
def compute():
    import os, sys
    print("printed", flush=True)
    os.system("echo by a child; echo complained >&2")

with dispy.JobCluster(compute) as cluster:
    job = cluster.submit()
    job()
    print([job.stdout, job.stderr])
"""
    assert ask(world, sentence, script) == [r"['printed\nby a child\n', 'complained\n']"]


def test_globals_stay_in_a_worker(world: World) -> None:
    sentence = (
        "What a job leaves in global variables stays in its worker, for some of the later jobs;"
        " nothing of it comes back to your program."
    )
    script = """
seen = 0

def compute():
    global seen
    seen += 1
    return seen

with dispy.JobCluster(compute, cpus=1) as cluster:
    print([cluster.submit()() for _ in range(3)], seen)
"""
    assert ask(world, sentence, script) == ["[1, 2, 3] 0"]


def test_whom_one_trusts(world: World) -> None:
    sentence = (
        "Whoever has the secret can run anything as you, on your nodes and where you look at"
        " results: give it to nobody whom you would not give your password."
    )
    node = world.start_node()
    script = f"""
class Result:
    def __reduce__(self):
        return os.getpid, ()

def compute():
    return os.getuid(), os.getpid(), Result()

with dispy.JobCluster(compute, nodes=["{node.address}"]) as cluster:
    user, there, looked_at = cluster.submit()()
    print(user == os.getuid(), there != os.getpid(), looked_at == os.getpid())
"""
    assert ask(world, sentence, script) == ["True True True"]
