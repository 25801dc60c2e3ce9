"""Only who knows the secret gets in; whoever does not fit is told why, on both sides.

The adversary here may read, change, replay, reflect and relay everything, and knows all but the
secret.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.errors import (
    AuthenticationError,
    ConnectError,
    DispyError,
    ProtocolError,
    PythonMismatch,
    VersionMismatch,
)
from dispy_trio.protocol.auth import (
    HELLO_SIZE,
    MAGIC,
    NONCE_SIZE,
    PROOF_SIZE,
    Hello,
    Kind,
    Role,
    proofs,
)
from dispy_trio.protocol.handshake import (
    DiallerHandshake,
    Handshake,
    HandshakeState,
    ListenerHandshake,
    Verdict,
)

SECRET = b"a secret of forty hex digits or so......"
SESSION = "5e" * 16
INCARNATION = "1c" * 16
CLIENT = Hello(1, (3, 11), Role.CLIENT, Kind.CONTROL, SESSION, b"c" * NONCE_SIZE)
NODE = Hello(1, (3, 11), Role.NODE, Kind.CONTROL, INCARNATION, b"n" * NONCE_SIZE)
DONE, FAILED = HandshakeState.DONE, HandshakeState.FAILED


def dialler(hello: Hello = CLIENT, secret: bytes = SECRET, tls: bytes = b"") -> DiallerHandshake:
    return DiallerHandshake(hello, secret, "node", tls)


def listener(hello: Hello = NODE, secret: bytes = SECRET, tls: bytes = b"") -> ListenerHandshake:
    return ListenerHandshake(hello, secret, "client", tls)


def give(side: Handshake, data: bytes, size: int = 10_000) -> bytes:
    """Feed as much as the side wants, in pieces; return what is left."""
    while data and side.wanted:
        piece = data[: min(side.wanted, size)]
        side.receive_data(piece)
        data = data[len(piece) :]
    return data


def converse(one: Handshake, other: Handshake, size: int = 10_000) -> bytes:
    """Let both talk until neither has anything to say; return all that was said.

    Who is done or has failed closes, which the other sees if it still waits.
    """
    said = b""
    while True:
        progress = False
        for speaker, hearer in ((one, other), (other, one)):
            if data := speaker.data_to_send():
                said += data
                give(hearer, data, size)
                progress = True
        if not progress:
            break
    for speaker, hearer in ((one, other), (other, one)):
        if not speaker.wanted and hearer.wanted:
            hearer.receive_data(b"")
    return said


def check_failed(side: Handshake, error: type[DispyError], *texts: str) -> None:
    assert side.state is FAILED
    assert type(side.error) is error
    for text in texts:
        assert text in str(side.error)
    assert side.wanted == 0, "it waits for nothing more"


# --- those who belong together ---------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 7, 33, 10_000])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("role", Role)
def test_two_who_share_the_secret(size: int, kind: Kind, role: Role) -> None:
    ours, theirs = dialler(attrs.evolve(CLIENT, kind=kind, role=role)), listener()
    said = converse(ours, theirs, size)
    assert (ours.state, theirs.state) == (DONE, DONE)
    assert ours.theirs == NODE
    assert theirs.theirs == ours.hello
    assert SECRET not in said
    assert len(said) == 2 * HELLO_SIZE + 2 * PROOF_SIZE + 1


def test_a_side_says_little_before_the_other_has_proved_itself() -> None:
    theirs = listener()
    give(theirs, dialler().data_to_send())
    assert len(theirs.data_to_send()) == HELLO_SIZE <= 512
    assert HELLO_SIZE + PROOF_SIZE <= 512, "what an unknown one may send"


def test_the_dialler_proves_itself_first() -> None:
    theirs = listener()
    give(theirs, dialler().data_to_send())
    theirs.data_to_send()
    theirs.receive_data(bytes(PROOF_SIZE))
    assert theirs.data_to_send() == bytes([Verdict.WRONG_SECRET])


def test_the_secret_is_in_no_repr() -> None:
    ours, theirs = dialler(), listener()
    converse(ours, theirs)
    assert "forty hex" not in repr(ours) + repr(theirs)
    assert repr(ours._listener_proof) not in repr(ours)


# --- those who do not ------------------------------------------------------------------------------
def test_another_secret() -> None:
    ours, theirs = dialler(), listener(secret=b"x" * 40)
    converse(ours, theirs)
    check_failed(ours, AuthenticationError, "node does not accept our secret", "secret file")
    check_failed(theirs, AuthenticationError, "client does not know our secret")


def test_another_version() -> None:
    ours, theirs = dialler(attrs.evolve(CLIENT, version=7)), listener()
    converse(ours, theirs)
    check_failed(ours, VersionMismatch, "node speaks version 1", "this side version 7")
    check_failed(theirs, VersionMismatch, "client speaks version 7", "this side version 1")


def test_another_python() -> None:
    ours, theirs = dialler(attrs.evolve(CLIENT, python=(3, 13))), listener()
    converse(ours, theirs)
    check_failed(ours, PythonMismatch, "node runs Python 3.11", "this side Python 3.13")
    check_failed(theirs, PythonMismatch, "client runs Python 3.13", "this side Python 3.11")


@pytest.mark.parametrize(
    ("change", "verdict", "error"),
    [
        ({"version": 2}, Verdict.WRONG_VERSION, VersionMismatch),
        ({"python": (3, 14)}, Verdict.WRONG_PYTHON, PythonMismatch),
    ],
)
def test_a_dialler_that_goes_on_in_spite_of_a_mismatch(
    change: dict[str, object], verdict: Verdict, error: type[DispyError]
) -> None:
    hello = attrs.evolve(CLIENT, **change)  # type: ignore[arg-type]
    theirs = listener()
    give(theirs, hello.encode() + proofs(SECRET, hello, NODE, b"")[0])
    assert theirs.data_to_send()[HELLO_SIZE:] == bytes([verdict])
    check_failed(theirs, error)


@pytest.mark.parametrize("verdict", [4, 77, 255])
def test_a_refusal_for_a_reason_of_the_future(verdict: int) -> None:
    ours = dialler()
    give(ours, NODE.encode() + bytes([verdict]))
    check_failed(ours, ProtocolError, f"unknown reason {verdict}")


def test_somebody_else_altogether() -> None:
    ours, theirs = dialler(), listener()
    give(ours, b"HTTP/1.1 400 Bad Request\r\n" * 10)
    check_failed(ours, ProtocolError, "node is not a dispy-trio node")
    give(theirs, b"GET / HTTP/1.1\r\nHost: localhost\r\n" * 10)
    check_failed(theirs, ProtocolError, "client does not speak our protocol")
    assert theirs.data_to_send() == b"", "a scanner learns nothing"


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1", b"\0" * 8])
def test_who_greets_in_other_words_is_known_before_it_falls_silent(greeting: bytes) -> None:
    ours = dialler()
    ours.receive_data(greeting[:7])
    assert ours.wanted, "it may still become one of ours"
    ours.receive_data(greeting[7:])
    check_failed(ours, ProtocolError, f"is not a dispy-trio node: it says {greeting[:8]!r}")


@pytest.mark.parametrize("change", [{"role": 0}, {"role": 99}, {"kind": 0}, {"kind": 99}])
def test_a_role_or_kind_that_does_not_exist(change: dict[str, int]) -> None:
    theirs = listener()
    give(theirs, attrs.evolve(CLIENT, **change).encode())  # type: ignore[arg-type]
    check_failed(theirs, ProtocolError)
    assert theirs.data_to_send() == b""


@pytest.mark.parametrize("count", [0, 1, HELLO_SIZE - 1])
def test_a_close_before_the_end(count: int) -> None:
    for side, hello in ((dialler(), NODE), (listener(), CLIENT)):
        give(side, hello.encode()[:count])
        side.receive_data(b"")
        check_failed(side, ConnectError, "closed the connection during the handshake")
    ours, theirs = dialler(), listener()
    give(theirs, ours.data_to_send())
    give(ours, theirs.data_to_send())
    for side in (ours, theirs):
        side.receive_data(b"")
        check_failed(side, ConnectError, "closed the connection during the handshake")


# --- the adversary ---------------------------------------------------------------------------------
def record() -> tuple[bytes, bytes]:
    """All that the dialler and all that the listener says in a good handshake."""
    ours, theirs = dialler(), listener()
    up = ours.data_to_send()
    give(theirs, up)
    down = theirs.data_to_send()
    give(ours, down)
    proof = ours.data_to_send()
    give(theirs, proof)
    return up + proof, down + theirs.data_to_send()


def test_a_replay_to_the_listener() -> None:
    up, _ = record()
    theirs = listener(attrs.evolve(NODE, nonce=b"N" * NONCE_SIZE))
    give(theirs, up)
    check_failed(theirs, AuthenticationError)


def test_a_replay_to_the_dialler() -> None:
    _, down = record()
    ours = dialler(attrs.evolve(CLIENT, nonce=b"C" * NONCE_SIZE))
    give(ours, down)
    check_failed(ours, AuthenticationError, "not the node it claims to be")


def test_a_replay_to_the_very_same_nonces_would_work() -> None:
    """So the tests above do fail for the nonce and not for some other reason."""
    up, down = record()
    ours, theirs = dialler(), listener()
    give(theirs, up)
    give(ours, down)
    assert (ours.state, theirs.state) == (DONE, DONE)


@pytest.mark.parametrize("place", range(HELLO_SIZE + PROOF_SIZE))
def test_each_byte_of_the_dialler_counts(place: int) -> None:
    up, _ = record()
    for bit in range(8):
        changed = bytearray(up)
        changed[place] ^= 1 << bit
        theirs = listener()
        give(theirs, bytes(changed))
        assert theirs.state is FAILED


@pytest.mark.parametrize("place", range(HELLO_SIZE + 1 + PROOF_SIZE))
def test_each_byte_of_the_listener_counts(place: int) -> None:
    _, down = record()
    for bit in range(8):
        changed = bytearray(down)
        changed[place] ^= 1 << bit
        ours = dialler()
        give(ours, bytes(changed))
        assert ours.state is FAILED


@given(data=st.data())
def test_no_change_on_the_way_goes_unseen(data: st.DataObject) -> None:
    """A man in the middle may change, swap, drop and repeat anything, in both directions."""
    ours, theirs = dialler(), listener()
    said: list[bytes] = []
    tampered = False
    for _ in range(6):
        for speaker, hearer in ((ours, theirs), (theirs, ours)):
            message = speaker.data_to_send()
            if not message:
                continue
            said.append(message)
            how = data.draw(st.sampled_from(["pass", "flip", "swap", "cut", "repeat", "random"]))
            sent = message
            if how == "flip":
                place = data.draw(st.integers(0, len(message) - 1))
                flipped = message[place] ^ data.draw(st.integers(1, 255))
                sent = message[:place] + bytes([flipped]) + message[place + 1 :]
            elif how == "swap":
                sent = data.draw(st.sampled_from(said))
            elif how == "cut":
                sent = message[: data.draw(st.integers(0, len(message) - 1))]
            elif how == "repeat":
                sent = message[: len(message) // 2] * 2
            elif how == "random":
                sent = data.draw(st.binary(min_size=len(message), max_size=len(message)))
            tampered |= sent != message
            give(hearer, sent)
    if tampered:
        assert (ours.state, theirs.state) != (DONE, DONE)
    else:
        assert (ours.state, theirs.state) == (DONE, DONE)
    if theirs.state is DONE:
        assert theirs.theirs == CLIENT, "it let in who the dialler said to be, and nobody else"
    if ours.state is DONE:
        assert ours.theirs == NODE


@pytest.mark.parametrize("change_nonce", [False, True])
def test_a_reflection(change_nonce: bool) -> None:
    """Everything the dialler says comes back to it, as from a node if need be."""
    ours = dialler()
    hello = ours.data_to_send()
    give(ours, hello)
    check_failed(ours, ProtocolError)  # A client is no node.
    ours = dialler(attrs.evolve(CLIENT, role=Role.NODE, kind=Kind.FILE))
    hello = ours.data_to_send()
    if change_nonce:
        hello = hello[:-1] + b"!"
    give(ours, hello)
    if not change_nonce:
        check_failed(ours, AuthenticationError, "only sends back what we say")
        return
    proof = ours.data_to_send()
    give(ours, bytes([Verdict.ACCEPTED]) + proof)
    check_failed(ours, AuthenticationError)


def test_a_reflection_to_the_listener() -> None:
    """Two connections to one listener: the second is to solve what it asks on the first."""
    first = listener()
    give(first, attrs.evolve(CLIENT, nonce=b"a" * NONCE_SIZE).encode())
    asked = Hello.parse(first.data_to_send())
    assert asked is not None
    second = listener(attrs.evolve(NODE, nonce=b"M" * NONCE_SIZE))
    give(second, attrs.evolve(asked, role=Role.CLIENT).encode())
    second.data_to_send()
    # It never proves anything to who has not: there is nothing to carry over.
    assert second.data_to_send() == b""
    give(first, bytes(PROOF_SIZE))
    check_failed(first, AuthenticationError)


def test_the_two_proofs_differ_and_so_do_swapped_roles() -> None:
    ours, theirs = proofs(SECRET, CLIENT, NODE, b"")
    swapped = proofs(SECRET, NODE, CLIENT, b"")
    assert len({ours, theirs, *swapped}) == 4
    imposter = attrs.evolve(CLIENT, nonce=NODE.nonce)
    twin = attrs.evolve(NODE, nonce=NODE.nonce)
    assert len(set(proofs(SECRET, imposter, twin, b""))) == 2, "even with equal nonces"


def test_a_man_in_the_middle_of_tls_shows_another_certificate() -> None:
    ours, theirs = dialler(tls=b"h" * 32), listener(tls=b"g" * 32)
    converse(ours, theirs)
    check_failed(ours, AuthenticationError)
    check_failed(theirs, AuthenticationError)
    ours, theirs = dialler(tls=b"h" * 32), listener(tls=b"h" * 32)
    converse(ours, theirs)
    assert (ours.state, theirs.state) == (DONE, DONE)


def test_tls_can_not_be_stripped() -> None:
    ours, theirs = dialler(tls=b""), listener(tls=b"g" * 32)
    converse(ours, theirs)
    check_failed(theirs, AuthenticationError)


# --- the layout ------------------------------------------------------------------------------------
@given(
    st.builds(
        Hello,
        st.integers(0, 65535),
        st.tuples(st.integers(0, 255), st.integers(0, 255)),
        st.integers(0, 255),
        st.integers(0, 255),
        st.binary(min_size=16, max_size=16).map(bytes.hex),
        st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
    )
)
def test_a_hello_comes_back(hello: Hello) -> None:
    data = hello.encode()
    assert len(data) == HELLO_SIZE
    assert data.startswith(MAGIC)
    assert Hello.parse(data) == hello


def test_the_derivation_is_hkdf() -> None:
    """Against an independent implementation."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(hashes.SHA256(), 32, CLIENT.nonce + NODE.nonce, b"dialler proves").derive(SECRET)
    transcript = CLIENT.encode() + NODE.encode() + b"certificate"
    expected = hmac.digest(key, transcript, hashlib.sha256)
    assert proofs(SECRET, CLIENT, NODE, b"certificate")[0] == expected
