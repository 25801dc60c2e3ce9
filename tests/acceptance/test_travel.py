"""How functions, classes and modules of a user's program travel to nodes, and results back."""

from __future__ import annotations

import sys
import zipapp
from pathlib import Path

import pytest

from .conftest import LIMIT, World


def run(world: World, *command: str | Path) -> str:
    """Run a program to its end; what it printed."""
    process = world.start(sys.executable, *command)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return out


# --- classes -----------------------------------------------------------------------------------
CLASSES = """
import enum
import dispy_trio as dispy
from dispy_mapreduce import map_reduce

class P:
    total = 0
    def __init__(self, x):
        self.x = x
    def __repr__(self):
        return f"P({self.x})"

class Colour(enum.Enum):
    RED = 1

class Trouble(Exception):
    count = 0

class Fixed:
    __slots__ = ("x",)
    class Inner:
        pass

class Quiet:
    '''No function of a computation mentions it.'''
    seen = 0

def compute(n):
    if n < 0:
        raise Trouble(n)
    return P(n), Colour.RED

def local():
    class Inner:
        seen = 0
    return Inner

Inner = None  # Its name leads elsewhere.
Local = local()

def make_local(n):
    made = Local()
    made.n = n
    fixed = Fixed()
    fixed.x = n
    return made, fixed, Fixed.Inner()

def look(value):
    return type(value).__name__, isinstance(value, (P, Colour)), value

def hand_on(value):
    return value

def spoil(value):
    type(value).seen = "there"
    yield 0, value

def mapper(n):
    yield n % 2, P(n)

def reducer(key, values):
    return P(sum(value.x for value in values))

def main():
    with dispy.JobCluster(compute) as cluster:
        for job in [cluster.submit(n) for n in range(1, 5)]:
            made, colour = job()
            assert type(made) is P and colour is Colour.RED
            P.total += made.x
        print("sum", P.total)
        for _ in range(2):
            failed = cluster.submit(-1)
            failed.wait()
            try:
                raise failed.reason()
            except Trouble as exc:
                Trouble.count += 1
        print("raised", Trouble.count)
        assert [made.x for made, _ in cluster.map(range(3))] == [0, 1, 2]
        isolated = cluster.options(isolation="job").submit(7)()
        print("isolated", type(isolated[0]) is P, P.total)
    with dispy.JobCluster(make_local) as cluster:
        for job in [cluster.submit(n) for n in range(4)]:
            made, fixed, inner = job()
            assert type(made) is Local
            assert type(fixed) is Fixed and fixed.x == made.n
            assert type(inner) is Fixed.Inner
            Local.seen += 1
        print("local", Local.seen)
    with dispy.JobCluster(look) as cluster:
        P.total = 10
        for value in (P(5), Colour.RED):
            name, known, again = cluster.submit(value)()
            assert known and type(again) is type(value)
        print("argument", P.total, cluster.submit(dispy_job_depends=[hand_on], value=P(6))()[1])
    with dispy.JobCluster(hand_on) as cluster:
        for job in [cluster.submit(Quiet()) for _ in range(3)]:
            assert type(job()) is Quiet
            Quiet.seen += 1
        print("not mentioned", Quiet.seen)
    with dispy.JobCluster(hand_on, depends=[P]) as cluster:
        assert type(cluster.submit(P(1))()) is P
        print("depends", P.total)
    reduced = dict(map_reduce(mapper, reducer, range(10), nodes=None))
    assert all(type(value) is P for value in reduced.values())
    print("map_reduce", reduced[0], reduced[1], P.total)
    quiet = dict(map_reduce(spoil, lambda k, v: list(v)[0], [Quiet(), Quiet()]))
    print("map_reduce of others", type(quiet[0]) is Quiet, Quiet.seen)

main()
"""


def test_classes_of_the_program_are_the_same_on_both_sides(nodes: World) -> None:
    assert nodes.run(CLASSES).splitlines() == [
        "sum 10",
        "raised 2",
        "isolated True 10",
        "local 4",
        "argument 10 True",
        "not mentioned 3",
        "depends 10",
        "map_reduce P(20) P(25) 10",
        "map_reduce of others True 3",
    ]


REDEFINED = """
import dispy_trio as dispy

class P:
    def told(self):
        return "first"

def compute(given: P):
    return P().told(), given.told(), isinstance(given, P), given

with dispy.JobCluster(compute) as cluster:
    first = P()
    print(cluster.submit(first)()[:3])
    class P:
        def told(self):
            return "second"
    *told, given = cluster.submit(P())()
    print(told, type(given) is P, given.told())
    *told, given = cluster.submit(first)()
    print(told, type(given) is P)  # By the name that it has there, as with pickle.
"""


def test_a_class_redefined_between_submits_is_another(nodes: World) -> None:
    assert nodes.run(REDEFINED).splitlines() == [
        "('first', 'first', True)",
        "['first', 'second', False] True second",
        "['first', 'first', True] True",
    ]


def test_classes_of_a_file_that_is_run_are_the_same_on_both_sides(nodes: World) -> None:
    nodes.write(
        "counted.py",
        """
class Count:
    def __init__(self, n):
        self.n = n

def mapper(word):
    yield word.strip(), Count(1)

def reducer(word, counts):
    return Count(sum(count.n for count in counts))
""",
    )
    nodes.write("words.txt", "a\nb\na\n")
    script = """
from dispy_mapreduce.program import run_program
result = dict(run_program("counted.py", ["words.txt"]))
import counted
print({word: count.n for word, count in sorted(result.items())})
print({type(count) is counted.Count for count in result.values()})
"""
    assert nodes.run(script) == "{'a': 2, 'b': 1}\n{True}\n"


# --- functions ---------------------------------------------------------------------------------
STARTED = """
import multiprocessing, sys
import dispy_trio as dispy

class Point:
    made = 0
    def __init__(self, x):
        self.x = x

def double(n):
    return Point(2 * n)

def client(given: Point):
    with dispy.JobCluster(double) as cluster:
        point = cluster.submit(4)()
        Point.made += 1
        return type(point) is Point, cluster.submit(given.x)().x, Point.made

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(1) as pool:
        print(*pool.apply(client, (Point(3),)))
"""


@pytest.mark.parametrize("how", ["spawn", "forkserver"])
def test_functions_of_main_in_a_process_of_multiprocessing(nodes: World, how: str) -> None:
    assert nodes.run(STARTED, how) == "True 6 1\n"


WRAPPED = """
import functools, operator
import dispy_trio as dispy

class Point:
    def __init__(self, x):
        self.x = x
    @functools.lru_cache(maxsize=8)
    def twice(self):
        return 2 * self.x
    @functools.cached_property
    def half(self):
        return self.x / 2
    @functools.singledispatchmethod
    def tell(self, what):
        return "object"
    @tell.register
    def _(self, what: int):
        return "int"
    def power(self, exponent):
        return self.x ** exponent
    square = functools.partialmethod(power, 2)

@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@functools.lru_cache(maxsize=None, typed=True)
def typed(n):
    return type(n).__name__

@functools.singledispatch
def tell(value):
    return "object"

@tell.register
def _(value: int):
    return f"int, not {tell('x')}"

@tell.register
def _(value: Point):
    return "Point"

def use_all(n):
    point = Point(n)
    return (fibonacci(n), typed(n), tell(n), tell(point), point.twice(), point.half, point.tell(1),
            point.square(), typed.cache_parameters()["typed"])

def run(computation, *args):
    with dispy.JobCluster(computation) as cluster:
        job = cluster.submit(*args)
        return job() if job() is not None else job.exception

print(run(use_all, 10))
print(run(fibonacci, 30), run(typed, 1), run(tell, 3), run(tell, Point(1)))
print(run(functools.partial(fibonacci, 9)), run(functools.partial(Point.power, exponent=3), Point(2)))
print(run(operator.attrgetter("x"), Point(5)), run(operator.methodcaller("power", 3), Point(2)))
print(run(operator.itemgetter(1), "abc"), run(Point(3).square), type(run(Point, 1)) is Point)
print(run(functools.reduce, operator.add, [1, 2]), run(lambda f, n: f(n), fibonacci, 10))
"""


def test_functions_under_wrappers_written_in_c(nodes: World) -> None:
    assert nodes.run(WRAPPED).splitlines() == [
        "(55, 'int', 'int, not object', 'Point', 20, 5.0, 'int', 100, True)",
        "832040 int int, not object Point",
        "34 8",
        "5 8",
        "b 9 True",
        "3 55",
    ]


# --- modules -----------------------------------------------------------------------------------
def test_all_modules_of_a_zipapp_go_along(nodes: World) -> None:
    nodes.write("app/beside.py", "def double(n):\n    import deeper\n    return 2 * deeper.n(n)\n")
    nodes.write("app/deeper.py", "def n(n):\n    return n\n")
    nodes.write("app/package/__init__.py", "")
    nodes.write("app/package/inner.py", "from . import unloaded\nabove = unloaded.above\n")
    nodes.write("app/package/unloaded.py", "def above(n):\n    return n + 1\n")
    nodes.write("app/package/table.csv", "a,b\n")
    nodes.write(
        "app/__main__.py",
        """
import functools
import dispy_trio as dispy

class Point:
    made = 0

@functools.cache
def compute(n):
    import beside, importlib.resources
    from package import inner
    point = Point()
    point.x = inner.above(beside.double(n))
    point.text = importlib.resources.files("package").joinpath("table.csv").read_text()
    return point

with dispy.JobCluster(compute) as cluster:
    for _ in range(2):
        job = cluster.submit(3)
        point = job()
        assert job.exception is None, job.exception
        Point.made += 1
    print(type(point) is Point, point.x, repr(point.text), point.made)
""",
    )
    archive = nodes.tmp_path / "app.pyz"
    zipapp.create_archive(nodes.tmp_path / "app", archive)
    assert run(nodes, archive) == "True 7 'a,b\\n' 2\n"


def test_modules_beside_a_package_that_runs(nodes: World) -> None:
    nodes.write("beside.py", "def double(n):\n    return 2 * n\n")
    nodes.write("lazily.py", "def above(n):\n    return n + 1\n")
    nodes.write("runs/__init__.py", "")
    nodes.write("runs/tools.py", "def negate(n):\n    return -n\n")
    nodes.write(
        "runs/__main__.py",
        """
import beside
from . import tools
import dispy_trio as dispy

class Point:
    def __init__(self, x):
        self.x = x

def compute(n):
    import lazily
    from .tools import negate
    return Point(negate(lazily.above(beside.double(n)))), tools.negate(n)

with dispy.JobCluster(compute) as cluster:
    job = cluster.submit(3)
    point, negative = job() or (None, job.exception)
    print(type(point) is Point, point.x, negative)
""",
    )
    assert run(nodes, "-m", "runs") == "True -7 -3\n"


def test_packages_keep_their_path_resources_and_data(nodes: World) -> None:
    nodes.write("package/__init__.py", "import os\nhere = os.path.dirname(__file__)\n")
    nodes.write("package/sub/__init__.py", "")
    nodes.write("package/sub/.hidden", "")
    nodes.write("package/sub/small.txt", "small")
    (nodes.tmp_path / "package" / "large.bin").write_bytes(bytes(1_000_000))
    script = """
import dispy_trio as dispy
import package

def compute():
    import importlib.resources, os, pkgutil
    return (
        os.path.getsize(os.path.join(package.here, "large.bin")),
        pkgutil.get_data("package", "sub/small.txt"),
        [entry.name for entry in importlib.resources.files("package.sub").iterdir()],
        [module.name for module in pkgutil.iter_modules(package.__path__)],
        package.here,
    )

with dispy.JobCluster(compute) as cluster:
    job = cluster.submit()
    *found, here = job() or [job.exception, ""]
    print(found, here != package.here)
"""
    assert nodes.run(script) == (
        "[1000000, b'small', ['__init__.py', 'small.txt'], ['sub']] True\n"
    )


def test_a_module_edited_since_its_import_is_told(nodes: World) -> None:
    script = """
import logging, pathlib, sys
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
import dispy_trio as dispy
import edited, untouched

def compute():
    return edited.value()

dispy.JobCluster(compute).close()
pathlib.Path("edited.py").write_text("def value():\\n    return 'second'\\n")
pathlib.Path("untouched.py").touch()
with dispy.JobCluster(compute) as cluster:
    print(edited.value(), cluster.submit()())
"""
    nodes.write("edited.py", "def value():\n    return 'first'\n")
    nodes.write("untouched.py", "def value():\n    return 1\n")
    path = nodes.tmp_path / "edited.py"
    told = (
        "the module 'edited' was edited since this program imported it: jobs will run what"
        f" {path} holds now, which is not what this program runs"
    )
    assert nodes.run(script).splitlines() == [told, "first second"]


# --- what is not on the node -------------------------------------------------------------------
def test_a_function_runs_where_what_its_module_imports_is_not_installed(nodes: World) -> None:
    nodes.write(
        "analysis.py",
        """
import plotting
from plotting.styles import dark

class Task:
    def __init__(self, n):
        self.n = n

def compute(task, show=False):
    if show:
        plotting.show(task.n, dark)
    return Task(2 * task.n)
""",
    )
    # It is installed here only.
    nodes.write("site-packages/plotting/__init__.py", "")
    nodes.write("site-packages/plotting/styles.py", "dark = 1\n")
    script = """
import os, sys
sys.path.append(os.path.join(os.getcwd(), "site-packages"))
import dispy_trio as dispy
import analysis
from analysis import Task

def compute(task):
    return analysis.compute(task)

for computation in (analysis.compute, compute):
    with dispy.JobCluster(computation) as cluster:
        job = cluster.submit(Task(4))
        made = job()
        print(type(made) is Task, made.n if made else job.exception)
with dispy.JobCluster(analysis.compute) as cluster:
    job = cluster.submit(Task(4), show=True)
    job()
    print(job.exception.splitlines()[-1])
"""
    told = (
        "NameError: `plotting` of the module 'analysis': not here, for the import of 'analysis' on"
        " this node failed (ModuleNotFoundError: No module named 'plotting'; send the module"
        " 'plotting' along with depends=, or install it on the node)"
    )
    assert nodes.run(script).splitlines() == ["True 8", "True 8", told]


def test_a_stand_in_goes_for_a_global_that_cannot_be_pickled(nodes: World) -> None:
    script = """
import threading
import dispy_trio as dispy

lock = threading.Lock()
nested = {"file": open("out.txt", "w"), "fine": [1]}
OFFSET = 1

def guarded(n):
    if n < 0:
        with lock:
            return 0
    return n + OFFSET

def compute(n, call=guarded):
    if n == 100:
        return nested["fine"]
    if n == 200:
        cluster.submit(1)
    return guarded(n) + call(n)

cluster = dispy.JobCluster(compute)
print(cluster.submit(3)(), cluster.submit(3, lambda n: guarded(n) + (lock is None))())
for n in (-1, 100, 200):
    job = cluster.submit(n)
    job()
    print(job.exception.splitlines()[-1])
cluster.close()
"""
    script = script.replace("cluster = dispy", "cluster = threading.Lock()\ncluster = dispy")
    lines = nodes.run(script).splitlines()
    assert lines[0] == "8 8"
    for line, what in zip(
        lines[1:], ("`lock`, a lock", "`nested`, a dict", "`cluster`, a lock"), strict=True
    ):
        assert line.startswith(f"NameError: global {what}: not here, for it cannot be pickled (")


# --- import dispy ------------------------------------------------------------------------------
def test_import_dispy_everywhere_gives_this_package(nodes: World) -> None:
    nodes.write("uses.py", "import dispy\nfrom dispy import DispyJob\nimport dispy.config as c\n")
    script = """
import dispy_trio
dispy_trio.install_as_dispy()
import dispy
import uses

def compute():
    import dispy, dispy.config, dispy.httpd, uses
    assert dispy.httpd.DispyHTTPServer.__module__ == "dispy_trio.httpd"
    return dispy.__name__, uses.dispy is dispy, uses.c is dispy.config, uses.DispyJob.Finished.name

print(dispy is dispy_trio, uses.DispyJob is dispy_trio.DispyJob, dispy.__spec__.name)
with dispy.JobCluster(compute) as cluster:
    job = cluster.submit()
    print(job(), job.exception)
"""
    assert nodes.run(script).splitlines() == [
        "True True dispy_trio",
        "('dispy_trio', True, True, 'Finished') None",
    ]


def test_a_module_that_makes_a_cluster_when_it_is_imported_makes_none_on_nodes(
    world: World,
) -> None:
    """Such a cluster's node would import the module too, and so on without end."""
    program = """
import dispy_trio as dispy

def compute(n):
    return n * n

def use_the_cluster(n):
    return cluster.submit(n)()

def make(n):
    import another

with dispy.JobCluster(compute) as cluster:
    print([cluster.submit(n)() for n in range(3)])
for function in use_the_cluster, make:
    with dispy.JobCluster(function) as cluster:
        job = cluster.submit(1)
        job()
        print(job.exception.strip().splitlines()[-1])
"""
    another = "import dispy_trio as dispy\ncluster = dispy.JobCluster(abs)\n"
    world.write("another.py", another)
    world.write("program.py", program)
    squares, used, made = run(world, "-c", "import program").splitlines()
    assert squares == "[0, 1, 4]"
    why = (
        "makes a cluster whenever it is imported, and nodes import it for its functions: make the"
        ' cluster in a function, or under `if __name__ == "__main__":`'
    )
    assert used.startswith("NameError: `cluster` of the module 'program': not here, for the import")
    assert f"the module 'program' {why}" in used
    assert made == f"RuntimeError: the module 'another' {why}"
