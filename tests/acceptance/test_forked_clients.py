"""Programs with clusters that fork: the children have no part in them, and do them no harm."""

from __future__ import annotations

import sys

import pytest

from .conftest import World

FORKING = """
import os, signal, sys, threading, time
import dispy_trio
from dispy_trio import ClusterClosed, DispyJob, JobCluster

def in_child(function):
    "Call it in a fork; returns what it printed and how the child ended."
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(20)
        os.close(reading)
        os.dup2(writing, 1)
        try:
            function()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    return text, os.waitpid(child, 0)[1]

GO = __file__ + ".go"

def wait_for_go(path):
    while path and not os.path.exists(path):
        time.sleep(0.01)

def go():
    open(GO, "w").close()

def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ClusterClosed as exc:
        return str(exc)
    return "not refused"
"""


def test_inherited_clusters_and_jobs_say_where_they_were_made(world: World) -> None:
    script = (
        FORKING
        + """
cluster = JobCluster(wait_for_go, cpus=1)
done = cluster.submit("")
done()
pending = cluster.submit(GO)
node = cluster.status().nodes[0]
event = cluster.submit(GO).finish
calls = [
    (cluster.submit, 1), (cluster.options(priority=1).submit, 1), (cluster.submit_node, node, 1),
    (lambda: list(cluster.map([1])),), (cluster.wait,), (cluster.status,), (cluster.print_status,),
    (cluster.cancel, pending), (cluster.discover_nodes, "localhost"), (cluster.close,),
    (cluster.close_node, node), (cluster.send_file, __file__, node), (cluster.node_jobs, node),
    (lambda: list(cluster.as_completed([pending])),),
    (pending,), (pending.wait,), (lambda: pending.finish,),
]

def child():
    wanted = f"was made in process {os.getppid()}; make one after the fork"
    for number, call in enumerate(calls):
        text = refused(*call)
        if wanted not in text:
            print(number, text)
    with cluster:
        print(done.status.name, done.result, done())

print(in_child(child))
go()
print(pending.wait(20), pending.status.name, event.wait(20), cluster.close())
"""
    )
    assert world.run(script).splitlines() == [
        "('Finished None None\\n', 0)",
        "True Finished True True",
    ]


def test_a_trio_program_s_children_are_told_the_same(world: World) -> None:
    script = (
        FORKING
        + """
import trio

async def main():
    async with dispy_trio.open_cluster(wait_for_go, cpus=1) as cluster:
        pending = cluster.submit(GO)

        def child():
            texts = [refused(call) for call in (
                lambda: cluster.submit(1), cluster.status, lambda: cluster.cancel(pending),
                pending.cancel,
                lambda: cluster.wait().send(None), lambda: cluster.map([1]).__anext__().send(None),
            )]
            wanted = f"was made in process {os.getppid()}; make one after the fork"
            print([text for text in texts if wanted not in text])

        print(in_child(child))
        go()
        print(await pending.wait())

trio.run(main)
"""
    )
    assert world.run(script).splitlines() == ["('[]\\n', 0)", "None"]


@pytest.mark.parametrize("embedded", [True, False])
def test_a_child_forked_with_jobs_pending_ends_as_any_other(world: World, embedded: bool) -> None:
    nodes = None if embedded else [world.start_node("127.0.0.2", "--cpus", "1").address]
    script = (
        FORKING
        + f"""
cluster = JobCluster(wait_for_go, nodes={nodes!r}, cpus=1)
job = cluster.submit(GO)
child = os.fork()
if not child:
    signal.alarm(20)
    sys.exit(7)  # By way of the hooks for the exit of the interpreter.
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), job.ended)
go()
print(job.wait(20), cluster.close())
"""
    )
    assert world.run(script).splitlines() == ["7 False", "True True"]


def test_a_pool_beside_a_cluster_keeps_nothing_of_it(world: World) -> None:
    script = (
        FORKING
        + """
import multiprocessing

cluster = JobCluster(time.sleep, cpus=1)
cluster.submit(0)()
node = cluster._thread.embedded
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
    began = time.monotonic()
    print(cluster.close(), time.monotonic() - began < 3, node.exit_code())
"""
    )
    assert world.run(script).splitlines() == ["[1, 2]", "True True 0"]
    world.wait_until_gone()


def test_a_killed_client_s_node_ends_though_a_child_of_the_client_lives(world: World) -> None:
    script = (
        FORKING
        + """
cluster = JobCluster(time.sleep, cpus=1)
cluster.submit(0)()
node = os.pidfd_open(cluster._thread.embedded.pid)
reading, writing = os.pipe()
if not os.fork():
    signal.alarm(20)
    os.close(writing)
    os.read(reading, 1)  # Until the parent is gone.
    import select
    print(bool(select.select([node], [], [], 15)[0]), flush=True)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    program = world.start(sys.executable, world.write("program.py", script))
    assert world.read_line(program) == "True\n"
    world.wait_until_gone()


def test_a_child_can_have_a_cluster_of_its_own(world: World) -> None:
    script = (
        FORKING
        + """
import trio

told = []
cluster = JobCluster(abs, cpus=1, job_status=told.append)
print(cluster.submit(-1)())
cluster.wait()
stop = threading.Event()

def hold_locks():
    "Other threads are in the midst of something when we fork."
    while not stop.is_set():
        cluster.submit(-1).wait()

threads = [threading.Thread(target=hold_locks) for _ in range(2)]
for thread in threads:
    thread.start()

def child():
    told.clear()
    with JobCluster(abs, cpus=1, job_status=told.append) as own:
        jobs = [own.submit(-n) for n in range(5)]
        print([job() for job in jobs])
        own.wait()
        print(sorted(job.result for job in told))
        print(list(own.map([-7])))

    async def main():
        async with dispy_trio.open_cluster(abs, cpus=1) as trios:
            print(await trios.run(-3))

    trio.run(main)

print(in_child(child))
stop.set()
for thread in threads:
    thread.join()
print(cluster.submit(-2)(), cluster.close())
"""
    )
    assert world.run(script).splitlines() == [
        "1",
        "('[0, 1, 2, 3, 4]\\n[0, 1, 2, 3, 4]\\n[7]\\n3\\n', 0)",
        "2 True",
    ]
    world.wait_until_gone()
