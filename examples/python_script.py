"""Python script: the computation is a program, not a function.

The file is sent to the nodes. Arguments are strings, the result is the exit status, and what the
program wrote are bytes. An exit status other than 0 is a result like any other.

    python examples/python_script.py
"""

from pathlib import Path

import dispy_trio as dispy

PROGRAM = Path(__file__).with_name("collatz.py")

if __name__ == "__main__":
    cluster = dispy.JobCluster(str(PROGRAM))
    jobs = []
    for argument in ("6", "27", "97", "many"):
        job = cluster.submit(argument)
        job.id = argument
        jobs.append(job)
    for job in jobs:
        status = job()
        written = job.stdout if status == 0 else job.stderr
        print(f"{job.id}: exit status {status}, {written.decode().splitlines()[-1]}")
    cluster.close()
