"""The secret that lets the machines of one user trust each other.

It lies in a file of the user's own, made on first use. To use a second machine, copy the file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

from attrs import define, field

from dispy_trio.errors import SecretFileError

__all__ = ["Secret", "choose_secret", "default_secret_file", "load_secret"]

MIN_LENGTH = 16
"""Bytes. Anything shorter could be guessed from one recorded handshake."""
READ_LIMIT = 4096
"""Bytes read of a file that may be anything."""


@define
class Secret:
    """Keeps the secret out of tracebacks and logs."""

    value: bytes = field(repr=False)
    path: Path


def default_secret_file() -> Path:
    """``$DISPY_TRIO_SECRET_FILE``, else ``dispy-trio/secret`` in the user's configuration."""
    named = os.environ.get("DISPY_TRIO_SECRET_FILE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "dispy-trio" / "secret"


def choose_secret(
    *,
    text: str = "",
    file: Path | str | None = None,
    key: Path | str | None = None,
) -> Secret:
    """The secret, from wherever the user has put it.

    Args:
        text: a password, as dispy's ``secret``; stretched with scrypt (RFC 7914).
        file: a secret file; see `load_secret`.
        key: the private key that all peers share, as with dispy's ``certfile`` and ``keyfile``: who
            has it may come in. Used when neither a text nor a file is given.

    Raises:
        SecretFileError: the file or the key can't be read.
    """
    if text:
        value = hashlib.scrypt(text.encode(), salt=b"dispy-trio secret", n=2**14, r=8, p=1)
        return Secret(value.hex().encode(), Path("(given as text)"))
    if file is None and key is not None:
        try:
            content = Path(key).read_bytes()
        except OSError as exc:
            raise SecretFileError(f"can't read the key file {key}: {exc.strerror}") from exc
        return Secret(hashlib.sha256(content).hexdigest().encode(), Path(key))
    return load_secret(file)


def load_secret(path: Path | str | None = None) -> Secret:
    """Read the secret file; make it when it is the default one and missing.

    Raises:
        SecretFileError: names the file, what is wrong with it and what to type.
    """
    if path is None:
        path = default_secret_file()
        if not os.path.lexists(path):
            _make(path)
    path = Path(path)
    try:
        # Without waiting: whoever writes to a pipe put there would hold us up for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            value = os.read(descriptor, READ_LIMIT) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise SecretFileError(f"can't read the secret file {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(status.st_mode):
        raise SecretFileError(f"the secret file {path} is not a file")
    if status.st_uid not in trusted_owners():
        raise SecretFileError(f"the secret file {path} belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise SecretFileError(
            f"the secret file {path} can be read by others; type: chmod 600 {path}"
        )
    value = value.strip()
    if len(value) < MIN_LENGTH:
        raise SecretFileError(
            f"the secret in {path} is too short: {len(value)} bytes, at least {MIN_LENGTH} are"
            " needed; delete the file to have a new one made"
        )
    return Secret(value, path)


def trusted_owners() -> set[int]:
    """User ids whose files we read a secret from: ours, and root's."""
    return {os.geteuid(), 0}


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written under another name first: of two first users at once, both read the same.
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
                file.flush()
                os.fsync(descriptor)  # An empty one after a power failure would be hard to explain.
            try:
                os.link(draft, path)
            except FileExistsError:
                pass  # Somebody was faster; theirs is as good.
        finally:
            os.unlink(draft)
    except OSError as exc:
        raise SecretFileError(f"can't make the secret file {path}: {exc.strerror}") from exc
