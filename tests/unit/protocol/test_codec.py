"""Every message comes back as it went; what is not a message is refused by name."""

from __future__ import annotations

import builtins
import math
import os
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
from dispy_trio.models import Conditions
from dispy_trio.protocol.codec import FRAME_LIMITS, decode, encode
from dispy_trio.protocol.framing import FRAME_HEADER, FRAME_LIMIT
from dispy_trio.texts import TEXT_LIMIT, FilePath

NUMBERS = {message_type: number for number, message_type in MESSAGE_TYPES.items()}
COLUMNS = {
    "numbers",
    "attempts",
    "payloads",
    "starts",
    "ends",
    "outcomes",
    "left",
}


def any_message(message_type: type[Message]) -> st.SearchStrategy[Message]:
    """Instances with any values, whose columns are of one length, as senders make them."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        rows = draw(st.integers(0, 4))
        values = {}
        for name, hint in typing.get_type_hints(message_type, include_extras=True).items():
            values[name] = draw(any_value(hint, rows if name in COLUMNS else None))
        make: Callable[..., Message] = message_type
        return make(**values)

    return build()


def any_value(hint: object, rows: int | None) -> st.SearchStrategy[object]:
    bounds = msgspec.Meta()
    while typing.get_origin(hint) is typing.Annotated:
        hint, bounds = typing.get_args(hint)
    match typing.get_origin(hint):
        case builtins.list:
            low, high = (0, 4) if rows is None else (rows, rows)
            return st.lists(any_value(typing.get_args(hint)[0], None), min_size=low, max_size=high)
        case builtins.dict:
            key, value = (any_value(part, None) for part in typing.get_args(hint))
            return st.dictionaries(key, value, max_size=4)
        case builtins.tuple:
            return st.tuples(*(any_value(part, None) for part in typing.get_args(hint)))
        case types.UnionType | typing.Union:
            return st.one_of([any_value(part, rows) for part in typing.get_args(hint)])
    if hint is int:
        if bounds.ge is None or bounds.le is None:
            return st.integers(-(2**63), 2**64 - 1)
        return st.integers(int(bounds.ge), int(bounds.le))
    if hint is float:
        return st.floats(bounds.ge, bounds.le, allow_nan=False)
    if hint is str and bounds.pattern is not None:
        return st.from_regex(bounds.pattern, fullmatch=True)
    if hint is str:
        return st.text(max_size=bounds.max_length)
    if hint is bytes:
        return st.binary(min_size=bounds.min_length or 0, max_size=bounds.max_length)
    if hint is FilePath:
        names = st.binary(max_size=300).filter(lambda name: b"\0" not in name)
        return names.map(lambda name: FilePath(os.fsdecode(name)))
    if hint in (bool, type(None)):
        return st.from_type(hint)  # type: ignore[arg-type]
    # A record within a message, which is built like one.
    return any_message(hint)  # type: ignore[arg-type]


def plain(hint: object) -> object:
    bounds = msgspec.Meta()
    while typing.get_origin(hint) is typing.Annotated:
        hint, bounds = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return None
    if hint is bytes:
        return bytes(bounds.min_length or 0)
    empty = typing.get_origin(hint) or hint
    return empty()  # type: ignore[operator]


def sample(message_type: type[Message], **values: object) -> Message:
    """A message whose other fields are empty."""
    hints = typing.get_type_hints(message_type, include_extras=True)
    make: Callable[..., Message] = message_type
    return make(**{**{name: plain(hint) for name, hint in hints.items()}, **values})


def pack(values: object) -> bytes:
    return msgspec.msgpack.encode(values, enc_hook=FilePath.to_wire)


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
        body = pack(values)
        with pytest.raises(
            ProtocolError, match=rf"malformed {message_type.__name__}: .*\$\.{name}"
        ):
            decode(NUMBERS[message_type], body, "p")
        if field.default is not attrs.NOTHING:
            continue  # It may be left out, and often is.
        del values[name]
        with pytest.raises(ProtocolError, match=f"missing required field `{name}`"):
            decode(NUMBERS[message_type], pack(values), "p")


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


def fields_of(*kinds: object) -> list[tuple[type[Message], str]]:
    """The fields of all messages that are of such a type, bounds aside."""
    return [
        (message_type, name)
        for message_type in NUMBERS
        for name, hint in typing.get_type_hints(message_type).items()
        if hint in kinds
    ]


# --- bounds ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("message_type", "name"), fields_of(int, float, list[int], list[float]))
def test_no_number_is_out_of_bounds(message_type: type[Message], name: str) -> None:
    hint = typing.get_type_hints(message_type)[name]
    for value in (-2, -(2**63), 2**64 - 1, math.nan, math.inf, -math.inf):
        if name == "modified" and value == -2:
            continue  # A clock may well be wrong.
        if name in ("starts", "ends") and math.isfinite(value):
            continue  # Jobs can write what they like there; it is only to be a number.
        values = attrs.asdict(sample(message_type))
        values[name] = [value] if typing.get_origin(hint) is list else value
        with pytest.raises(
            ProtocolError, match=rf"malformed {message_type.__name__}: .*\$\.{name}"
        ):
            decode(NUMBERS[message_type], pack(values), "p")


@pytest.mark.parametrize("name", ["timeout", "cpus", "gpus", "max_jobs", "memory", "resources"])
@pytest.mark.parametrize("value", [-1, -(2**63), 2**64 - 1, -0.5, math.nan, math.inf])
def test_no_condition_is_out_of_bounds(name: str, value: float) -> None:
    conditions = attrs.asdict(Conditions())
    conditions[name] = {"disk": value} if name == "resources" else value
    for message_type in (messages.RunJobs, messages.RunBulkJob):
        values = {**attrs.asdict(sample(message_type)), "conditions": conditions}
        with pytest.raises(ProtocolError, match=rf"\$\.conditions\.{name}"):
            decode(NUMBERS[message_type], pack(values), "p")


PATHS = fields_of(FilePath)


@pytest.mark.parametrize(
    "path", [b"a\0b", b"x" * 4097, b"d/" * 1000 + b"x"], ids=["NUL", "long", "deep"]
)
@pytest.mark.parametrize(("message_type", "name"), PATHS)
def test_no_path_is_impossible(message_type: type[Message], name: str, path: bytes) -> None:
    values = {**attrs.asdict(sample(message_type)), name: path}
    with pytest.raises(ProtocolError, match="a path"):
        decode(NUMBERS[message_type], pack(values), "p")


# --- texts and paths -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["\udce9", "caf\udce9/\udcff", "é" * 127, "n" * 255, ""])
@pytest.mark.parametrize(("message_type", "field"), PATHS)
def test_a_path_arrives_as_it_was(message_type: type[Message], field: str, name: str) -> None:
    frame = encode(sample(message_type, **{field: name}))
    arrived = getattr(decode(frame[4], body_of(frame), "p"), field)
    assert arrived == name
    assert os.fsencode(arrived) == os.fsencode(name)


def test_the_place_of_a_computation_arrives_as_it_was() -> None:
    options = messages.ComputationOptions(dest_path="caf\udce9")
    frame = encode(sample(messages.OpenComputation, options=options))
    arrived = decode(frame[4], body_of(frame), "p")
    assert isinstance(arrived, messages.OpenComputation)
    assert arrived.options.dest_path == "caf\udce9"


@pytest.mark.parametrize(("message_type", "name"), fields_of(str))
def test_a_text_without_an_encoding_is_readable_or_not_sent(
    message_type: type[Message], name: str
) -> None:
    message = sample(message_type, **{name: "caf\udce9"})
    try:
        frame = encode(message)
    except LocalError as exc:
        assert "surrogates not allowed" in str(exc)  # noqa: PT017
        assert name in ("digest", "file"), "hex digits are ours, all else is a user's"
        return
    assert getattr(decode(frame[4], body_of(frame), "p"), name) == r"caf\udce9"


@pytest.mark.parametrize("message_type", [messages.RunJobs, messages.RunBulkJob])
def test_a_resource_without_an_encoding_is_not_sent(message_type: type[Message]) -> None:
    message = sample(message_type, conditions=Conditions(resources={"caf\udce9": 1}))
    with pytest.raises(LocalError, match="surrogates not allowed"):
        encode(message)


# --- twice every limit -----------------------------------------------------------------------------
@pytest.mark.parametrize(("message_type", "name"), fields_of(str))
@pytest.mark.parametrize("letter", ["x", "\U0001f40d", "\udce9"])
def test_a_long_text_is_cut_with_a_mark(
    message_type: type[Message], name: str, letter: str
) -> None:
    if name in ("digest", "file"):
        with pytest.raises(LocalError, match=f"{message_type.__name__} can't be"):
            encode(sample(message_type, **{name: letter * 200}))
        return
    frame = encode(sample(message_type, **{name: "begin" + letter * 2 * TEXT_LIMIT + "end"}))
    arrived = getattr(decode(frame[4], body_of(frame), "p"), name)
    assert "characters, cut here" in arrived
    assert (arrived[:5], arrived[-3:]) == ("begin", "end")


@pytest.mark.parametrize(
    ("message_type", "values"),
    [
        (messages.OpenComputation, {"bundle": bytes(2 * FRAME_LIMIT)}),
        (
            messages.OpenComputation,
            {"options": messages.ComputationOptions(arguments=bytes(2 * FRAME_LIMIT))},
        ),
        (messages.JobProvisional, {"payload": bytes(2 * FRAME_LIMIT)}),
        (messages.JobOutput, {"stderr": bytes(2 * FRAME_LIMIT)}),
        (messages.RunBulkJob, {"sizes": [2**40] * FRAME_LIMIT}),
        (messages.RunJobs, {"conditions": Conditions(resources={"x" * 2 * FRAME_LIMIT: 1})}),
        (messages.SessionState, {"resources": {"x" * 2 * FRAME_LIMIT: 1}}),
        (messages.FileOffered, {"path": "x" * 2 * FRAME_LIMIT}),
        (messages.PutFile, {"path": "x" * 2 * FRAME_LIMIT}),
        (messages.PutFile, {"dest_path": "d/" * 1000}),
        (messages.OfferSegments, {"token": bytes(2 * FRAME_LIMIT)}),
        (messages.SetCpus, {"cpus": 2**70}),
        (messages.WatchNode, {"interval": math.nan}),
        (messages.RunJobs, {"conditions": Conditions(timeout=math.inf)}),
        (messages.RunJobs, {"conditions": Conditions(memory=2**70)}),
    ],
)
def test_what_no_receiver_would_take_is_not_sent(
    message_type: type[Message], values: dict[str, object]
) -> None:
    with pytest.raises(LocalError, match=f"a {message_type.__name__} (of|can't be) "):
        encode(sample(message_type, **values))
