"""The handshake of one connection, as two small machines: bytes in, bytes out, a verdict.

::

    dialler                            listener
    SEND_HELLO --hello-->              AWAIT_HELLO
    AWAIT_HELLO <--hello--             AWAIT_PROOF
    AWAIT_VERDICT --proof-->           (decides)
    DONE <--verdict, proof--           DONE

A side that refuses says so in one byte, so that the other can tell its user what to do, and no
more than that byte.
"""

from __future__ import annotations

import hmac
from enum import Enum, IntEnum, auto
from typing import ClassVar

from attrs import define, field

from dispy_trio.errors import (
    AuthenticationError,
    ConnectError,
    DispyError,
    ProtocolError,
    PythonMismatch,
    VersionMismatch,
)
from dispy_trio.protocol.auth import HELLO_SIZE, MAGIC, PROOF_SIZE, Hello, Kind, Role, proofs

__all__ = ["DiallerHandshake", "Handshake", "HandshakeState", "ListenerHandshake", "Verdict"]


class Verdict(IntEnum):
    """The listener's answer to the dialler's proof."""

    ACCEPTED = 0
    WRONG_SECRET = 1
    WRONG_VERSION = 2
    WRONG_PYTHON = 3


class HandshakeState(Enum):
    AWAIT_HELLO = auto()
    AWAIT_PROOF = auto()
    AWAIT_VERDICT = auto()
    DONE = auto()
    FAILED = auto()


@define(eq=False)
class Handshake:
    """What both sides share."""

    hello: Hello
    """Ours."""
    secret: bytes = field(repr=False)
    peer: str
    certificate: bytes = b""
    theirs: Hello | None = None
    state: HandshakeState = HandshakeState.AWAIT_HELLO
    error: DispyError | None = None
    """Set when the state is FAILED; to be raised after `data_to_send` was sent."""
    doubt: ClassVar[str] = ""
    """What to say about a peer that says nothing or leaves."""
    _received: bytearray = field(factory=bytearray)
    _to_send: bytearray = field(factory=bytearray)

    @property
    def wanted(self) -> int:
        """Bytes this side waits for; 0 when it is over. Never ask the stream for more."""
        if self.state in (HandshakeState.DONE, HandshakeState.FAILED):
            return 0
        return self._expected() - len(self._received)

    def data_to_send(self) -> bytes:
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes, at most `wanted` of them. No bytes mean that the peer closed."""
        if not data:
            self._fail(self._closed_early())
            return
        self._received += data
        if self._is_foreign():
            self._fail(self._foreign())
        elif len(self._received) >= self._expected():
            taken = bytes(self._received)
            self._received.clear()
            self._step(taken)

    def _expected(self) -> int:
        raise AssertionError("a side says what it expects")

    def _step(self, data: bytes) -> None:
        raise AssertionError("a side says what comes next")

    def _is_foreign(self) -> bool:
        """Do the bytes so far tell that it does not speak our protocol?"""
        return False

    def _foreign(self) -> DispyError:
        # No more of it, which may be another time each time: this is told once.
        said = bytes(self._received[: len(MAGIC)])
        return ProtocolError(f"{self.peer} is not a dispy-trio node: it says {said!r}")

    def _closed_early(self) -> DispyError:
        return ConnectError(f"{self.peer} closed the connection during the handshake{self.doubt}")

    def _fail(self, error: DispyError) -> None:
        self.state = HandshakeState.FAILED
        self.error = error

    def _mismatch(self, theirs: Hello) -> DispyError | None:
        if theirs.version != self.hello.version:
            return VersionMismatch(
                f"{self.peer} speaks version {theirs.version} of the protocol, this side version"
                f" {self.hello.version}: install the same dispy-trio on both"
            )
        if theirs.python != self.hello.python:
            return PythonMismatch(
                f"{self.peer} runs Python {_dotted(theirs.python)}, this side Python"
                f" {_dotted(self.hello.python)}: use the same minor version on both"
            )
        return None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@define(eq=False)
class DiallerHandshake(Handshake):
    """The side that opened the connection. Send `data_to_send` first."""

    doubt: ClassVar[str] = "; is this a dispy-trio node?"
    _listener_proof: bytes = field(default=b"", repr=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._to_send += self.hello.encode()

    def _expected(self) -> int:
        if self.state is HandshakeState.AWAIT_HELLO:
            return HELLO_SIZE
        # A refusal is one byte and then the end, an acceptance goes on with the proof.
        refused = bool(self._received) and self._received[0] != Verdict.ACCEPTED
        return 1 if refused or not self._received else 1 + PROOF_SIZE

    def _is_foreign(self) -> bool:
        # Told at once: who greets with less than a hello waits for an answer after that.
        return (
            self.state is HandshakeState.AWAIT_HELLO
            and len(self._received) >= len(MAGIC)
            and not self._received.startswith(MAGIC)
        )

    def _step(self, data: bytes) -> None:
        if self.state is HandshakeState.AWAIT_HELLO:
            self._on_hello(data)
        elif data[0] != Verdict.ACCEPTED:
            self._fail(self._refusal(data[0]))
        elif len(data) == 1:
            self._received += data  # accepted; its proof follows
        elif hmac.compare_digest(data[1:], self._listener_proof):
            self.state = HandshakeState.DONE
        else:
            self._fail(
                AuthenticationError(
                    f"{self.peer} does not know our secret, although it accepted us: this is not"
                    " the node it claims to be"
                )
            )

    def _on_hello(self, data: bytes) -> None:
        theirs = Hello.parse(data)
        if theirs is None or theirs.role not in (Role.NODE, Role.SCHEDULER):
            self._fail(ProtocolError(f"{self.peer} is not a dispy-trio node"))
            return
        if theirs.nonce == self.hello.nonce:
            self._fail(AuthenticationError(f"{self.peer} only sends back what we say"))
            return
        self.theirs = theirs
        ours, self._listener_proof = proofs(self.secret, self.hello, theirs, self.certificate)
        mismatch = self._mismatch(theirs)
        if mismatch is not None:
            self._fail(mismatch)
            return
        self._to_send += ours
        self.state = HandshakeState.AWAIT_VERDICT

    def _refusal(self, verdict: int) -> DispyError:
        assert self.theirs is not None
        if verdict == Verdict.WRONG_SECRET:
            return AuthenticationError(
                f"{self.peer} does not accept our secret: copy the secret file of one machine to"
                " the other (see `dispy-trio secret`)"
            )
        return self._mismatch(self.theirs) or ProtocolError(
            f"{self.peer} refused us for the unknown reason {verdict}"
        )


@define(eq=False)
class ListenerHandshake(Handshake):
    """The side that accepted the connection."""

    _dialler_proof: bytes = field(default=b"", repr=False, init=False)
    _listener_proof: bytes = field(default=b"", repr=False, init=False)

    def _expected(self) -> int:
        return HELLO_SIZE if self.state is HandshakeState.AWAIT_HELLO else PROOF_SIZE

    def _closed_early(self) -> DispyError:
        if self.theirs is not None and (mismatch := self._mismatch(self.theirs)) is not None:
            return mismatch  # That is why the dialler went.
        return super()._closed_early()

    def _step(self, data: bytes) -> None:
        if self.state is HandshakeState.AWAIT_HELLO:
            theirs = Hello.parse(data)
            if theirs is None or theirs.kind not in tuple(Kind) or theirs.role not in tuple(Role):
                # Not one of ours: it learns nothing, not even that we are.
                self._fail(ProtocolError(f"{self.peer} does not speak our protocol"))
                return
            self.theirs = theirs
            self._to_send += self.hello.encode()
            self._dialler_proof, self._listener_proof = proofs(
                self.secret, theirs, self.hello, self.certificate
            )
            self.state = HandshakeState.AWAIT_PROOF
            return
        assert self.theirs is not None
        if not hmac.compare_digest(data, self._dialler_proof):
            self._to_send.append(Verdict.WRONG_SECRET)
            self._fail(AuthenticationError(f"{self.peer} does not know our secret; it was refused"))
            return
        mismatch = self._mismatch(self.theirs)
        if mismatch is not None:
            wrong_version = isinstance(mismatch, VersionMismatch)
            self._to_send.append(Verdict.WRONG_VERSION if wrong_version else Verdict.WRONG_PYTHON)
            self._fail(mismatch)
            return
        self._to_send.append(Verdict.ACCEPTED)
        self._to_send += self._listener_proof
        self.state = HandshakeState.DONE
