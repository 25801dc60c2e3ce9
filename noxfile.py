"""The checks of this project: ``nox`` runs those that must pass, ``nox -l`` lists all of them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
MACHINES = "tests/acceptance/test_namespaces.py"
OWN_INTERPRETERS = [
    "tests/integration",
    *(
        f"--ignore=tests/integration/test_{name}.py"
        for name in ("odd_messages", "peer", "strangers")
    ),
]
"""Tests that start processes."""
ENDINGS = "tests/acceptance/test_unclosed_clusters.py"
"""How the interpreter ends differs from one Python to the next."""
EARLY_TESTS = ["--numprocesses=2", "tests/simulation", "tests/acceptance/test_errors.py"]
CODE = ["src", "tests", "examples", "benchmarks", "noxfile.py"]

# What ruff does not have: awaits in finally blocks, swallowed cancellation, order of nurseries.
ASYNC_RULES = [
    "--select=ASYNC",
    # 109: public entry points may carry documented timeouts. 9xx: optional rules, which ask for a
    # checkpoint on every path; functions here promise one only where their docstring does.
    "--extend-ignore=ASYNC109,ASYNC9",
    "--per-file-ignores=src/dispy_trio/child/*:ASYNC",  # Trio runs users' code alone there
    "--startable-in-context-manager=run,run_node,run_relay,run_scheduler",
]

# Tests start thousands of processes: each would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "types", "tests", "acceptance", "machines"]
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


def offer_pyenv_interpreters() -> None:
    """Put pyenv's versions on the path, where nox looks for them.

    In front, because pyenv's own shims are there under the same names and refuse to run a version
    that isn't selected.
    """
    versions = Path.home() / ".pyenv" / "versions"
    found = [str(path.parent) for v in PYTHONS for path in versions.glob(f"{v}.*/bin/python{v}")]
    os.environ["PATH"] = os.pathsep.join([*found, os.environ.get("PATH", os.defpath)])


def early_python() -> str | None:
    """A first patch release of the oldest Python, beside that on which `tests` runs.

    Debian 12 has 3.11.2, and exceptions differ until 3.11.4.
    """
    name = f"python{PYTHONS[0]}"
    found = [shutil.which(name, path=folder) for folder in os.environ["PATH"].split(os.pathsep)]
    pythons = [python for python in found if python and patch_release(python) is not None]
    early = [python for python in pythons[1:] if (patch_release(python) or 0) < 4]
    return early[0] if early and (patch_release(pythons[0]) or 0) >= 4 else None


def patch_release(python: str) -> int | None:
    """None for what does not run (pyenv's shims), or can't make environments."""
    code = "import ensurepip, sys; print(sys.version_info.micro)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def what_machines_lack() -> str | None:
    """Why this user can't make network and process namespaces; None when that works."""
    if shutil.which("ip") is None:
        return "the command ip is missing (Debian: iproute2)"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "--pid", "--fork", "--mount-proc", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or None


def files_with_trio() -> list[str]:
    """What Trio may run: the rules about it take their time, and find nothing elsewhere."""
    folders = [Path(name) for name in CODE]
    files = [f for folder in folders for f in sorted(folder.rglob("*.py")) or [folder]]
    return [str(file) for file in files if re.search(r"(?<!_)trio\.", file.read_text())]


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


offer_pyenv_interpreters()
EARLY_PYTHON = early_python()


@nox.session
def lint(session: nox.Session) -> None:
    """Style, Trio mistakes and the direction of imports."""
    session.install(*group("lint"))
    session.install("--no-deps", "-e", ".")  # import-linter reads it, and needs nothing it imports
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("flake8", *ASYNC_RULES, *files_with_trio())
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    session.install("-e", ".", *group("types"))
    session.run("mypy", *(session.posargs or ["src", "benchmarks", "tests/types"]))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Unit tests, simulated clusters and integration, on every Python that is present.

    What needs no interpreter of its own runs on the oldest and the newest only.
    """
    session.install("-e", ".", *group("test"))
    few = [] if session.python in (PYTHONS[0], PYTHONS[-1]) else OWN_INTERPRETERS
    session.run("python", "-m", "pytest", *(session.posargs or ["--numprocesses=2", *few]))
    if not session.posargs and session.python != PYTHONS[0]:  # There `acceptance` runs them.
        session.run("python", "-m", "pytest", "--numprocesses=2", ENDINGS)


if EARLY_PYTHON is not None:

    @nox.session(python=EARLY_PYTHON)
    def early(session: nox.Session) -> None:
        """What raises and ends, on a first patch release of the oldest Python."""
        session.install("-e", ".", *group("test"))
        session.run("python", "-m", "pytest", *(session.posargs or EARLY_TESTS))

    nox.options.sessions.append("early")


def install_as_users_do(session: nox.Session) -> None:
    """A wheel of what is here now, also without a network (``nox -R``)."""
    needed = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
    session.install(*needed, *group("test"))
    # By force, as the version stays while the code changes.
    here = ["--no-index", "--no-build-isolation", "--no-deps", "--force-reinstall", "."]
    session.run("python", "-m", "pip", "install", "--quiet", *here)


@nox.session
def acceptance(session: nox.Session) -> None:
    """Real processes on real sockets, run from the wheel that users would install."""
    install_as_users_do(session)
    # Tests of one file share nodes.
    tests = ["--numprocesses=2", "--dist=loadfile", "tests/acceptance", f"--ignore={MACHINES}"]
    session.run("python", "-m", "pytest", *(session.posargs or tests))


@nox.session
def machines(session: nox.Session) -> None:
    """Two machines on one, as namespaces: by root, or where users may make their own."""
    lacking = what_machines_lack()
    if lacking is not None:
        session.skip(f"{lacking}: run `nox -s machines` as root")
    install_as_users_do(session)
    session.run("python", "-m", "pytest", *(session.posargs or [MACHINES]))


@nox.session(venv_backend="none")
def newcomer(session: nox.Session) -> None:
    """The README from top to bottom, by a new user of a bare Debian; as root, with a network."""
    session.run(sys.executable, "-m", "tests.newcomer", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """What a job costs next to the peers, for example ``nox -s bench -- --workload W1``."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.jobs", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Ten minutes of an honest client beside one that hurts, on one node."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "tests.soak.neighbours", *session.posargs)


@nox.session
def seeds(session: nox.Session) -> None:
    """Two thousand programs that use a cluster while nodes fail, in virtual time."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-W", "error", "-m", "tests.soak.users", *session.posargs)


@nox.session
def leaving(session: nox.Session) -> None:
    """Five hundred cancels and as many interrupts of programs with real processes, at any moment."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "tests.soak.leaving", *session.posargs)
