"""`wait` and `close` of a blocking cluster: what they wait for, how long, and when jobs are refused.

The cluster is whole but for its engine: a thread stands for it that ends each job at once.
"""

from __future__ import annotations

import logging
import pickle
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from attrs import define, field

from dispy_trio import messages
from dispy_trio.client import thread as thread_module
from dispy_trio.client.blocking import JobCluster
from dispy_trio.client.callbacks import Notifier
from dispy_trio.client.ears import ClusterEars
from dispy_trio.client.jobs import DispyJob, SubmittedJob
from dispy_trio.client.nodes import DispyNode, choose_nodes
from dispy_trio.client.settings import ClusterSettings, Work
from dispy_trio.client.thread import ClusterThread
from dispy_trio.errors import ClusterClosed
from dispy_trio.models import JobStatus, Outcome

LIMIT = 30.0
"""Seconds after which something hangs that is here waited for."""
SHORT = 0.05


@define(eq=False)
class Engine:
    """Ends jobs as they come, until it is told to leave."""

    thread: ClusterThread
    queue: Any = field(factory=SimpleQueue)
    wants_jobs: bool = False

    def run(self) -> None:
        ears = ClusterEars(self.thread)
        while (job := self.queue.get()) is not None:
            job.outcome, job.reply = Outcome.RETURNED, pickle.dumps(job.number)
            job.state = JobStatus.Finished
            job.announce()
            ears.ended([job], again=False)

    def leave(self, _terminate: bool) -> None:
        self.queue.put(None)

    def end_left(self, _reason: str) -> None:
        assert self.queue.empty()


class Token:
    """Calls at once what the engine's thread is to call."""

    def run_sync_soon(self, function: Callable[..., None], *args: Any) -> None:
        function(*args)


class Queue(SimpleQueue[Any]):
    append = SimpleQueue.put


Make = Callable[..., JobCluster[[int], int]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes clusters, and ends them."""
    made: list[JobCluster[[int], int]] = []

    def make(
        job_status: Callable[[Any], object] | None = None,
        cluster_status: Callable[[int, Any, Any], object] | None = None,
    ) -> JobCluster[[int], int]:
        settings = ClusterSettings(choose_nodes(["127.0.0.1:9701"]))
        work = Work(messages.OpenComputation(1, "double", "00", b"bundle", 0))
        cluster: JobCluster[[int], int] = object.__new__(JobCluster)
        thread = ClusterThread("double", settings, work, None, weakref.ref(cluster), lambda _: None)
        if job_status is not None or cluster_status is not None:
            thread.notifier = Notifier(
                job_status, cluster_status, lambda key: DispyNode(key, {}.get), thread.drained
            )
        engine: Any = Engine(thread, Queue())
        thread.engine = engine
        thread._token = Token()  # type: ignore[assignment]
        thread._leave = engine.leave
        thread._thread = threading.Thread(target=engine.run)
        thread._thread.start()
        cluster._attach(thread)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close(timeout=0, terminate=True)


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns more often than they do else."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_wait_is_true_at_once_when_nothing_is_pending(make: Make) -> None:
    told: list[int] = []
    cluster = make(lambda job: told.append(job.number))
    assert cluster.wait(0) is True
    cluster.submit(1)
    assert cluster.wait() is True
    assert told == [1]
    assert cluster.wait(0) is True


@pytest.mark.parametrize("how", ["wait", "close", "with"])
def test_callbacks_may_submit_while_the_program_waits(make: Make, how: str) -> None:
    told: list[int] = []

    def job_status(job: Any) -> None:
        if job.number < 200:
            cluster.submit(job.number)
        told.append(job.number)

    cluster = make(job_status)
    if how == "with":
        with cluster:
            cluster.submit(0)
    else:
        cluster.submit(0)
        assert getattr(cluster, how)() is True
    assert told == list(range(1, 201))
    if how == "wait":
        cluster.submit(0)
        assert cluster.close() is True
    with pytest.raises(ClusterClosed):
        cluster.submit(0)


def test_a_callback_about_a_node_may_submit_while_the_program_closes(make: Make) -> None:
    begin = threading.Event()
    told: list[Any] = []

    def cluster_status(status: int, node: Any, job: Any) -> None:
        if status == DispyNode.Initialized:
            assert begin.wait(LIMIT)
            told.append(cluster.submit(1))

    cluster = make(cluster_status=cluster_status)
    notifier = cluster._thread.notifier
    assert notifier is not None
    notifier.node_initialized("127.0.0.1:9701")
    closing = threading.Thread(target=cluster.close)
    closing.start()
    begin.set()
    closing.join()
    assert [job.result for job in told] == [1]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("how", ["close", "with"])
def test_no_job_is_lost_between_being_taken_and_being_refused(
    make: Make, switching: None, how: str, seed: int
) -> None:
    rng = random.Random(seed)
    taken: list[DispyJob[int]] = []
    told: list[int] = []
    more = [rng.randrange(3) for _ in range(300)]

    def job_status(job: Any) -> None:
        told.append(job.number)
        for _ in range(more.pop() if more else 0):
            taken.append(cluster.submit(0))

    def submit(count: int) -> None:
        for _ in range(count):
            try:
                taken.append(cluster.submit(0))
            except ClusterClosed:
                return

    cluster = make(job_status)
    threads = [threading.Thread(target=submit, args=(rng.randrange(60),)) for _ in range(3)]
    if how == "with":
        with cluster:
            submit(1)
            for thread in threads:
                thread.start()
    else:
        submit(1)
        for thread in threads:
            thread.start()
        assert cluster.close() is True
    assert cluster._thread.refuses
    for thread in threads:
        thread.join()
    assert sorted(told) == sorted(job.number for job in taken)
    assert all(job.status == DispyJob.Finished for job in taken)


def test_jobs_come_once_each_also_of_several_clusters(make: Make) -> None:
    first, second = make(), make()
    jobs = [first.submit(1), second.submit(1)]
    assert [job.number for job in jobs] == [1, 1]
    ended = list(first.as_completed([*jobs, *jobs]))
    assert sorted(ended, key=jobs.index) == jobs


def test_a_job_that_is_counted_while_the_engine_ends_keeps_nobody_waiting(make: Make) -> None:
    cluster = make()
    thread = cluster._thread
    end = threading.Thread(target=thread._end_what_is_left)
    with thread.submitting:
        assert not thread.refuses
        end.start()
        end.join(SHORT)
        thread.number += 1
    end.join()
    assert cluster.wait(SHORT) is True
    with pytest.raises(ClusterClosed):
        cluster.submit(1)


def test_wait_is_true_only_when_the_callbacks_have_run_that_a_callback_caused(
    make: Make, switching: None
) -> None:
    running: list[int] = []

    def job_status(job: Any) -> None:
        running.append(job.number)
        if job.number % 5:
            cluster.submit(0)
        running.remove(job.number)

    cluster = make(job_status)
    for _ in range(200):
        cluster.submit(0)
        assert cluster.wait() is True
        assert running == []
        assert cluster._thread.number == cluster._thread.ended
        assert cluster._thread.number % 5 == 0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets callbacks return that block."""
    event = threading.Event()
    yield event
    event.set()


def test_timeouts_hold_when_a_callback_blocks(
    make: Make,
    release: threading.Event,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_module, "CALLBACK_GRACE", SHORT)
    told: SimpleQueue[int] = SimpleQueue()

    def job_status(job: Any) -> None:
        assert release.wait(LIMIT)
        told.put(job.number)

    cluster = make(job_status)
    jobs = [cluster.submit(n) for n in range(3)]
    for job in jobs:
        assert job.wait(LIMIT)
    assert cluster.wait(SHORT) is False
    assert cluster.wait(0) is False
    assert cluster.close(timeout=SHORT) is False
    cluster.submit(3)  # It is not closed.
    assert cluster.close(timeout=SHORT, terminate=True) is True
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == (
        "cluster double is closed, and 4 of its callbacks have not returned; they are called as"
        " long as the program lasts"
    )
    with pytest.raises(ClusterClosed):
        cluster.submit(4)
    release.set()
    assert [told.get(timeout=LIMIT) for _ in range(4)] == [1, 2, 3, 4]


def test_close_with_terminate_alone_waits_no_longer_for_a_callback_that_blocks(
    make: Make, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "CALLBACK_GRACE", SHORT)
    cluster = make(lambda _job: release.wait(LIMIT))
    cluster.submit(1)
    assert cluster.close(terminate=True) is True
    assert not release.is_set()


def test_one_that_blocks_keeps_no_other_cluster_without_callbacks(
    make: Make, release: threading.Event
) -> None:
    blocked = make(lambda _job: release.wait(LIMIT))
    blocked.submit(1)
    other = make()
    assert other.submit(1).wait(LIMIT)
    assert other.wait() is True
    assert other.close() is True


def test_close_with_terminate_waits_for_callbacks_that_are_quick(make: Make) -> None:
    told: list[int] = []
    cluster = make(lambda job: told.append(job.number))
    for n in range(100):
        cluster.submit(n)
    cluster.close(terminate=True)
    assert told == list(range(1, 101))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("mine")])
def test_the_thread_of_callbacks_survives_whatever_they_raise(
    make: Make, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    told: list[int] = []

    def job_status(job: Any) -> None:
        told.append(job.number)
        raise error

    cluster = make(job_status)
    for n in range(3):
        cluster.submit(n)
    assert cluster.wait() is True
    assert told == [1, 2, 3]
    records = [record for record in caplog.records if "callback failed" in record.getMessage()]
    assert [record.exc_info[1] for record in records if record.exc_info] == [error] * 3
    cluster.submit(3)
    assert cluster.close() is True
    assert told == [1, 2, 3, 4]


def test_a_job_that_comes_when_the_engine_has_ended_keeps_nobody_waiting(make: Make) -> None:
    cluster = make()
    thread = cluster._thread
    thread.number += 1
    returned: SimpleQueue[bool] = SimpleQueue()
    waiting = threading.Thread(target=lambda: returned.put(cluster.wait()), daemon=True)
    waiting.start()
    while not thread.drained._waiters:  # type: ignore[attr-defined]
        waiting.join(0.01)
    thread.end_late(SubmittedJob(1, b""))
    assert returned.get(timeout=LIMIT)


def test_its_status_can_be_asked_for_while_it_waits_for_a_first_node(make: Make) -> None:
    cluster = make()
    engine, cluster._thread.engine = cluster._thread.engine, None
    assert cluster.status() == ([], 0)
    cluster._thread.engine = engine


def test_a_callback_may_wait_and_close(make: Make) -> None:
    answers: SimpleQueue[object] = SimpleQueue()

    def job_status(job: Any) -> None:
        if job.number == 1:
            answers.put(cluster.wait())
            answers.put(cluster.close())

    cluster = make(job_status)
    cluster.submit(1)
    assert [answers.get(timeout=LIMIT) for _ in range(2)] == [True, True]
    assert cluster.close() is None
