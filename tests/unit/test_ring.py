"""The memory a worker shares with its supervisor."""

from __future__ import annotations

import struct
import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy_trio.child.ring import Record, Ring, RingError

HEADER = 80
RECORD = 40


def pair(data_size: int) -> tuple[Ring, Ring, memoryview]:
    memory = memoryview(bytearray(HEADER + data_size))
    return Ring(memory), Ring(memory), memory


def test_hands_over_a_record_as_it_was_written() -> None:
    writer, reader, _ = pair(4096)
    assert not reader.has_records()
    assert writer.write(7, 3, 1.5, 2.5, b"payload", b"out", b"err")
    assert reader.has_records()
    assert reader.read() == [Record(7, 3, 1.5, 2.5, b"payload", b"out", b"err")]
    assert not reader.has_records()
    assert reader.read() == []


def test_refuses_what_has_no_room_and_leaves_the_rest_whole() -> None:
    writer, reader, _ = pair(256)
    assert writer.write(1, 0, 0.0, 0.0, bytes(100))
    assert not writer.write(2, 0, 0.0, 0.0, bytes(100))
    assert not writer.write(2, 0, 0.0, 0.0, bytes(10_000))
    assert [record.sequence for record in reader.read()] == [1]
    assert writer.write(2, 0, 0.0, 0.0, b"fits now")
    assert [record.payload for record in reader.read()] == [b"fits now"]


def test_takes_the_very_last_byte() -> None:
    writer, reader, _ = pair(256)
    for sequence in range(1, 20):
        assert writer.write(sequence, 0, 0.0, 0.0, bytes(256 - RECORD))
        assert not writer.write(sequence + 1, 0, 0.0, 0.0, b"")
        assert [record.sequence for record in reader.read()] == [sequence]


@pytest.mark.parametrize("left", range(1, 2 * RECORD))
def test_goes_on_at_the_start_when_the_end_is_too_short(left: int) -> None:
    writer, reader, _ = pair(1024)
    assert writer.write(1, 0, 0.0, 0.0, bytes(1024 - RECORD - left))
    assert len(reader.read()) == 1
    assert writer.write(2, 0, 0.0, 0.0, b"x" * 100, b"o" * 10, b"e")
    assert reader.read() == [Record(2, 0, 0.0, 0.0, b"x" * 100, b"o" * 10, b"e")]


records = st.tuples(
    st.binary(max_size=120), st.binary(max_size=40), st.binary(max_size=40), st.booleans()
)


@given(st.lists(records, max_size=60), st.integers(200, 700))
def test_is_a_queue(steps: list[tuple[bytes, bytes, bytes, bool]], size: int) -> None:
    writer, reader, _ = pair(size)
    model: deque[Record] = deque()
    for sequence, (payload, stdout, stderr, read_now) in enumerate(steps, 1):
        record = Record(sequence, sequence % 7, 0.5 * sequence, 1.0, payload, stdout, stderr)
        if writer.write(*record):
            model.append(record)
        else:
            assert model, "an empty ring has room for any of these"
        if read_now:
            assert reader.read() == list(model)
            model.clear()
    assert reader.read() == list(model)


def test_a_reader_beside_a_writer_sees_whole_records_in_order() -> None:
    writer, reader, _ = pair(2000)
    total = 20_000

    def write() -> None:
        for sequence in range(1, total + 1):
            while not writer.write(sequence, 0, 0.0, 0.0, b"%d" % sequence * (sequence % 9)):
                pass

    thread = threading.Thread(target=write)
    thread.start()
    expected = 1
    while expected <= total:
        for record in reader.read():
            assert record.sequence == expected
            assert record.payload == b"%d" % expected * (expected % 9)
            expected += 1
    thread.join()


def test_refuses_nonsense() -> None:
    writer, reader, memory = pair(1024)
    assert writer.write(1, 0, 0.0, 0.0, b"abc")
    struct.pack_into("<I", memory, HEADER + 28, 5000)
    with pytest.raises(RingError, match="record 1"):
        reader.read()
    struct.pack_into("<Q", memory, 0, 1 << 40)
    with pytest.raises(RingError, match="announced"):
        reader.read()


# --- which job runs, and recalls -----------------------------------------------------------------
def test_tells_what_has_started() -> None:
    worker, supervisor, _ = pair(1024)
    assert supervisor.started() == (0, 0.0)
    assert worker.start(1, 10.0)
    assert supervisor.started() == (1, 10.0)
    assert worker.start(2, 11.0)
    assert supervisor.started() == (2, 11.0)


def test_takes_back_what_has_not_started() -> None:
    worker, supervisor, _ = pair(1024)
    assert worker.start(1, 0.0)
    assert supervisor.recall(4) == 1
    assert [worker.start(sequence, 0.0) for sequence in (2, 3, 4)] == [False] * 3
    assert worker.start(5, 0.0), "jobs sent after the recall do run"


def test_a_recalled_job_stays_recalled() -> None:
    worker, supervisor, _ = pair(1024)
    assert worker.start(1, 0.0)
    assert supervisor.recall(3) == 1
    assert not worker.start(2, 0.0)
    # It has come past 2, without running it; that is no reason to believe that it did.
    assert supervisor.recall(6) == 1
    assert not any(worker.start(sequence, 0.0) for sequence in (3, 4, 5, 6))
    assert supervisor.recall(6) == 1
    assert worker.start(7, 0.0)
    assert supervisor.recall(7) == 7


def test_recall_before_anything_started() -> None:
    worker, supervisor, _ = pair(1024)
    assert supervisor.recall(2) == 0
    assert not worker.start(1, 0.0)
    assert not worker.start(2, 0.0)
    assert worker.start(3, 0.0)


@given(st.lists(st.sampled_from(["send", "start", "recall"]), max_size=80))
def test_every_job_runs_or_comes_back(steps: list[str]) -> None:
    worker, supervisor, _ = pair(1024)
    sent = arrived = 0
    ran: set[int] = set()
    returned: set[int] = set()
    held: list[int] = []
    for step in steps:
        if step == "send":
            sent += 1
            held.append(sent)
        elif step == "start" and arrived < sent:
            arrived += 1
            if worker.start(arrived, 0.0):
                ran.add(arrived)
        elif step == "recall":
            kept = supervisor.recall(sent)
            returned |= {sequence for sequence in held if sequence > kept}
            held = [sequence for sequence in held if sequence <= kept]
    while arrived < sent:
        arrived += 1
        if worker.start(arrived, 0.0):
            ran.add(arrived)
    assert not ran & returned
    assert ran | returned == set(range(1, sent + 1))


def test_recalls_race_with_starts() -> None:
    worker, supervisor, memory = pair(1024)
    total = 30_000
    sent = threading.Semaphore(0)
    ran: list[int] = []

    def work() -> None:
        for sequence in range(1, total + 1):
            sent.acquire()
            if worker.start(sequence, 0.0):
                ran.append(sequence)

    thread = threading.Thread(target=work)
    thread.start()
    returned: list[int] = []
    held: deque[int] = deque()
    for last in range(7, total + 7, 7):
        batch = range(last - 6, min(last, total) + 1)
        held.extend(batch)
        sent.release(len(batch))
        kept = supervisor.recall(batch[-1])
        while held and held[-1] > kept:
            returned.append(held.pop())
    thread.join()
    assert sorted([*ran, *returned]) == list(range(1, total + 1))
    del memory


def test_what_came_before_nonsense_is_taken() -> None:
    writer, reader, memory = pair(1024)
    assert writer.write(1, 0, 0.0, 0.0, b"abc")
    end = struct.unpack_from("<Q", memory, 0)[0]
    assert writer.write(2, 0, 0.0, 0.0, b"abc")
    struct.pack_into("<I", memory, HEADER + end + 28, 5000)
    assert [record.sequence for record in reader.read()] == [1]
    with pytest.raises(RingError, match="record 2"):
        reader.read()


@pytest.mark.parametrize("when", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_start_at_no_time_is_none(when: float) -> None:
    worker, supervisor, _ = pair(1024)
    assert worker.start(1, when)
    assert supervisor.started() == (1, 0.0)
