"""What programs out there do with dispy: one stand-in for each habit, with only the import changed.

Two nodes serve all of them. A program prints what a reader can check; it is a `Habit` of its own, so
that one sees by name which one broke.
"""

from __future__ import annotations

import re

import pytest
from attrs import frozen

from .conftest import Node, World


@frozen
class Habit:
    """A program as it would be written for dispy, and what it is to print."""

    name: str
    program: str
    prints: str
    """A regular expression for all of it."""


HABITS = [
    Habit(
        "a subclass of NodeAllocate that compares ip_addr and asks what is free",
        """
import dispy

class OnlyThat(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=''):
        if ip_addr != self.ip_addr or not platform.startswith('Linux'):
            return 0
        if isinstance(avail_info, dispy.DispyNodeAvailInfo) and avail_info.memory > 1 << 20:
            return min(cpus, 1)
        return 0

def compute(n):
    return dispy_node_ip_addr

if __name__ == '__main__':
    import sys
    cluster = dispy.JobCluster(compute, nodes=[OnlyThat(node) for node in sys.argv[1:2]])
    jobs = [cluster.submit(n) for n in range(6)]
    print(sorted(set(job() for job in jobs)), [node.cpus for node in cluster.status().nodes])
    cluster.close()
""",
        r"\['127\.0\.0\.2'\] \[1\]\n",
    ),
    Habit(
        "a semaphore that callbacks release bounds what is under way",
        """
import dispy, threading

def compute(n):
    return n * n

room = threading.Semaphore(3)
total = 0

def done(job):
    global total
    if job.status == dispy.DispyJob.Finished:
        total += job.result
    room.release()

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, callback=done)
    for n in range(40):
        room.acquire()
        cluster.submit(n)
    cluster.wait()
    print(total)
""",
        "20540\n",
    ),
    Habit(
        "job.id is a dict, set after submit, by which results are put in their places",
        """
def compute(row, column):
    return row * 10 + column

if __name__ == '__main__':
    import dispy
    cluster = dispy.JobCluster(compute)
    jobs = []
    for row in range(3):
        for column in range(3):
            job = cluster.submit(row, column)
            job.id = {'row': row, 'column': column}
            jobs.append(job)
    table = [[None] * 3 for _ in range(3)]
    for job in jobs:
        job()
        table[job.id['row']][job.id['column']] = job.result
        assert job.start_time <= job.end_time
    print(table)
""",
        r"\[\[0, 1, 2\], \[10, 11, 12\], \[20, 21, 22\]\]\n",
    ),
    Habit(
        "a thread for each submit, which waits for its own job",
        """
import threading
import dispy

def compute(n):
    return -n

def run(n, results):
    results[n] = cluster.submit(n)()

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute)
    results = {}
    threads = [threading.Thread(target=run, args=(n, results)) for n in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(results.values()), len(results))
    cluster.close()
""",
        "-300 25\n",
    ),
    Habit(
        "a forked process that owns a cluster, one after the other and beside the parent's own",
        """
import multiprocessing
import dispy

def compute(n):
    return n + 1

def own(queue, first):
    cluster = dispy.JobCluster(compute)
    queue.put(sum(job() for job in [cluster.submit(first + n) for n in range(3)]))
    cluster.close()

if __name__ == '__main__':
    context = multiprocessing.get_context('fork')
    cluster = dispy.JobCluster(compute)
    print(cluster.submit(0)())
    queue = context.Queue()
    for first in (10, 20):
        process = context.Process(target=own, args=(queue, first))
        process.start()
        print(queue.get())
        process.join()
        print(process.exitcode)
    print(cluster.submit(1)())
    cluster.close()
""",
        "1\n36\n0\n66\n0\n2\n",
    ),
    Habit(
        "numpy's random numbers, from modules imported at the top and inside, seeded and not",
        """
import random
import numpy as np
from numpy.random import rand
from random import randint
import dispy

def draw(seed):
    import time
    import numpy
    time.sleep(0.02)
    if seed is not None:
        numpy.random.seed(seed)
    return (float(np.random.rand()), float(rand()), float(numpy.random.normal()), random.random(),
            randint(0, 1 << 60))

if __name__ == '__main__':
    # Of all that, nothing may be drawn twice, on 4 processors.
    np.random.rand(), random.random()
    cluster = dispy.JobCluster(draw)
    jobs = [cluster.submit(None) for _ in range(16)]
    print([len(set(numbers)) for numbers in zip(*(job() for job in jobs))])
    twice = [cluster.submit(7)()[:3] for _ in range(2)]
    np.random.seed(7)
    print(twice[0] == twice[1] == (np.random.rand(), np.random.rand(), np.random.normal()))
    cluster.close()
""",
        r"\[16, 16, 16, 16, 16\]\nTrue\n",
    ),
    Habit(
        "arrays of numpy, as arguments and as results",
        """
import dispy
import numpy

def nearest(point, centres):
    import numpy
    return int(numpy.argmin(numpy.linalg.norm(centres - point, axis=1))), centres * 2

if __name__ == '__main__':
    centres = numpy.array([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    cluster = dispy.JobCluster(nearest)
    jobs = [cluster.submit(point, centres) for point in numpy.array([[1, 1], [8, 1], [4, 6]])]
    for job in jobs:
        index, doubled = job()
        print(index, float(doubled.sum()), end=' ')
""",
        "0 38.0 2 38.0 1 38.0 ",
    ),
    Habit(
        "a method as computation, with the object as first argument of each job",
        """
import dispy

class Swarm:
    def __init__(self, weight):
        self.weight = weight

    def fitness(self, x, y=0):
        self.weight += 0
        return self.weight * x + y

    def run(self):
        cluster = dispy.JobCluster(self.fitness)
        jobs = [cluster.submit(self, x) for x in range(3)]
        jobs += [cluster.submit(Swarm(100), 1), cluster.submit(self, 1, y=5), cluster.submit(2)]
        for job in jobs:
            job()
            print(job.result if job.exception is None else job.exception, end=' ')
        cluster.close()

if __name__ == '__main__':
    Swarm(2).run()
""",
        "0 2 4 100 7 4 ",
    ),
    Habit(
        "an object with a method is the argument, its class is in depends",
        """
import dispy

class Creature(object):
    def __init__(self, genes):
        self.genes = genes

    def live(self):
        self.genes = [gene + 1 for gene in self.genes]
        return sum(self.genes)

def compute(creature):
    return creature.live(), creature

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, depends=[Creature])
    jobs = [cluster.submit(Creature([n, n])) for n in range(3)]
    for job in jobs:
        result, creature = job()
        print(result, creature.genes, isinstance(creature, Creature))
""",
        r"2 \[1, 1\] True\n4 \[2, 2\] True\n6 \[3, 3\] True\n",
    ),
    Habit(
        "cluster_status counts what happens to jobs and nodes",
        """
import threading
import dispy

counts = {}
closed = threading.Semaphore(0)

def changed(status, node, job):
    counts[status] = counts.get(status, 0) + 1
    if status == dispy.DispyNode.Initialized:
        assert job is None and node.ip_addr.startswith('127.0.0.'), node
    elif status == dispy.DispyNode.Closed:
        closed.release()
    elif status == dispy.DispyJob.Finished:
        assert job.result == 'x' and node.ip_addr == job.ip_addr

def compute():
    return 'x'

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, cluster_status=changed)
    for _ in range(5):
        cluster.submit()
    cluster.wait()
    cluster.close()
    Job = dispy.DispyJob
    print([counts[status] for status in (Job.Created, Job.Running, Job.Finished)])
    print(1 <= counts[dispy.DispyNode.Initialized] <= 2)
""",
        r"\[5, 5, 5\]\nTrue\n",
    ),
    Habit(
        "the first good provisional result cancels all that is left",
        """
import threading
import dispy

def search(n):
    import time
    dispy_provisional_result((n, 1.0 / (n + 1)))
    while n < 3:
        time.sleep(0.01)
    dispy_provisional_result((n, 0.0))
    time.sleep(60)

found = threading.Event()

def look(job):
    if job.status == dispy.DispyJob.ProvisionalResult and job.result[1] == 0.0:
        global best
        best = job.result
        found.set()

if __name__ == '__main__':
    cluster = dispy.JobCluster(search, job_status=look)
    jobs = [cluster.submit(n) for n in range(8)]
    found.wait()
    states = (dispy.DispyJob.Created, dispy.DispyJob.Running, dispy.DispyJob.ProvisionalResult)
    for job in jobs:
        if job.status in states:
            cluster.cancel(job)
    cluster.wait()
    over = (dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated)
    print(best, all(job.status in over for job in jobs))
""",
        r"\(3, 0\.0\) True\n",
    ),
    Habit(
        "a callback submits failed jobs again, until all have succeeded",
        """
import threading
import dispy

def flaky(n, attempt):
    if attempt < n % 3:
        raise RuntimeError('try %d of %d' % (attempt, n))
    return n

left = set(range(9))
attempts = {}
over = threading.Event()

def again(job):
    n, attempt = job.id
    if job.status == dispy.DispyJob.Finished:
        left.discard(n)
        attempts[n] = attempt
        if not left:
            over.set()
    else:
        assert 'try %d of %d' % (attempt, n) in job.exception
        submit(n, attempt + 1)

def submit(n, attempt):
    cluster.submit_job_id((n, attempt), n, attempt)

if __name__ == '__main__':
    cluster = dispy.JobCluster(flaky, job_status=again)
    for n in range(9):
        submit(n, 0)
    over.wait()
    cluster.wait()
    print(sorted(attempts.items()))
""",
        r"\[\(0, 0\), \(1, 1\), \(2, 2\), \(3, 0\), \(4, 1\), \(5, 2\), \(6, 0\), \(7, 1\), \(8, 2\)\]\n",
    ),
    Habit(
        "depends of files, functions and classes, which the computation finds by their names",
        """
import dispy

class Scale:
    factor = 3

def scaled(text):
    return int(text) * Scale.factor

def compute(line):
    with open('numbers.txt') as file:
        return scaled(file.readlines()[line])

if __name__ == '__main__':
    with open('numbers.txt', 'w') as file:
        file.write('5\\n7\\n')
    cluster = dispy.JobCluster(compute, depends=['numbers.txt', Scale, scaled])
    print([cluster.submit(line)() for line in (0, 1)])
    with open('more.txt', 'w') as file:
        file.write('11')
    def read(name):
        return open(name).read()
    cluster = dispy.JobCluster(read)
    print(cluster.submit('more.txt', dispy_job_depends=['more.txt'])())
""",
        r"\[15, 21\]\n11\n",
    ),
    Habit(
        "jobs in a list are asked for their status again and again",
        """
import time
import dispy

def compute(n):
    time.sleep(0.01 * n)
    return n

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, depends=[])
    jobs = [cluster.submit(n) for n in range(8)]
    finished = []
    while jobs:
        for job in list(jobs):
            if job.status == dispy.DispyJob.Finished:
                finished.append(job.result)
                jobs.remove(job)
        time.sleep(0.01)
    print(sorted(finished))
""",
        r"\[0, 1, 2, 3, 4, 5, 6, 7\]\n",
    ),
    Habit(
        "wait, then stats, and results by job.result",
        """
import dispy, sys

def roll(n):
    import random
    result = [0] * 11
    for _ in range(n):
        result[random.randint(1, 6) + random.randint(1, 6) - 2] += 1
    return result

def run(times, throws):
    cluster = dispy.JobCluster(roll)
    jobs = []
    for i in range(times):
        jobs.append(cluster.submit(throws))
    cluster.wait()
    cluster.stats()
    result = [0] * 11
    for job in jobs:
        for i in range(0, 11):
            result[i] += job.result[i]
    return result

if __name__ == '__main__':
    print(sum(run(4, 50)))
""",
        r"(?s).*127\.0\.0\.\d.*\n200\n",
    ),
    Habit(
        "setup makes globals that jobs share and update, cleanup deletes them",
        """
def setup(start):
    import multiprocessing, multiprocessing.sharedctypes
    global lock_value, json
    import json
    lock_value = multiprocessing.sharedctypes.Value('i', start, lock=multiprocessing.RLock())
    return 0

def cleanup(start):
    del globals()['lock_value']

def compute(n):
    with lock_value.get_lock():
        lock_value.value += n
        return json.dumps(lock_value.value)

if __name__ == '__main__':
    import dispy, sys
    cluster = dispy.JobCluster(compute, nodes=[dispy.NodeAllocate(sys.argv[1], setup_args=(100,))],
                               setup=setup, cleanup=cleanup, reentrant=True)
    jobs = [cluster.submit(1) for _ in range(10)]
    cluster.wait()
    print(sorted(int(job.result) for job in jobs))
    cluster.close()
""",
        r"\[101, 102, 103, 104, 105, 106, 107, 108, 109, 110\]\n",
    ),
    Habit(
        "a monitor in the browser that nobody looks at",
        """
import dispy
import dispy.httpd

def compute(n):
    return n

if __name__ == '__main__':
    http_server = None
    for fold in range(2):
        cluster = dispy.JobCluster(compute, pulse_interval=2)
        if http_server is None:
            http_server = dispy.httpd.DispyHTTPServer(cluster, host='localhost', poll_sec=2)
        else:
            http_server.add_cluster(cluster)
        jobs = [cluster.submit(n) for n in range(3)]
        cluster.wait()
        http_server.del_cluster(cluster)
        cluster.close()
        print([job() for job in jobs])
    http_server.shutdown()
""",
        r"(\[0, 1, 2\]\n){2}",
    ),
    Habit(
        "nodes in all spellings, none of them, and host and old names of parameters",
        """
import dispy

def compute():
    return dispy_node_ip_addr

if __name__ == '__main__':
    import sys, logging
    first, second = sys.argv[1:]
    host, port = first.split(':')
    for nodes in (first, [(host, int(port)), {'host': '127.0.0.*', 'cpus': 1}], [], '*'):
        cluster = dispy.JobCluster(compute, nodes=nodes, host='127.0.0.1', ip_addr=None,
                                   loglevel=logging.ERROR, ping_interval=10)
        print(cluster.submit()(), end=' ')
        cluster.close()
""",
        r"127\.0\.0\.2 (127\.0\.0\.[23] ){3}",
    ),
    Habit(
        "without a cluster the program runs jobs itself, and makes the DispyJob for its callback",
        """
import dispy

class JobServer:
    def __init__(self, parallel, function, callback):
        self.function, self.callback, self.jobs = function, callback, []
        self.cluster = dispy.JobCluster(function, job_status=callback) if parallel else None

    def submit(self, *args):
        if self.cluster is not None:
            self.jobs.append(self.cluster.submit(*args))
            return
        job = dispy.DispyJob(None, args, ())
        try:
            job.result = self.function(*args)
        except Exception as error:
            job.exception = error
        self.callback(job)

    def wait(self):
        if self.cluster is not None:
            self.cluster.wait()
            self.cluster.close()

def divide(a, b):
    return a // b

def told(job):
    print('failed' if job.exception is not None else job.result, end=' ')

if __name__ == '__main__':
    for parallel in (False, True):
        server = JobServer(parallel, divide, told)
        for b in (1, 0, 2):
            server.submit(12, b)
            if parallel:
                server.jobs[-1]()
        server.wait()
""",
        "(12 failed 6 ){2}",
    ),
    Habit(
        "jobs are dealt out to named nodes as soon as the cluster is made",
        """
import dispy

def calculate(n):
    return dispy_node_ip_addr, n * 3

if __name__ == '__main__':
    import sys
    addresses = [node.split(':')[0] for node in sys.argv[1:]]
    drive = dispy.JobCluster(calculate, sys.argv[1:])
    tasks = []
    for i in range(8):
        task = drive.submit_node(addresses[i % 2], i)
        task.id = i
        tasks.append(task)
    for task in tasks:
        where, n = task()
        assert where == addresses[task.id % 2] == task.ip_addr
        print(n, end=' ')
    drive.close()
""",
        "0 3 6 9 12 15 18 21 ",
    ),
    Habit(
        "a callback gives each node its next job, by submit_node",
        """
import threading
import dispy

todo = list(range(12))
done = []
lock = threading.Lock()
over = threading.Event()

def compute(n):
    return n

def schedule(status, node, job):
    if status == dispy.DispyNode.Initialized:
        for _ in range(node.cpus):
            give(node)
    elif status == dispy.DispyJob.Finished:
        done.append(job.result)
        give(node)
        if len(done) == 12:
            over.set()

def give(node):
    with lock:
        if todo:
            cluster.submit_node(node, todo.pop())

if __name__ == '__main__':
    ready = threading.Event()
    cluster = dispy.JobCluster(compute, cluster_status=lambda *args: (ready.wait(), schedule(*args)))
    ready.set()
    over.wait()
    print(sorted(done) == list(range(12)))
    cluster.close()
""",
        "True\n",
    ),
    Habit(
        "a program as computation, its output in job.stdout, its status in job.result",
        """
import dispy, os

if __name__ == '__main__':
    with open('count.sh', 'w') as file:
        file.write('#!/bin/sh\\necho "$1 and $2"\\nexit $2\\n')
    os.chmod('count.sh', 0o755)
    cluster = dispy.JobCluster('count.sh')
    jobs = [cluster.submit('n', n) for n in range(2)]
    for job in jobs:
        job()
        print(job.stdout.decode().strip(), job.result)
    cluster.print_status()
""",
        r"(?s)n and 0 0\nn and 1 1\n.*",
    ),
    Habit(
        "jobs that fail are told by exception, and those behind them go on",
        """
import dispy

def compute(n):
    print('starts', n)
    if n == 1:
        raise ValueError('one is bad')
    if n == 2:
        import os
        os._exit(9)
    return n

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute)
    jobs = [cluster.submit(n) for n in range(4)]
    for job in jobs:
        result = job()
        if job.exception:
            print('failed:', job.exception.strip().splitlines()[-1])
            continue
        assert job.stdout == 'starts %d\\n' % result
        print(result, job.status == dispy.DispyJob.Finished)
""",
        r"0 True\nfailed: ValueError: one is bad\nfailed: .*\n3 True\n",
    ),
    Habit(
        "two clusters at once, the results of one being the arguments of the other",
        """
import dispy

def mapper(text):
    return [(word, 1) for word in text.split()]

def reducer(pairs):
    counts = {}
    for word, count in pairs:
        counts[word] = counts.get(word, 0) + count
    return counts

if __name__ == '__main__':
    maps = dispy.JobCluster(mapper, reentrant=True, ping_interval=10, pulse_interval=10)
    reduces = dispy.JobCluster(reducer, reentrant=True, pulse_interval=10)
    jobs = [maps.submit(text) for text in ('a b a', 'b a')]
    reduce_jobs = [reduces.submit(job()) for job in jobs]
    total = {}
    for job in reduce_jobs:
        for word, count in job().items():
            total[word] = total.get(word, 0) + count
    print(sorted(total.items()))
    maps.close()
    reduces.close()
""",
        r"\[\('a', 3\), \('b', 2\)\]\n",
    ),
    Habit(
        "keyword arguments, from a dict that is the same for all jobs",
        """
import dispy

class Parallel:
    def __init__(self, compute, parameters, constants, dependencies=None):
        self.compute, self.parameters, self.constants = compute, parameters, constants
        self.dependencies = dependencies or []

    def retrieve(self):
        cluster = dispy.JobCluster(self.compute, depends=self.dependencies, loglevel=40,
                                   pulse_interval=10, reentrant=True)
        jobs = []
        for sample in self.parameters:
            args = sample if isinstance(sample, tuple) else (sample,)
            jobs.append(cluster.submit(*args, **self.constants))
        cluster.wait()
        cluster.close()
        for job in jobs:
            job()
            if job.exception is not None:
                raise Exception(job.exception)
        return [job.result for job in jobs]

def compute(a, b=0, size=1, offset=0):
    return (a + b) * size + offset

if __name__ == '__main__':
    print(Parallel(compute, [1, (2, 3)], {'size': 10, 'offset': 4}).retrieve())
""",
        r"\[14, 54\]\n",
    ),
    Habit(
        "a job writes a file and sends it, and the client opens it",
        """
import dispy

def compute(n):
    name = 'part%d.txt' % n
    with open(name, 'w') as file:
        file.write('line %d' % n)
    return dispy_send_file(name), name

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute)
    for job in [cluster.submit(n) for n in range(3)]:
        status, name = job()
        print(status, open(name).read())
""",
        "0 line 0\n0 line 1\n0 line 2\n",
    ),
    Habit(
        "a cluster for each generation, made and closed in a loop, without a main guard",
        """
import dispy

def fitness(n):
    return n % 5

population = list(range(10))
for generation in range(3):
    cluster = dispy.JobCluster(fitness, depends=[])
    jobs = []
    for individual in population:
        job = cluster.submit(individual)
        job.id = individual
        jobs.append(job)
    best = max(jobs, key=lambda job: (job(), -job.id))
    population = [best.id + step for step in range(10)]
    cluster.close()
print(population[0])
""",
        "4\n",
    ),
    Habit(
        "discover_nodes, a look at the nodes there are, and as many jobs as they have processors",
        """
import time
import dispy

def compute(n):
    return n

if __name__ == '__main__':
    import sys
    cluster = dispy.JobCluster(compute, nodes=sys.argv[1:])
    cluster.discover_nodes(sys.argv[1:])
    while len(cluster.status().nodes) < 2:
        time.sleep(0.01)
    cpus = sum(node.avail_cpus for node in cluster.status().nodes)
    jobs = [cluster.submit(n) for n in range(cpus)]
    while not all(job.finish.is_set() for job in jobs):
        jobs[-1].finish.wait(0.1)
    print(cpus, sum(job.result for job in jobs), cluster.status().jobs_pending)
""",
        "4 6 0\n",
    ),
    Habit(
        "a program that never waits and never closes, whose callback prints",
        """
import dispy

def compute(n):
    return n

def show(job):
    print(job.result)

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, job_status=show)
    cluster.submit(1)
    cluster.submit(2)
""",
        "1\n2\n|2\n1\n",
    ),
]


def port(program: str) -> str:
    """Change the import, and nothing else."""
    program = re.sub(
        r"^(\s*)import dispy\.httpd$", r"\1import dispy_trio.httpd", program, flags=re.M
    )
    ported, count = re.subn(
        r"^(\s*import .*?)\bdispy\b(?!_)", r"\1dispy_trio as dispy", program, flags=re.M
    )
    assert count == 1, program
    return ported


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_a_program_from_the_wild_runs(
    habit: Habit, nodes: World, served: tuple[World, list[Node]]
) -> None:
    _, started = served
    printed = nodes.run(port(habit.program), *(node.address for node in started))
    assert re.fullmatch(habit.prints, printed), printed


def test_packages_that_import_dispy_in_many_files(nodes: World) -> None:
    nodes.write("simulation/__init__.py", "from .server import Server\n")
    nodes.write(
        "simulation/server.py",
        """
import dispy
from dispy import JobCluster
from .work import compute

class Server:
    def run(self):
        cluster = JobCluster(compute)
        jobs = [cluster.submit(n) for n in range(3)]
        cluster.wait()
        for job in jobs:
            assert isinstance(job, dispy.DispyJob)
            print(job.result if job.status == dispy.DispyJob.Finished else job.exception, end=" ")
        cluster.close()
""",
    )
    nodes.write(
        "simulation/work.py",
        """
import dispy, dispy.httpd

def compute(n):
    import dispy.config
    return n, dispy.DispyJob.Finished == 11
""",
    )
    program = """
import dispy_trio
dispy_trio.install_as_dispy()
import simulation
simulation.Server().run()
"""
    assert nodes.run(program) == "(0, True) (1, True) (2, True) "
