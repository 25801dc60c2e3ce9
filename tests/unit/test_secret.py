"""The secret file: made once, kept private, refused when others could know it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispy_trio.errors import SecretFileError
from dispy_trio.runtime import secret
from dispy_trio.runtime.secret import default_secret_file, load_secret


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's home without a secret, with the umask of a careless one."""
    monkeypatch.delenv("DISPY_TRIO_SECRET_FILE", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0)
    try:
        yield tmp_path
    finally:
        os.umask(before)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_where_it_lies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_secret_file() == home / ".config/dispy-trio/secret"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert default_secret_file() == home / "xdg/dispy-trio/secret"
    monkeypatch.setenv("DISPY_TRIO_SECRET_FILE", str(home / "mine"))
    assert default_secret_file() == home / "mine"


def test_it_is_made_on_first_use_and_then_kept(home: Path) -> None:
    made = load_secret()
    assert len(bytes.fromhex(made.value.decode())) == 32
    assert load_secret().value == made.value
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    assert os.listdir(made.path.parent) == ["secret"], "the draft is gone"


def test_a_named_file_is_never_made(home: Path) -> None:
    with pytest.raises(SecretFileError, match=r"can't read .*/nowhere: No such file"):
        load_secret(home / "nowhere")


def test_first_users_at_once_get_the_same(home: Path) -> None:
    program = (
        "import sys; from dispy_trio.runtime.secret import load_secret; sys.stdin.read(1);"
        "print(load_secret().value.decode())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    users = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for _ in range(4)
    ]
    for user in users:  # All are up, or will be: the end of their input starts them.
        assert user.stdin is not None
        user.stdin.close()
        user.stdin = None
    seen = {user.communicate(timeout=60)[0] for user in users}
    assert [user.returncode for user in users] == [0] * 4
    assert seen == {load_secret().value + b"\n"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_others_must_not_read_it(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "secret", "x" * 40, mode)
    with pytest.raises(SecretFileError, match=f"type: chmod 600 {path}"):
        load_secret(path)


def test_it_must_be_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "secret", "x" * 40)
    # Only root could give the file away; anybody can be somebody else than its owner.
    monkeypatch.setattr(secret, "trusted_owners", lambda: {os.getuid() + 1})
    with pytest.raises(SecretFileError, match=f"{path} belongs to another user"):
        load_secret(path)


@pytest.mark.parametrize("text", ["", "\n", "short", "x" * 15 + "\n"])
def test_it_must_not_be_short(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "secret", text)
    with pytest.raises(SecretFileError, match=r"too short: .* at least 16"):
        load_secret(path)


def test_a_pipe_or_a_directory_is_no_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SecretFileError, match="is not a file"):
            load_secret(path)


def test_white_space_around_it_does_not_count(tmp_path: Path) -> None:
    assert load_secret(write(tmp_path / "secret", " " + "x" * 40 + "\r\n")).value == b"x" * 40


def test_it_does_not_show(tmp_path: Path) -> None:
    secret = load_secret(write(tmp_path / "secret", "canary" * 8))
    assert "canary" not in repr(secret)
    assert "canary" not in str(secret)


def test_a_place_where_it_cannot_be_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "file", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    with pytest.raises(SecretFileError, match=r"can't make the secret file .*Not a directory"):
        load_secret()
