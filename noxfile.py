"""The checks of this project: ``nox`` runs those that must pass, ``nox -l`` lists all of them."""

import os
import re
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
CODE = ["src", "tests", "examples", "benchmarks", "noxfile.py"]

# What ruff does not have: awaits in finally blocks, swallowed cancellation, order of nurseries.
ASYNC_RULES = [
    "--select=ASYNC",
    # 109: public entry points may carry documented timeouts. 9xx: optional rules, which ask for a
    # checkpoint on every path; functions here promise one only where their docstring does.
    "--extend-ignore=ASYNC109,ASYNC9",
    "--per-file-ignores=src/dispy_trio/child/*:ASYNC",  # Trio never runs there
    "--startable-in-context-manager=run,run_node,run_relay,run_scheduler",
]

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "types", "tests", "acceptance"]
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


def files_with_trio() -> list[str]:
    """What Trio may run: the rules about it take their time, and find nothing elsewhere."""
    folders = [Path(name) for name in CODE]
    files = [f for folder in folders for f in sorted(folder.rglob("*.py")) or [folder]]
    return [str(file) for file in files if re.search(r"(?<!_)trio\.", file.read_text())]


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


offer_pyenv_interpreters()


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
    folders = [] if session.python in (PYTHONS[0], PYTHONS[-1]) else ["tests/integration"]
    session.run("python", "-m", "pytest", *(session.posargs or ["--numprocesses=2", *folders]))


@nox.session
def acceptance(session: nox.Session) -> None:
    """Real processes on real sockets, run from the wheel that users would install."""
    session.install(*PYPROJECT["project"]["dependencies"], *group("test"))
    # By force, as the version stays while the code changes.
    session.install("--no-deps", "--force-reinstall", ".")
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/acceptance"]))


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
