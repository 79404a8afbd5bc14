"""The parent's beats: what it makes of a drain, and of the process that has the model."""

import subprocess
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Connection, Message
from kombu import Consumer as TaskConsumer
from redis import Redis

from tasks import redis_keys
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker import monitor as module
from tasks.worker.monitor import LivenessTimeout, WorkerMonitor, kill_child
from tasks.worker_registry import Worker, WorkerRegistry
from tests.support.clock import Clock

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

    @property
    def taken(self) -> list[str]:
        """The queues that are consumed from, the first one first."""
        return list(self.task_consumer._active_tags)


@pytest.fixture
def consumer(app: Celery) -> FakeConsumer:
    app.amqp.queues.select(QUEUES)
    return FakeConsumer(app)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def children() -> set[int]:
    """The process ids of the pool's children."""
    return {PID}


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    killed: list[int] = []
    monkeypatch.setattr(module, "kill_child", killed.append)
    return killed


@pytest.fixture
def monitor(
    settings: Settings, redis: Redis, consumer: FakeConsumer, clock: Clock, children: set[int]
) -> WorkerMonitor:
    worker = SimpleNamespace(hostname=WORKER, app=consumer.app, consumer=consumer)
    timeout = LivenessTimeout(90, 6, clock=clock)
    monitor = WorkerMonitor(
        Runtime(settings, redis=redis), worker, timeout, children=lambda: children
    )
    monitor.pause_consuming()
    return monitor


def _tick(monitor: WorkerMonitor, clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds / 5)):
        clock.now += 5
        monitor.tick()


@pytest.fixture
def ready(monitor: WorkerMonitor, registry: WorkerRegistry, clock: Clock) -> WorkerMonitor:
    """Its process has answered, and it has been well for longer than an answer counts."""
    registry.mark_ready(WORKER, 90, pid=PID)
    _tick(monitor, clock, 100)
    return monitor


def _worker(registry: WorkerRegistry) -> Worker:
    (worker,) = registry.workers()
    return worker


def test_a_worker_takes_nothing_before_its_model_answers_nor_after_its_child_died(
    monitor: WorkerMonitor, registry: WorkerRegistry, consumer: FakeConsumer, children: set[int]
) -> None:
    for pid in (PID, 8):
        children.clear()
        children.add(pid)
        monitor.tick()
        assert consumer.taken == []
        registry.mark_ready(WORKER, 90, pid=pid)
        monitor.tick()
        assert consumer.taken == QUEUES, "its own queue is looked into first"
    assert consumer.calls == 3, "several calls might be made in any order"


def test_a_worker_whose_answers_are_not_heard_goes_on_taking(
    ready: WorkerMonitor, redis: Redis, consumer: FakeConsumer
) -> None:
    redis.flushdb()
    ready.tick()
    assert consumer.taken == QUEUES


def test_a_worker_is_asked_until_it_heeds_a_drain_or_its_end(
    ready: WorkerMonitor, registry: WorkerRegistry, consumer: FakeConsumer
) -> None:
    for before, change, after in (
        (QUEUES, lambda: registry.drain(WORKER, "new fan"), []),
        ([], lambda: registry.undrain(WORKER), QUEUES),
    ):
        change()
        consumer.calls, consumer.deaf = 0, True
        ready.tick()
        assert consumer.taken == before
        consumer.deaf = False
        ready.tick()
        assert consumer.taken == after
        ready.tick()
        assert consumer.calls == 2


@pytest.mark.parametrize("name", ["should_stop", "should_terminate"])
def test_a_worker_that_ends_is_asked_for_nothing(
    ready: WorkerMonitor,
    registry: WorkerRegistry,
    consumer: FakeConsumer,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    registry.drain(WORKER, "new fan")
    monkeypatch.setattr(state, name, 0)
    ready.tick()
    assert consumer.taken == QUEUES


def test_a_worker_that_has_no_consumer_yet_beats_all_the_same(
    monitor: WorkerMonitor, registry: WorkerRegistry
) -> None:
    monitor._worker.consumer = None
    registry.drain(WORKER, "new fan")
    monitor.tick()
    assert _worker(registry).alive


def test_no_other_worker_gets_the_messages_of_one_that_is_ready(
    ready: WorkerMonitor, redis: Redis, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.zadd("unacked_index", {"held": 1, "of another worker": 1})
    held = [
        Request(
            Message(delivery_tag=tag, headers={"id": tag, "task": "celery.ping"}),
            app=consumer.app,
            task=consumer.app.Task(),
            body=((), {}, {}),
            decoded=True,
        )
        for tag in ("held", "done")
    ]
    monkeypatch.setattr(state, "reserved_requests", held)
    ready.tick()
    assert redis.zscore("unacked_index", "held") > 1
    assert redis.zscore("unacked_index", "of another worker") == 1
    assert redis.zscore("unacked_index", "done") is None


def test_a_child_whose_answer_lapsed_is_killed_and_not_sent_to(
    ready: WorkerMonitor, registry: WorkerRegistry, redis: Redis, killed: list[int]
) -> None:
    redis.delete(redis_keys.ready_key(WORKER))
    ready.tick()
    assert killed == [PID]
    assert not _worker(registry).ready


@pytest.mark.parametrize(
    ("answered", "seconds"),
    # In a container the numbers begin again with each start.
    [(True, 85), (False, 200)],
    ids=["with the number of a former one", "new"],
)
def test_a_child_that_has_not_answered_yet_is_left_to_load(
    monitor: WorkerMonitor,
    registry: WorkerRegistry,
    redis: Redis,
    clock: Clock,
    killed: list[int],
    *,
    answered: bool,
    seconds: float,
) -> None:
    if answered:
        registry.mark_ready(WORKER, 90, pid=PID)
        redis.delete(redis_keys.ready_key(WORKER))
    _tick(monitor, clock, seconds)
    assert killed == []


def test_the_word_of_a_child_that_is_gone_is_taken_back(
    monitor: WorkerMonitor, registry: WorkerRegistry
) -> None:
    registry.mark_ready(WORKER, 90, pid=PID + 1)
    monitor.tick()
    gone = _worker(registry)
    assert (gone.alive, gone.ready) == (True, False)


def test_a_child_that_is_gone_already_cannot_be_killed_and_need_not_be() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        kill_child(child.pid)
        assert child.wait(10) == -9
    kill_child(child.pid)
