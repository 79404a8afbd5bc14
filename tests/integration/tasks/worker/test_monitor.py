"""The parent's beats: what it makes of a drain, and of the process that has the model."""

import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from redis import Redis

from tasks import redis_keys
from tasks.app import create_celery
from tasks.redis_client import connect
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker.monitor import LivenessTimeout, WorkerMonitor
from tasks.worker_registry import Worker, WorkerRegistry
from tests.support.clock import Clock
from tests.support.fake_consumer import FakeConsumer

WORKER = "gpu0@h"
QUEUES = ["gpu.h.0", "model.m"]


@pytest.fixture
def settings(server_settings: dict[str, object]) -> Settings:
    return Settings.load(**server_settings)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with create_celery(settings) as app:
        app.amqp.queues.select(QUEUES)
        yield app


@pytest.fixture
def consumer(app: Celery) -> FakeConsumer:
    return FakeConsumer(app)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


def _runtime(client: Redis) -> Runtime:
    return Runtime(Settings.load().model_copy(update={"model": "m"}), redis=client)


@pytest.fixture
def monitor(
    client: Redis,
    app: Celery,
    consumer: FakeConsumer,
    clock: Clock,
    child: subprocess.Popen[bytes],
) -> WorkerMonitor:
    """Of a worker whose pool has one process."""
    worker = SimpleNamespace(hostname=WORKER, app=app, consumer=consumer)
    timeout = LivenessTimeout(90, 6, clock=clock)
    monitor = WorkerMonitor(_runtime(client), worker, timeout, children=lambda: {child.pid})
    monitor.pause_consuming()
    return monitor


@pytest.fixture
def ready(
    monitor: WorkerMonitor, client: Redis, child: subprocess.Popen[bytes], clock: Clock
) -> WorkerMonitor:
    """Its process has answered, and it has been well for longer than an answer counts."""
    WorkerRegistry(client).mark_ready(WORKER, 90, model="m", pid=child.pid)
    for _ in range(50):
        monitor.tick()
        clock.now += 2
    return monitor


def _worker(client: Redis) -> Worker:
    (worker,) = WorkerRegistry(client).workers()
    return worker


def test_a_worker_takes_nothing_before_its_model_answers(
    monitor: WorkerMonitor, client: Redis, app: Celery, child: subprocess.Popen[bytes]
) -> None:
    monitor.tick()
    assert dict(app.amqp.queues.consume_from) == {}
    WorkerRegistry(client).mark_ready(WORKER, 90, model="m", pid=child.pid)
    monitor.tick()
    assert sorted(app.amqp.queues.consume_from) == QUEUES


def test_a_worker_whose_child_died_takes_nothing_until_the_next_one_answers(
    client: Redis, app: Celery, consumer: FakeConsumer, clock: Clock
) -> None:
    children = {7}
    worker = SimpleNamespace(hostname=WORKER, app=app, consumer=consumer)
    monitor = WorkerMonitor(
        _runtime(client), worker, LivenessTimeout(90, 6, clock=clock), children=lambda: children
    )
    monitor.pause_consuming()
    registry = WorkerRegistry(client)
    registry.mark_ready(WORKER, 90, model="m", pid=7)
    monitor.tick()
    assert sorted(app.amqp.queues.consume_from) == QUEUES
    children = {8}
    monitor.tick()
    assert dict(app.amqp.queues.consume_from) == {}
    registry.mark_ready(WORKER, 90, model="m", pid=8)
    monitor.tick()
    assert sorted(app.amqp.queues.consume_from) == QUEUES


def test_a_worker_whose_answers_are_not_heard_goes_on_taking(
    ready: WorkerMonitor, client: Redis, app: Celery
) -> None:
    client.flushdb()
    ready.tick()
    assert sorted(app.amqp.queues.consume_from) == QUEUES


def test_a_drained_worker_is_asked_until_it_heeds(
    ready: WorkerMonitor, client: Redis, app: Celery, consumer: FakeConsumer
) -> None:
    consumer.changes.clear()
    WorkerRegistry(client).drain(WORKER, "new fan")
    consumer.deaf = True
    ready.tick()
    assert sorted(app.amqp.queues.consume_from) == QUEUES
    consumer.deaf = False
    ready.tick()
    assert dict(app.amqp.queues.consume_from) == {}
    ready.tick()
    assert consumer.changes == ["-gpu.h.0", "-model.m"]


def test_an_undrained_worker_is_asked_until_it_heeds(
    ready: WorkerMonitor, client: Redis, app: Celery, consumer: FakeConsumer
) -> None:
    WorkerRegistry(client).drain(WORKER, "new fan")
    ready.tick()
    WorkerRegistry(client).undrain(WORKER)
    consumer.changes.clear()
    consumer.deaf = True
    ready.tick()
    consumer.deaf = False
    ready.tick()
    assert sorted(app.amqp.queues.consume_from) == QUEUES
    assert consumer.changes == ["+gpu.h.0", "+model.m"]


def test_its_own_queue_is_looked_into_first(ready: WorkerMonitor, consumer: FakeConsumer) -> None:
    ready.tick()
    assert consumer.changes == ["+gpu.h.0", "+model.m"]
    assert consumer.calls == 1, "several might be made in any order"


def test_a_worker_that_has_no_consumer_yet_beats_all_the_same(
    client: Redis, app: Celery, clock: Clock
) -> None:
    worker = SimpleNamespace(hostname=WORKER, app=app, consumer=None)
    WorkerRegistry(client).drain(WORKER, "new fan")
    WorkerMonitor(
        _runtime(client), worker, LivenessTimeout(90, 6, clock=clock), children=set
    ).tick()
    assert _worker(client).alive


def test_a_child_whose_answer_lapsed_is_killed_and_not_sent_to(
    ready: WorkerMonitor, client: Redis, child: subprocess.Popen[bytes]
) -> None:
    assert child.poll() is None
    client.delete(redis_keys.ready_key(WORKER))
    ready.tick()
    assert child.wait(10) != 0
    assert not _worker(client).ready


def test_a_child_whose_answer_lapsed_in_an_outage_is_given_time(
    ready: WorkerMonitor, client: Redis, child: subprocess.Popen[bytes], clock: Clock
) -> None:
    client.delete(redis_keys.ready_key(WORKER))
    clock.now += 300
    for _ in range(44):
        clock.now += 2
        ready.tick()
    assert child.poll() is None
    clock.now += 5
    ready.tick()
    assert child.wait(10) != 0


def test_a_child_of_the_number_of_a_former_one_is_left_to_load(
    monitor: WorkerMonitor, client: Redis, child: subprocess.Popen[bytes], clock: Clock
) -> None:
    """In a container the numbers begin again with each start."""
    WorkerRegistry(client).mark_ready(WORKER, 90, model="m", pid=child.pid)
    client.delete(redis_keys.ready_key(WORKER))
    for _ in range(40):
        clock.now += 2
        monitor.tick()
    assert child.poll() is None


def test_a_child_that_has_not_answered_yet_is_left_to_load(
    monitor: WorkerMonitor, child: subprocess.Popen[bytes], clock: Clock
) -> None:
    for _ in range(100):
        clock.now += 2
        monitor.tick()
    assert child.poll() is None


def test_the_word_of_a_child_that_is_gone_is_taken_back(
    monitor: WorkerMonitor, client: Redis
) -> None:
    WorkerRegistry(client).mark_ready(WORKER, 90, model="m", pid=os.getpid())
    monitor.tick()
    gone = _worker(client)
    assert (gone.alive, gone.ready) == (True, False)
