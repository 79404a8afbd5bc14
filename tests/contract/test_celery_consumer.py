"""What a worker's parent uses of Celery is there, and does what the heart's tests make of it."""

from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.asynchronous.hub import Hub

from tests.support.fake_consumer import FakeConsumer

QUEUES = ["gpu.h.0", "model.m"]


class TaskConsumer:
    """Kombu's, as far as Celery's consumer changes it."""

    def __init__(self) -> None:
        self.queues = set(QUEUES)

    def consuming_from(self, queue: str) -> bool:
        return queue in self.queues

    def add_queue(self, queue: object) -> None:
        self.queues.add(queue.name)

    def consume(self) -> None:
        pass

    def cancel_by_queue(self, queue: str) -> None:
        self.queues.discard(queue)


class RealConsumer:
    """Celery's own methods, without a connection."""

    cancel_task_queue = Consumer.cancel_task_queue
    add_task_queue = Consumer.add_task_queue

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_consumer = TaskConsumer()


def _app() -> Celery:
    app = Celery(set_as_current=False, broker="memory://")
    app.amqp.queues.select(QUEUES)
    return app


def _changed(consumer: FakeConsumer | RealConsumer, app: Celery) -> list[list[str]]:
    """What is consumed from after each change; adding and canceling twice does no more."""
    seen = []
    for change in (consumer.cancel_task_queue, consumer.add_task_queue):
        for queue in (QUEUES[0], QUEUES[0], *QUEUES[1:]):
            change(queue)
            seen.append(sorted(app.amqp.queues.consume_from))
    return seen


def test_the_fake_consumer_changes_what_is_consumed_from_as_celerys_does() -> None:
    fake, real = _app(), _app()
    seen = _changed(RealConsumer(real), real)
    assert _changed(FakeConsumer(fake), fake) == seen
    assert seen[2] == []
    assert seen[-1] == QUEUES


def test_celerys_consumer_takes_and_leaves_the_queues_themselves() -> None:
    consumer = RealConsumer(_app())
    consumer.cancel_task_queue(QUEUES[0])
    assert consumer.task_consumer.queues == {QUEUES[1]}
    consumer.add_task_queue(QUEUES[0])
    assert consumer.task_consumer.queues == set(QUEUES)


def test_a_change_is_handed_to_the_consumers_own_thread() -> None:
    calls: list[str] = []
    hub = create_autospec(Hub, instance=True)
    Consumer.call_soon(SimpleNamespace(hub=hub), calls.append, "q")
    assert calls == []
    ((change,), _) = hub.call_soon.call_args
    change()
    assert calls == ["q"]


@pytest.mark.parametrize("name", ["active_requests", "reserved_requests"])
def test_celery_knows_the_requests_in_hand(name: str) -> None:
    assert len(tuple(getattr(state, name))) == 0


@pytest.mark.parametrize("name", ["should_stop", "should_terminate"])
def test_celery_says_when_a_worker_is_to_end(name: str) -> None:
    assert getattr(state, name) is None
