"""Mistakes on the command line: each is one line on stderr and status 2, and never a traceback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from dispy_trio.cli.app import main

MISTAKES = [
    ("run gone.py:compute", "gone.py is not there"),
    ("run no-such-program", "no-such-program is neither a program nor FILE.py:FUNCTION"),
    ("run program.py:nothing", "program.py does not define nothing"),
    ("run broken.py:compute", "broken.py can't be imported: ZeroDivisionError: "),
    ("run --scheduler_node a cat", "--scheduler-node: comes with the shared scheduler"),
    ("run -f gone cat", "--depends: gone is not a file"),
    ('run -a "open cat', "--args '\"open': No closing quotation"),
    ("run -n no.such.invalid cat", "--node: no.such.invalid: "),
    ("run -n host:abc cat", "--node: node 'host:abc' is not of the form host or host:port"),
    ("run -n 10.0.0.0/99 cat", "--node: node '10.0.0.0/99' is no network"),
    ("run --secret a --secret-file b cat", "--secret and --secret-file: give one of them"),
    ("run --certfile gone cat", "--certfile: gone is not a file"),
    ("run --keyfile gone cat", "--keyfile: needs --certfile"),
    ("run --timeout soon cat", "Invalid value for '--timeout'"),
    ("run --timeout 0 cat", "--timeout: must be more than 0 seconds"),
    ("run --connect-timeout nan cat", "--connect-timeout: must be more than 0 seconds"),
    ("run --retries -1 cat", "--retries: must be at least 0"),
    ("run --json --jsonl cat", "--json and --jsonl: give one of them"),
    ("run --no-such-option cat", "No such option: --no-such-option"),
    ("run --timeout", "Option '--timeout' requires an argument"),
    ("run", "Missing argument 'COMPUTATION'"),
    ("mapreduce", "Missing argument 'MODULE_OR_FILE'"),
    ("mapreduce program.py", "Missing argument 'INPUT'"),
    ("mapreduce program.py gone.txt", "gone.txt: "),
    ("mapreduce gone.py program.py", "gone.py is not there"),
    ("mapreduce broken.py program.py", "broken.py can't be imported: ZeroDivisionError: "),
    ("mapreduce empty.py program.py", "empty.py does not define mapper and reducer"),
    ("mapreduce -n host:abc program.py program.py", "--node: node 'host:abc' is not of the form"),
    ("mapreduce -n no.such.invalid program.py program.py", "--node: no.such.invalid: "),
    ("mapreduce -f gone program.py program.py", "--depends: gone is not a file"),
    ("mapreduce --partitions 0 program.py program.py", "--partitions: must be at least 1"),
    ("mapreduce --output empty.py program.py program.py", "empty.py: "),
    ("mapreduce program.py - -", "-: standard input can be read once"),
    ("node --secret-file short-secret", "the secret in short-secret is too short"),
    ("node --secret-file open-secret", "the secret file open-secret can be read by others"),
    ("node --secret-file gone", "can't read the secret file gone"),
    ("node --host no.such.invalid --port 0", "can't listen on 'no.such.invalid': "),
    ("node --cpus many", "Invalid value for '--cpus'"),
    ("node --port 70000", "--port: must be a whole number from 0 to 65535"),
    ("node --config gone.toml", "can't read the configuration gone.toml"),
    ("node extra", "Got unexpected extra argument"),
    ("secret extra", "Got unexpected extra argument"),
    ("no-such-command", "No such command 'no-such-command'"),
    ("--no-such-option", "No such option: --no-such-option"),
]


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The command sets what a whole process has, and leaves it with its end."""
    logger = logging.getLogger()
    level, handlers, before = logger.level, logger.handlers[:], set(sys.modules)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    for name in {"program", "broken", "empty"} & (set(sys.modules) - before):
        module = sys.modules.pop(name)
        if name in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_on_stderr(
    line: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "short-secret").write_text("short")
    (tmp_path / "short-secret").chmod(0o600)
    (tmp_path / "open-secret").write_text("long enough for a secret")
    (tmp_path / "program.py").write_text("def mapper(line):\n    yield line, 1\n\nreducer = sum\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "empty.py").touch()
    monkeypatch.setattr(sys, "argv", ["dispy-trio", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, ""), err
    assert err.startswith(f"dispy-trio: {said}")
    assert err.count("\n") == 1


def test_no_words_at_all_are_a_question_for_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dispy-trio"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert "Commands" in out
