"""Messages that are too long for one frame, in two."""

from __future__ import annotations

from attrs import evolve

from dispy_trio import messages
from dispy_trio.messages import Message

__all__ = ["halves"]


def halves(message: Message) -> tuple[Message, Message] | None:
    """Two messages that say the same, one after the other; None when it is about one thing only."""
    match message:
        case messages.SessionState(numbers=numbers) if len(numbers) > 1:
            middle = len(numbers) // 2
            first = evolve(message, more=True)
            return _rows(first, 0, middle), _rows(message, middle, len(numbers))
        case messages.AckResults(numbers=numbers) | messages.JobsReturned(numbers=numbers) if (
            len(numbers) > 1
        ):
            middle = len(numbers) // 2
            return evolve(message, numbers=numbers[:middle]), evolve(
                message, numbers=numbers[middle:]
            )
        case messages.CancelJobs() | messages.JobsStarted() | messages.JobsFinished() if (
            len(message.numbers) > 1
        ):
            middle = len(message.numbers) // 2
            return _rows(message, 0, middle), _rows(message, middle, len(message.numbers))
        case messages.RunJobs(numbers=numbers) if len(numbers) > 1:
            middle = len(numbers) // 2
            second = evolve(message, acknowledged=[])
            return _rows(message, 0, middle), _rows(second, middle, len(numbers))
        case messages.RunJobs(acknowledged=[_, *_]):
            return messages.AckResults(message.acknowledged), evolve(message, acknowledged=[])
        case _:
            return None


def _rows(message: Message, start: int, end: int) -> Message:
    """The rows from `start` to before `end` of a message in columns."""
    assert isinstance(
        message,
        (
            messages.SessionState,
            messages.RunJobs,
            messages.CancelJobs,
            messages.JobsStarted,
            messages.JobsFinished,
        ),
    )
    rows = slice(start, end)
    changes = {
        column: getattr(message, column)[rows]
        for column in ("numbers", "attempts", "starts", "ends", "outcomes", "payloads", "left")
        if getattr(message, column, None) is not None
    }
    if isinstance(message, messages.JobsFinished):
        kept = set(changes["numbers"])
        for column in ("outputs", "blobs", "segments"):
            found = getattr(message, column)
            changes[column] = {number: found[number] for number in found if number in kept}
    return evolve(message, **changes)
