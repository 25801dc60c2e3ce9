"""Sending files to the client: results too large, or too unwieldy, to be returned.

`dispy_send_file` is there in every job. The file is saved under the same name in the directory of
the program that made the cluster, and has arrived when the call returns 0. Names should differ.

    python examples/sending_files.py
"""

import os
import tempfile

import dispy_trio as dispy


def tabulate(factor):
    name = f"times-{factor}.csv"
    with open(name, "w") as file:
        for n in range(1, 1001):
            file.write(f"{n},{n * factor}\n")
    if dispy_send_file(name) != 0:  # noqa: F821 - given to jobs
        raise OSError(f"{name} could not be sent")
    return name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # Only to leave nothing behind.
        cluster = dispy.JobCluster(tabulate)
        jobs = [cluster.submit(factor) for factor in (2, 3, 7)]
        for job in jobs:
            name = job()
            if name is None:
                print(job.exception)
                continue
            with open(name) as file:
                lines = file.read().splitlines()
            print(f"{name}: {len(lines)} lines, the last is {lines[-1]}")
        cluster.close()
        os.chdir("/")
