"""Mutual proof that both sides know the secret, and that nothing was changed on the way.

Four steps, the dialling side proving first, so that a port scanner learns nothing::

    dialler  -> listener   hello: magic, version, Python, role, kind, session, nonce
    listener -> dialler    hello: magic, version, Python, role, incarnation, nonce
    dialler  -> listener   HMAC-SHA256(dialler's key, everything said so far)
    listener -> dialler    one byte: accepted or why not; when accepted its own HMAC

The keys come from the secret by HKDF-SHA256 (RFC 5869) with both nonces as salt and the direction
as label, so a proof can be neither replayed (fresh nonces) nor reflected (other label). On TLS the
transcript also holds the hash of the listener's certificate: a man in the middle has to show
another one, and the proofs fail.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum

from attrs import frozen

__all__ = [
    "HELLO_SIZE",
    "MAGIC",
    "NONCE_SIZE",
    "PROOF_SIZE",
    "PROTOCOL_VERSION",
    "Hello",
    "Kind",
    "Role",
    "proofs",
]

MAGIC = b"dispytr\x01"
PROTOCOL_VERSION = 1
NONCE_SIZE = 32
PROOF_SIZE = 32

_HELLO = struct.Struct("<8sHBBBB16s32s")
HELLO_SIZE = _HELLO.size


class Role(IntEnum):
    """What a side of a connection is."""

    CLIENT = 1
    NODE = 2
    SCHEDULER = 3


class Kind(IntEnum):
    """What a connection of a session carries."""

    CONTROL = 1
    BULK = 2
    FILE = 3
    """One request for a kept file and its answer."""


@frozen
class Hello:
    """What a side says of itself before anything is proved.

    Its layout is the same in all versions of the protocol, or two versions could not tell each
    other that they differ.
    """

    version: int
    python: tuple[int, int]
    role: int
    kind: int
    identity: str
    """32 hex digits: the session of a dialler, the incarnation of a listener."""
    nonce: bytes

    def encode(self) -> bytes:
        return _HELLO.pack(
            MAGIC,
            self.version,
            *self.python,
            self.role,
            self.kind,
            bytes.fromhex(self.identity),
            self.nonce,
        )

    @classmethod
    def parse(cls, data: bytes) -> Hello | None:
        """Read a hello; None when it is not one of ours."""
        magic, version, major, minor, role, kind, identity, nonce = _HELLO.unpack(data)
        if magic != MAGIC:
            return None
        return cls(version, (major, minor), role, kind, identity.hex(), nonce)


def _derive(secret: bytes, salt: bytes, label: bytes) -> bytes:
    """HKDF-SHA256, one block of output (RFC 5869)."""
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(extracted, label + b"\x01", hashlib.sha256)


def proofs(
    secret: bytes, dialler: Hello, listener: Hello, certificate: bytes
) -> tuple[bytes, bytes]:
    """What the dialler and what the listener has to send to prove that it knows the secret."""
    transcript = dialler.encode() + listener.encode() + certificate
    salt = dialler.nonce + listener.nonce
    return (
        hmac.digest(_derive(secret, salt, b"dialler proves"), transcript, hashlib.sha256),
        hmac.digest(_derive(secret, salt, b"listener proves"), transcript, hashlib.sha256),
    )
