"""What is too long for a frame goes in two, and says the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dispy_trio import messages
from dispy_trio.errors import LocalError
from dispy_trio.messages import Message
from dispy_trio.protocol.codec import encode
from dispy_trio.protocol.splitting import halves

MANY = list(range(2**40, 2**40 + 600_000))
"""Nine bytes each: more than a frame takes."""


def pieces(message: Message) -> Iterator[Message]:
    """What is sent for it."""
    try:
        encode(message)
    except LocalError:
        parts = halves(message)
        assert parts is not None, "it can be sent in parts"
        for part in parts:
            yield from pieces(part)
    else:
        yield message


@pytest.mark.parametrize(
    "message",
    [
        messages.AckResults(MANY),
        messages.JobsReturned(7, MANY),
        messages.CancelJobs(MANY, [-1] * len(MANY)),
        messages.JobsStarted(MANY, [0] * len(MANY), [1.5] * len(MANY)),
        messages.RunJobs(7, MANY, [1] * len(MANY), [b"p"] * len(MANY), [5, 6]),
        messages.SessionState("n", 2, "p", MANY, [0] * len(MANY), [7], {"gpus": 1}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_any_number_of_numbers_travels(message: Message) -> None:
    sent = list(pieces(message))
    assert len(sent) > 1
    for column in ("numbers", "attempts", "starts", "payloads", "acknowledged"):
        whole = getattr(message, column, [])
        found = [getattr(part, column, []) for part in sent]
        assert [item for part in found for item in part] == whole


def test_a_job_need_not_wait_for_a_million_acknowledgements() -> None:
    sent = list(pieces(messages.RunJobs(7, [1], [0], [b"p"], MANY)))
    assert sent.pop() == messages.RunJobs(7, [1], [0], [b"p"], [])
    acknowledged = [part.numbers for part in sent if isinstance(part, messages.AckResults)]
    assert [number for numbers in acknowledged for number in numbers] == MANY


def test_only_the_last_part_of_a_state_has_nothing_behind_it() -> None:
    sent = list(pieces(messages.SessionState("n", 2, "p", MANY, [0] * len(MANY), [7])))
    assert [part.more for part in sent if isinstance(part, messages.SessionState)] == [
        *[True] * (len(sent) - 1),
        False,
    ]


def test_results_go_with_all_that_is_theirs() -> None:
    message = messages.JobsFinished(
        [1, 2, 3],
        [0, 1, 2],
        [0, 0, 1],
        [1.0, 2.0, 3.0],
        [4.0, 5.0, 6.0],
        [b"a", b"b", b"c"],
        outputs={1: (b"o", b""), 3: (b"", b"e")},
        blobs={2: (9, [5])},
        segments={3: (8, [6])},
    )
    first, second = halves(message) or pytest.fail("it is about three jobs")
    assert first == messages.JobsFinished(
        [1], [0], [0], [1.0], [4.0], [b"a"], outputs={1: (b"o", b"")}, blobs={}, segments={}
    )
    assert second == messages.JobsFinished(
        [2, 3],
        [1, 2],
        [0, 1],
        [2.0, 3.0],
        [5.0, 6.0],
        [b"b", b"c"],
        outputs={3: (b"", b"e")},
        blobs={2: (9, [5])},
        segments={3: (8, [6])},
    )


@pytest.mark.parametrize(
    "message",
    [
        messages.AckResults([1]),
        messages.RunJobs(1, [1], [0], [b""], []),
        messages.Ping(1),
        messages.OpenComputation(1, "n", "00", b"", 0),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_about_one_thing_has_no_halves(message: Message) -> None:
    assert halves(message) is None
