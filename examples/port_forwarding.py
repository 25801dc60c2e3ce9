"""Port forwarding with SSH: nodes that can be reached by ssh only.

The client dials its nodes and listens nowhere, so one forwarded port for each node is enough, in
one direction. On the remote machines nodes run as they do by default, on loopback alone:

    ssh -f one dispy-trio node
    ssh -f -N -L 7001:127.0.0.1:9701 one
    ssh -f two dispy-trio node
    ssh -f -N -L 7002:127.0.0.1:9701 two
    python examples/port_forwarding.py 7001 7002

Without ports it uses the nodes of DISPY_TRIO_NODES, or this machine.
"""

import sys

import dispy_trio as dispy


def compute(n):
    import socket

    return socket.gethostname(), n**3


if __name__ == "__main__":
    nodes = [f"127.0.0.1:{port}" for port in sys.argv[1:]] or None
    cluster = dispy.JobCluster(compute, nodes=nodes)
    jobs = [cluster.submit(n) for n in range(8)]
    for n, job in enumerate(jobs):
        host, cube = job()
        print(f"{n} cubed is {cube}, says {host}")
    cluster.close()
