"""The parent's beats: what it makes of a drain, and of the process that has the model."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Connection, Message
from kombu import Consumer as TaskConsumer

from tasks import redis_keys
from tasks.jobs.job import Status
from tasks.jobs.store import Dispatch, JobStore
from tasks.runtime import Runtime
from tasks.worker import monitor as module
from tasks.worker.monitor import LivenessTimeout, WorkerMonitor, kill_child, resident_bytes
from tasks.worker_registry import Worker
from tests.support.clock import Clock, until
from tests.support.jobs import claim, make_job

WORKER, PID = "gpu0@h", 7
QUEUES = ["gpu.h.0", "model.m"]


class FakeConsumer:
    """Celery's consumer on a broker in memory; it loses what is asked of it while it is deaf."""

    add_task_queue = Consumer.add_task_queue
    cancel_task_queue = Consumer.cancel_task_queue

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_consumer = TaskConsumer(Connection("memory://").channel(), [])
        self.calls = 0
        self.deaf = False

    def call_soon(self, change: Callable[..., None], *arguments: object) -> None:
        self.calls += 1
        if not self.deaf:
            change(*arguments)


class Parent:
    """A worker's parent with one child, which has yet to answer; `killed` are those it killed."""

    def __init__(self, runtime: Runtime) -> None:
        app = runtime.celery_app
        app.amqp.queues.select(QUEUES)
        self.redis, self.registry = runtime.redis, runtime.registry
        self.consumer, self.clock = FakeConsumer(app), Clock()
        self.children, self.killed = {PID}, list[int]()
        self.worker = SimpleNamespace(hostname=WORKER, app=app, consumer=self.consumer)
        timeout = LivenessTimeout(90, 6, clock=self.clock)
        self.monitor = WorkerMonitor(runtime, self.worker, timeout, children=lambda: self.children)
        self.monitor.pause_consuming()

    def tick(self, seconds: float = 5) -> list[str]:
        """Tick every five seconds for so long; returns the queues that it takes from, in order."""
        for _ in range(int(seconds / 5)):
            self.clock.now += 5
            self.monitor.tick()
        return list(self.consumer.task_consumer._active_tags)

    def answer(self, pid: int = PID) -> None:
        """Say for a child that its model has answered."""
        self.registry.mark_ready(WORKER, 90, pid=pid)

    def shown(self) -> Worker:
        """What the registry says of it."""
        (worker,) = self.registry.workers()
        return worker


@pytest.fixture
def parent(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Parent:
    parent = Parent(runtime)
    monkeypatch.setattr(module, "kill_child", parent.killed.append)
    return parent


@pytest.fixture
def ready(parent: Parent) -> Parent:
    """Its process has answered, and it has been well for longer than an answer counts."""
    parent.answer()
    parent.tick(100)
    return parent


def test_of_two_of_one_name_the_later_ends(runtime: Runtime) -> None:
    ends, worker = (Mock(), Mock()), SimpleNamespace(hostname=WORKER, app=runtime.celery_app)
    parts = (runtime, worker, LivenessTimeout(90, 6))
    first, second = (WorkerMonitor(*parts, children=set, end_namesake=end) for end in ends)
    # Neither knows at first whether what it finds is left from one that was killed.
    for monitor in (second, first, second, first, second):
        monitor.tick()
    assert [each.call_count for each in ends] == [0, 1]


def test_nothing_is_taken_before_a_model_answers_nor_after_its_child_died(parent: Parent) -> None:
    for pid in (PID, 8):
        parent.children = {pid}
        assert parent.tick() == []
        parent.answer(pid)
        assert parent.tick() == QUEUES, "its own queue is looked into first"
    assert parent.consumer.calls == 3, "several calls might be made in any order"


def test_a_heartbeat_says_what_memory_is_held_also_without_a_consumer(parent: Parent) -> None:
    parent.worker.consumer = None
    parent.registry.drain(WORKER, "new fan")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        until(lambda: resident_bytes([child.pid]) > 2**22)
        parent.children = {child.pid}
        parent.tick()
        assert parent.shown().resident > resident_bytes([os.getpid()]) + 2**21
        child.kill()
    assert resident_bytes([2**30]) == 0, "a process that has just ended"


def test_a_worker_whose_answers_are_not_heard_goes_on_taking(ready: Parent) -> None:
    ready.redis.flushdb()
    assert ready.tick() == QUEUES


def test_a_worker_is_asked_until_it_heeds_a_drain_or_its_end(ready: Parent) -> None:
    for before, change, after in (
        (QUEUES, lambda: ready.registry.drain(WORKER, "new fan"), []),
        ([], lambda: ready.registry.undrain(WORKER), QUEUES),
    ):
        change()
        ready.consumer.calls, ready.consumer.deaf = 0, True
        assert ready.tick() == before
        ready.consumer.deaf = False
        assert ready.tick() == after
        ready.tick()
        assert ready.consumer.calls == 2


@pytest.mark.parametrize("name", ["should_stop", "should_terminate"])
def test_a_worker_that_ends_is_asked_for_nothing(
    ready: Parent, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ready.registry.drain(WORKER, "new fan")
    monkeypatch.setattr(state, name, 0)
    assert ready.tick() == QUEUES


def test_no_other_worker_gets_the_messages_of_one_that_is_ready(
    ready: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.redis.zadd(redis_keys.UNACKED_INDEX, {"held": 1, "of another worker": 1})
    app, none = ready.worker.app, ((), {}, {})
    messages = [
        Message(delivery_tag=tag, headers={"id": tag, "task": "t"}) for tag in ("held", "done")
    ]
    held = [Request(each, app=app, task=app.Task(), body=none, decoded=True) for each in messages]
    monkeypatch.setattr(state, "reserved_requests", held)
    ready.tick()
    assert ready.redis.zscore(redis_keys.UNACKED_INDEX, "held") > 1
    assert ready.redis.zscore(redis_keys.UNACKED_INDEX, "of another worker") == 1
    assert ready.redis.zscore(redis_keys.UNACKED_INDEX, "done") is None


def test_a_child_whose_answer_lapsed_is_killed_and_not_sent_to(ready: Parent) -> None:
    ready.redis.delete(redis_keys.ready_key(WORKER))
    ready.tick()
    assert ready.killed == [PID]
    assert not ready.shown().ready


@pytest.mark.parametrize("seconds", [85, 200], ids=["with the number of a former one", "new"])
def test_a_child_that_has_not_answered_yet_is_left_to_load(parent: Parent, seconds: int) -> None:
    if seconds < 90:  # In a container the numbers begin again with each start.
        parent.answer()
        parent.redis.delete(redis_keys.ready_key(WORKER))
    parent.tick(seconds)
    assert parent.killed == []


def test_the_word_of_a_child_that_is_gone_is_taken_back(parent: Parent) -> None:
    parent.answer(PID + 1)
    parent.tick()
    assert (parent.shown().alive, parent.shown().ready) == (True, False)


def test_a_child_that_is_gone_already_cannot_be_killed_and_need_not_be() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        kill_child(child.pid)
        assert child.wait(10) == -9
    kill_child(child.pid)


def test_a_job_whose_revoked_message_another_one_has_used_is_canceled(
    ready: Parent, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, again, due, runs = (store.create(make_job()).job.task_id for _ in range(4))
    store.record_dispatches([Dispatch(again, "model.u2netp")])
    store.postpone(due, seconds=60)
    claim(store, runs)
    monkeypatch.setattr(state, "revoked", {waits, again, due, runs, "msg_1"})
    ready.tick()
    assert store.ids(Status.CANCELED) == [waits]
    store.requeue(waits)
    assert store.cancel(waits, redispatches=0) == "queued", "it is requeued"
    store.record_dispatches([Dispatch(waits, "model.u2netp")])
    assert store.cancel(waits, redispatches=0) == "queued", "it has another message by now"
    ready.tick()
    assert store.ids(Status.CANCELED) == []
    monkeypatch.setattr(state, "revoked", {waits, f"{waits}.2"})
    ready.tick()
    assert store.ids(Status.CANCELED) == [waits]
