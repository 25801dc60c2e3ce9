"""Programs of dispy's manual, and in its manner, with nothing changed but the import.

They sleep less than the manual's, by their constants. Two nodes serve all of them. What is checked
is what they print; where a program prints too little to be checked, lines are added below it.
"""

from __future__ import annotations

import hashlib
import platform
import re

import pytest

from .conftest import World

FIRST, SECOND = "127.0.0.2", "127.0.0.3"


def run(world: World, program: str) -> list[str]:
    """Run a program of dispy; return the lines it printed."""
    ported, count = re.subn(
        r"^(\s*import .*?)\bdispy\b", r"\1dispy_trio as dispy", program, flags=re.MULTILINE
    )
    assert count == 1
    return world.run(ported).splitlines()


def quicker(program: str, old: str, new: str) -> str:
    assert program.count(old) == 1
    return program.replace(old, new)


# --- the quick guide -----------------------------------------------------------------------------
QUICK_GUIDE = """
# 'compute' is distributed to each node running 'dispynode'
def compute(n):
    import time, socket
    time.sleep(n)
    host = socket.gethostname()
    return (host, n)

if __name__ == '__main__':
    import dispy, random
    cluster = dispy.JobCluster(compute)
    jobs = []
    for i in range(10):
        # schedule execution of 'compute' on a node (running 'dispynode')
        # with a parameter (random number in this case)
        job = cluster.submit(random.randint(5,20))
        job.id = i # optionally associate an ID to job (if needed later)
        jobs.append(job)
    # cluster.wait() # waits for all scheduled jobs to finish
    for job in jobs:
        host, n = job() # waits for job to finish and returns results
        print('%s executed job %s at %s with %s' % (host, job.id, job.start_time, n))
        # other fields of 'job' that may be useful:
        # print(job.stdout, job.stderr, job.exception, job.ip_addr, job.start_time, job.end_time)
    cluster.print_status()
"""


@pytest.mark.parametrize("method", ["print_status", "stats"])
def test_the_quick_guide(nodes: World, method: str) -> None:
    program = quicker(QUICK_GUIDE, "random.randint(5,20)", "random.randint(5,20) / 200")
    lines = run(nodes, program.replace("print_status", method))
    for i, line in enumerate(lines[:10]):
        match = re.fullmatch(r"(\S+) executed job (\d+) at (\d+\.\d+) with (0\.\d+)", line)
        assert match is not None, line
        assert match[1] == platform.node()
        assert int(match[2]) == i
        assert 0.025 <= float(match[4]) <= 0.1
    table = "\n".join(lines[10:])
    for word in ("Node", "CPUs", "Jobs", "Sec/Job", "speedup"):
        assert word in table
    assert FIRST in table or SECOND in table


# --- provisional results -------------------------------------------------------------------------
PROVISIONAL = """
import random, dispy

def compute(n): # executed on nodes
    import random, time, socket
    name = socket.gethostname()
    cur_best = 1
    for i in range(0, n):
        r = random.uniform(0, 1)
        if r <= cur_best:
            # possible result
            dispy_provisional_result((name, r))
            cur_best = r
        time.sleep(0.1)
    # final result
    return (name, cur_best)

def job_status(job): # executed at the client
    if job.status == dispy.DispyJob.ProvisionalResult:
        if job.result[1] < 0.005:
            # acceptable result; terminate jobs
            print('%s computed: %s' % (job.result[0], job.result[1]))
            # 'jobs' and 'cluster' are created in '__main__' below
            for j in jobs:
                if j.status in [dispy.DispyJob.Created, dispy.DispyJob.Running,
                                dispy.DispyJob.ProvisionalResult]:
                    cluster.cancel(j)

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, job_status=job_status)
    jobs = []
    for n in range(4):
        job = cluster.submit(random.randint(50,100))
        if job is None:
            print('creating job %s failed!' % n)
            continue
        job.id = n
        jobs.append(job)
    cluster.wait()
    cluster.print_status()
    cluster.close()
"""


def test_an_acceptable_provisional_result_ends_the_jobs(nodes: World) -> None:
    # Half of all draws are below the threshold, and a job draws at least fifty times.
    program = quicker(PROVISIONAL, "time.sleep(0.1)", "time.sleep(0.02)")
    program = quicker(program, "job.result[1] < 0.005", "job.result[1] < 0.5")
    program += "    print('ends:', *[job.status for job in jobs])\n"
    program += "    print('results:', *[job.result for job in jobs])\n"
    lines = run(nodes, program)
    computed = [line for line in lines if " computed: " in line]
    assert computed
    for line in computed:
        match = re.fullmatch(r"(\S+) computed: (\S+)", line)
        assert match is not None
        assert match[1] == platform.node()
        assert float(match[2]) < 0.5
    ends = lines[-2].removeprefix("ends: ").split()
    # Cancelled while waiting (8) or while running (9); not one of them draws to its end.
    assert len(ends) == 4
    assert set(ends) <= {"8", "9"}
    assert "9" in ends
    assert lines[-1] == "results: None None None None"
    assert any("speedup" in line for line in lines)


# --- choosing nodes ------------------------------------------------------------------------------
FILTER = """
import dispy, re

def compute(n):
    return n * n

class FilterNodeAllocate(dispy.NodeAllocate):
   def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=''):
       # use only nodes that have 1GB of memory and 100GB of disk space available
       # and run Linux 64-bit
       GB = 1024 ** 3
       if (isinstance(avail_info, dispy.DispyNodeAvailInfo) and
           avail_info.memory > GB and avail_info.disk > (100 * GB) and
           re.match('Linux.*x86_64', platform)):
           return cpus # use all available CPUs on this node
       else:
           return 0 # don't use this node

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, nodes=[FilterNodeAllocate('*')])
    jobs = [cluster.submit(n) for n in range(5)]
    print(cluster.wait(timeout=WAIT), [job.result for job in jobs])
    cluster.close(terminate=True)
"""


@pytest.mark.parametrize("fits", [True, False])
def test_only_nodes_that_fit_are_used(nodes: World, fits: bool) -> None:
    program = quicker(FILTER, "GB = 1024 ** 3", f"GB = {1024 if fits else 1024**6}")
    program = quicker(program, "x86_64", platform.machine())
    program = quicker(program, "WAIT", "20" if fits else "0.5")
    expected = [0, 1, 4, 9, 16] if fits else [None] * 5
    assert run(nodes, program) == [f"{fits} {expected}"]


# --- files ---------------------------------------------------------------------------------------
SEND_FILE = """
import dispy

def compute(n):
    result = 0
    with open("file.dat", "w") as fd:
        for i in range(n):
            fd.write("%s\\n" % i)
            result += i
    sent = dispy_send_file("file.dat")
    absent = dispy_send_file("absent.dat")
    return result, sent, absent

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute)
    job = cluster.submit(1000)
    print(job())
    with open("file.dat") as fd:
        print(sum(int(line) for line in fd))
    cluster.close()
"""


def test_a_job_sends_a_file_to_the_client(nodes: World) -> None:
    assert run(nodes, SEND_FILE) == ["(499500, 0, -1)", "499500"]


CLIENT_SENDS = """
import dispy, queue

def compute(path):
    with open(path) as fd:
        return fd.read()

def cluster_status(status, node, job):
    if status == dispy.DispyNode.Initialized:
        initialized.put(node)

if __name__ == '__main__':
    initialized = queue.Queue()
    cluster = dispy.JobCluster(compute, cluster_status=cluster_status)
    for n in range(2):
        node = initialized.get()
        with open('data%s' % n, 'w') as fd:
            fd.write('for node %s' % n)
        print(cluster.send_file('data%s' % n, node))
        job = cluster.submit_node(node, 'data%s' % n)
        print(job(), job.ip_addr == node.ip_addr)
    cluster.close()
"""


def test_the_client_sends_each_node_a_file_of_its_own(nodes: World) -> None:
    assert run(nodes, CLIENT_SENDS) == ["0", "for node 0 True", "0", "for node 1 True"]


# --- data in memory ------------------------------------------------------------------------------
# Modules are used without import, as dispy's own examples do.
IN_MEMORY = """
import dispy

class NodeAllocate(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=''):
        data_file = 'data-%s' % (int(ip_addr.split('.')[-1]) % 2)
        self.depends = [data_file]
        self.setup_args = (data_file, 'sha256')
        return cpus

def setup(data_file, algorithm):
    global data, digest
    data = open(data_file, 'rb').read()
    os.remove(data_file)  # it is in memory now
    digest = getattr(hashlib, algorithm)
    return 0

def cleanup(data_file, algorithm):
    global data, digest
    del data, digest

def compute(n):
    time.sleep(0.01)
    return data.decode(), digest(data + str(n).encode()).hexdigest(), os.path.exists('data-0')

if __name__ == '__main__':
    for i in range(2):
        with open('data-%s' % i, 'w') as fd:
            fd.write('text %s' % i)
    cluster = dispy.JobCluster(compute, nodes=[NodeAllocate('*')], setup=setup, cleanup=cleanup)
    jobs = []
    for n in range(8):
        job = cluster.submit(n)
        job.id = n
        jobs.append(job)
    for job in jobs:
        result = job() or [job.exception]
        print(job.ip_addr, job.id, *result, sep='|')
    cluster.close()
"""


def test_each_node_keeps_a_file_of_its_own_in_memory(nodes: World) -> None:
    lines = run(nodes, IN_MEMORY)
    assert len(lines) == 8
    for n, line in enumerate(lines):
        text = {FIRST: "text 0", SECOND: "text 1"}[line.split("|")[0]]
        digest = hashlib.sha256(f"{text}{n}".encode()).hexdigest()
        assert line.split("|")[1:] == [str(n), text, digest, "False"]


FAILING_SETUP = """
import dispy, threading

def setup():
    raise OSError('no data here')

def compute(n):
    return n

def cluster_status(status, node, job):
    if status == dispy.DispyNode.Closed:
        print(node.ip_addr, 'closed:', node.error.strip().splitlines()[-1])

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, setup=setup, cluster_status=cluster_status)
    job = cluster.submit(1)
    cluster.wait()
    cluster.close()
    print('result', job(), job.status == dispy.DispyJob.Terminated, 'no data' in job.exception)
"""


def test_a_failing_setup_is_told_and_ends_the_jobs(nodes: World) -> None:
    lines = run(nodes, FAILING_SETUP)
    assert sorted(lines) == [
        f"{FIRST} closed: OSError: no data here",
        f"{SECOND} closed: OSError: no data here",
        "result None True True",
    ]


REPLACE = """
import dispy, threading

class NodeAllocate(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=''):
        self.setup_args = (rounds.get(ip_addr, 0),)
        return cpus

def setup(number):
    global data, data_lock, used
    data = 'data of round %s' % number
    data_lock = multiprocessing.Lock()
    used = multiprocessing.Value('i', 0)
    return 0

def cleanup(number):
    global data, data_lock, used
    del data, data_lock, used

def compute():
    with data_lock:
        used.value += 1
        return data, used.value

def cluster_status(status, node, job):
    with cond:
        if status == dispy.DispyNode.Initialized:
            print(node.ip_addr, 'initialized')
            if rounds.setdefault(node.ip_addr, 0) < 3:
                for n in range(2):
                    cluster.submit_node(node)
        elif status == dispy.DispyJob.Finished:
            print(node.ip_addr, *job.result, sep='|')
            if job.result[1] == 2:
                rounds[node.ip_addr] += 1
                if rounds[node.ip_addr] == 3:
                    cond.notify()
                else:
                    cluster.resetup_node(node)

if __name__ == '__main__':
    cond = threading.Condition()
    rounds = {}
    with cond:
        cluster = dispy.JobCluster(compute, nodes=[NodeAllocate('*')], setup=setup,
                                   cleanup=cleanup, cluster_status=cluster_status)
        while sum(rounds.values()) < 6:
            cond.wait()
    cluster.close()
"""


def test_data_in_memory_is_replaced(nodes: World) -> None:
    lines = run(nodes, REPLACE)
    for host in (FIRST, SECOND):
        of_node = [line for line in lines if line.startswith(host)]
        assert of_node.count(f"{host} initialized") == 3
        used = [line for line in of_node if "|" in line]
        # A shared value begins anew with each setup; two jobs of a round may end in any order.
        expected = [f"{host}|data of round {n}|{turn}" for n in range(3) for turn in (1, 2)]
        assert sorted(used) == expected


# --- deciding where jobs run ---------------------------------------------------------------------
SCHEDULER = """
import dispy, threading

def compute(n):
    time.sleep(0.01)
    return n, dispy_node_ip_addr

def cluster_status(status, node, job):
    global submitted, done
    with jobs_cond:
        if status == dispy.DispyNode.Initialized:
            for cpu in range(node.avail_cpus):
                if submitted < TOTAL:
                    submitted += 1
                    cluster.submit_node(node, submitted)
        elif status in (dispy.DispyJob.Finished, dispy.DispyJob.Terminated,
                        dispy.DispyJob.Cancelled, dispy.DispyJob.Abandoned):
            done += 1
            n, ip_addr = job.result
            print(n, ip_addr == node.ip_addr == job.ip_addr)
            if submitted < TOTAL:
                submitted += 1
                cluster.submit_node(node, submitted)
            elif done == TOTAL:
                jobs_cond.notify()

if __name__ == '__main__':
    TOTAL = 30
    submitted = done = 0
    jobs_cond = threading.Condition()
    with jobs_cond:
        cluster = dispy.JobCluster(compute, cluster_status=cluster_status)
        while done < TOTAL:
            jobs_cond.wait()
    cluster.print_status()
    cluster.close()
"""


def test_a_scheduler_in_the_callback(nodes: World) -> None:
    lines = run(nodes, SCHEDULER)
    jobs = [line for line in lines if line.endswith((" True", " False"))]
    assert sorted(jobs, key=lambda line: int(line.split()[0])) == [
        f"{n} True" for n in range(1, 31)
    ]


ON_EVERY_NODE = """
import dispy, threading

def cluster_status(status, node, job):
    if status == dispy.DispyNode.Initialized:
        with cond:
            job = cluster.submit_node(node, '-c', 'echo "on $dispy_node_ip_addr"; exit 3')
            jobs.append(job)
            cond.notify()

if __name__ == '__main__':
    cond, jobs = threading.Condition(), []
    with cond:
        cluster = dispy.JobCluster('/bin/sh', cluster_status=cluster_status)
        while len(jobs) < 2:
            cond.wait()
    cluster.wait()
    for job in sorted(jobs, key=lambda job: job.ip_addr):
        print(job.result, job.status == dispy.DispyJob.Finished, job.stdout, job.stderr, job.ip_addr)
    cluster.close()
"""


def test_a_program_on_every_node(nodes: World) -> None:
    assert run(nodes, ON_EVERY_NODE) == [
        f"3 True b'on {host}\\n' b'' {host}" for host in (FIRST, SECOND)
    ]


SUSPEND = """
import dispy, queue

def compute():
    return dispy_node_ip_addr

def cluster_status(status, node, job):
    if status == dispy.DispyNode.Initialized:
        initialized.put(node)

if __name__ == '__main__':
    initialized = queue.Queue()
    cluster = dispy.JobCluster(compute, cluster_status=cluster_status)
    first, second = sorted([initialized.get(), initialized.get()], key=lambda n: n.ip_addr)
    print(cluster.deallocate_node(first.ip_addr))
    print({job() for job in [cluster.submit() for i in range(10)]})
    print(cluster.allocate_node(first.ip_addr))
    print(cluster.deallocate_node(second))
    print({job() for job in [cluster.submit() for i in range(10)]})
    print(cluster.allocate_node(second.ip_addr), cluster.node_jobs(first))
    print(cluster.set_node_cpus(first.ip_addr, 1), cluster.set_node_cpus('10.11.12.13', 1))
    print(cluster.close_node(second), cluster.deallocate_node('10.11.12.13'))
    print({job() for job in [cluster.submit() for i in range(10)]})
    cluster.close()
"""


def test_a_node_is_suspended_resumed_and_closed(nodes: World) -> None:
    assert run(nodes, SUSPEND) == [
        "0",
        f"{{'{SECOND}'}}",
        "0",
        "0",
        f"{{'{FIRST}'}}",
        "0 []",
        "1 -1",
        "0 -1",
        f"{{'{FIRST}'}}",
    ]


# --- jobs ----------------------------------------------------------------------------------------
LONG_RUNNING = """
import dispy, threading

def compute(catch):
    i = 0
    try:
        dispy_provisional_result('begun')
        while 1:
            i += 1
            time.sleep(0.02)
    except KeyboardInterrupt:
        if not catch:
            raise
        return 'interrupted', i >= 0
    return 'never'

def job_status(job):
    if job.status == dispy.DispyJob.ProvisionalResult:
        begun.release()

if __name__ == '__main__':
    begun = threading.Semaphore(0)
    cluster = dispy.JobCluster(compute, job_status=job_status)
    jobs = [cluster.submit(True), cluster.submit(False)]
    for job in jobs:
        begun.acquire()
    print(cluster.wait(timeout=0.05))
    print([cluster.cancel(job) for job in jobs])
    print([job() for job in jobs])
    print(jobs[0].status == dispy.DispyJob.Finished, jobs[1].status == dispy.DispyJob.Terminated)
    print([cluster.cancel(job) for job in jobs], cluster.wait(timeout=5))
    cluster.close()
"""


def test_a_long_running_job_is_interrupted(nodes: World) -> None:
    assert run(nodes, LONG_RUNNING) == [
        "False",
        "[0, 0]",
        "[('interrupted', True), None]",
        "True True",
        "[-1, -1] True",
    ]


DELEGATE = """
import dispy

class Account:
    def __init__(self, balance):
        self.balance = balance
    def add(self, amount):
        return Account(self.balance + amount)

def delegate(func_name, *args, **kwargs):
    return globals()[func_name](*args, **kwargs)

def square(n):
    return n * n

def cube(n):
    return globals()['square'](n) * n  # sent with it

def deposit(account, amount=1):
    return account.add(amount)

if __name__ == '__main__':
    cluster = dispy.JobCluster(delegate)
    print(cluster.submit('square', 7, dispy_job_depends=[square])())
    print(cluster.submit('cube', 2, dispy_job_depends=[cube, square])())
    print(cluster.submit('deposit', Account(10), amount=5,
                         dispy_job_depends=[deposit, Account])().balance)
    job = cluster.submit('square', 7)
    job()
    print(job.status == dispy.DispyJob.Terminated, 'KeyError' in job.exception)
    cluster.close()
"""


def test_a_function_is_sent_with_its_job_and_leaves_with_it(nodes: World) -> None:
    assert run(nodes, DELEGATE) == ["49", "8", "15", "True True"]


BOUNDED = """
import dispy, threading

def compute(n):
    return n

def job_status(job):
    global total
    if job.status not in (dispy.DispyJob.Created, dispy.DispyJob.Running,
                          dispy.DispyJob.ProvisionalResult):
        with jobs_cond:
            total += job.result
            del under_way[job.id]
            if len(under_way) == LOWER:
                jobs_cond.notify()

if __name__ == '__main__':
    LOWER, UPPER, most, total = 20, 40, 0, 0
    jobs_cond, under_way = threading.Condition(), {}
    cluster = dispy.JobCluster(compute, job_status=job_status)
    for n in range(500):
        with jobs_cond:
            if len(under_way) == UPPER:
                jobs_cond.wait_for(lambda: len(under_way) <= LOWER)
            job = cluster.submit_job_id('job %s' % n, n)
            under_way[job.id] = job
            most = max(most, len(under_way))
    cluster.wait()
    print(most <= UPPER, total, len(under_way))
    cluster.close()
"""


def test_submission_between_two_bounds(nodes: World) -> None:
    assert run(nodes, BOUNDED) == ["True 124750 0"]


NAMES = """
import dispy

def compute():
    dispynode_logger.info('Job process %s started' % os.getpid())
    print(os.path.isdir(dispy_job_path), os.path.samefile(dispy_job_path, os.getcwd()))
    print(socket.gethostname() == dispy_node_name or dispy_node_name, file=sys.stderr)
    subprocess.run(['echo', 'by a child'])
    raise ValueError(dispy_node_ip_addr)

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute)
    job = cluster.submit()
    print(job(), job.result, job.status == dispy.DispyJob.Terminated)
    print(job.stdout.split(), job.stderr)
    print(job.exception.strip().splitlines()[-1] == 'ValueError: %s' % job.ip_addr)
    print(job.host == job.ip_addr, job.submit_time <= job.start_time <= job.end_time)
    cluster.close()
"""


def test_names_that_jobs_find_and_what_they_write(nodes: World) -> None:
    lines = run(nodes, NAMES)
    assert lines[0] == "None None True"
    assert lines[1] == "['True', 'True', 'by', 'a', 'child'] True"
    assert lines[2:] == ["", "True", "True True"]
