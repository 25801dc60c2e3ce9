"""Every message comes back as it went; what is not a message is refused by name."""

from __future__ import annotations

import builtins
import types
import typing
from collections.abc import Callable

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio import messages
from dispy_trio.errors import LocalError, ProtocolError
from dispy_trio.messages import MESSAGE_TYPES, Message
from dispy_trio.protocol.codec import FRAME_LIMITS, decode, encode
from dispy_trio.protocol.framing import FRAME_HEADER, FRAME_LIMIT

NUMBERS = {message_type: number for number, message_type in MESSAGE_TYPES.items()}
COLUMNS = {
    "numbers",
    "attempts",
    "payloads",
    "starts",
    "ends",
    "outcomes",
}


def any_message(message_type: type[Message]) -> st.SearchStrategy[Message]:
    """Instances with any values, whose columns are of one length, as senders make them."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        rows = draw(st.integers(0, 4))
        values = {}
        for name, hint in typing.get_type_hints(message_type).items():
            values[name] = draw(any_value(hint, rows if name in COLUMNS else None))
        make: Callable[..., Message] = message_type
        return make(**values)

    return build()


def any_value(hint: object, rows: int | None) -> st.SearchStrategy[object]:
    parts = [any_value(part, None) for part in typing.get_args(hint)]
    match typing.get_origin(hint):
        case builtins.list:
            low, high = (0, 4) if rows is None else (rows, rows)
            return st.lists(parts[0], min_size=low, max_size=high)
        case builtins.dict:
            return st.dictionaries(parts[0], parts[1], max_size=4)
        case builtins.tuple:
            return st.tuples(*parts)
        case types.UnionType:
            return st.one_of(parts)
    if hint is int:
        return st.integers(-(2**63), 2**64 - 1)
    if hint is float:
        return st.floats(allow_nan=False)
    if hint in (bool, str, bytes, type(None)):
        return st.from_type(hint)  # type: ignore[arg-type]
    # A record within a message, which is built like one.
    return any_message(hint)  # type: ignore[arg-type]


def plain(hint: object) -> object:
    if typing.get_origin(hint) is types.UnionType:
        return None
    empty = typing.get_origin(hint) or hint
    return empty()  # type: ignore[operator]


def sample(message_type: type[Message], **values: object) -> Message:
    """A message whose other fields are empty."""
    hints = typing.get_type_hints(message_type)
    make: Callable[..., Message] = message_type
    return make(**{**{name: plain(hint) for name, hint in hints.items()}, **values})


def body_of(frame: bytes | bytearray) -> memoryview:
    return memoryview(frame)[FRAME_HEADER.size :]


@pytest.mark.parametrize("message_type", NUMBERS, ids=lambda t: t.__name__)
@given(data=st.data())
def test_every_message_comes_back(message_type: type[Message], data: st.DataObject) -> None:
    message = data.draw(any_message(message_type))
    frame = encode(message)
    length, kind = FRAME_HEADER.unpack_from(frame)
    assert (length, kind) == (len(frame) - FRAME_HEADER.size, NUMBERS[message_type])
    assert decode(kind, body_of(frame), "p") == message


def test_every_message_has_a_number_and_a_limit() -> None:
    assert set(NUMBERS) == set(typing.get_args(Message))
    assert len(NUMBERS) == len(MESSAGE_TYPES), "no class has two numbers"
    assert set(FRAME_LIMITS) == set(MESSAGE_TYPES)


@pytest.mark.parametrize("kind", sorted({0, 9, 255} - set(MESSAGE_TYPES)))
def test_an_unknown_type(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"node n sent a message of the unknown type {kind}"):
        decode(kind, b"\x80", "node n")


@pytest.mark.parametrize("message_type", NUMBERS, ids=lambda t: t.__name__)
def test_a_field_of_the_wrong_type_is_named(message_type: type[Message]) -> None:
    for field in attrs.fields(message_type):
        name = field.name
        values = attrs.asdict(sample(message_type))
        values[name] = msgspec.msgpack.Ext(1, b"no such thing")
        body = msgspec.msgpack.encode(values)
        with pytest.raises(
            ProtocolError, match=rf"malformed {message_type.__name__}: .*\$\.{name}"
        ):
            decode(NUMBERS[message_type], body, "p")
        if field.default is not attrs.NOTHING:
            continue  # It may be left out, and often is.
        del values[name]
        with pytest.raises(ProtocolError, match=f"missing required field `{name}`"):
            decode(NUMBERS[message_type], msgspec.msgpack.encode(values), "p")


@pytest.mark.parametrize(
    "message",
    [
        sample(messages.RunJobs, numbers=[1, 2], attempts=[0, 0], payloads=[b""]),
        sample(messages.CancelJobs, numbers=[1]),
        sample(messages.JobsStarted, attempts=[0]),
        sample(messages.JobsFinished, numbers=[1]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_columns_of_unequal_length(message: Message) -> None:
    frame = encode(message)
    with pytest.raises(ProtocolError, match=rf"{type(message).__name__}: numbers, .* items"):
        decode(frame[4], body_of(frame), "p")


@given(st.sampled_from(sorted(MESSAGE_TYPES)), st.binary(max_size=100))
def test_garbage_is_refused(kind: int, body: bytes) -> None:
    try:
        message = decode(kind, body, "p")
    except ProtocolError:
        return
    assert type(message) is MESSAGE_TYPES[kind]


@given(data=st.data())
def test_a_flipped_byte_is_a_message_or_refused(data: st.DataObject) -> None:
    message = sample(
        messages.JobsFinished,
        numbers=[1],
        attempts=[0],
        outcomes=[0],
        starts=[1.0],
        ends=[2.0],
        payloads=[b"p"],
        outputs={1: (b"o", b"e")},
    )
    body = bytearray(body_of(encode(message)))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    try:
        assert isinstance(decode(35, bytes(body), "p"), messages.JobsFinished)
    except ProtocolError as exc:
        assert str(exc).startswith("p sent a malformed JobsFinished")  # noqa: PT017


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode(1, b"\x81\xa1x" + b"\x91" * 100_000, "p")


def test_what_no_receiver_would_take_is_not_sent() -> None:
    with pytest.raises(
        LocalError, match=f"ComputationFailed of .* over the limit of {FRAME_LIMIT}"
    ):
        encode(messages.ComputationFailed(1, "x" * FRAME_LIMIT))
    with pytest.raises(LocalError, match="Goodbye of"):
        encode(messages.Goodbye("x" * 20_000))
