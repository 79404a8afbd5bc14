"""A consumer for a heart's tests; contract/test_celery_consumer.py holds it to Celery's own."""

from collections.abc import Callable

from celery import Celery


class FakeConsumer:
    """Celery's, as far as a heart sees it: what it is told, its own thread does later, or never."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.told: list[str] = []
        self.deaf = False
        self.calls = 0

    def call_soon(self, change: Callable[..., None], *arguments: object) -> None:
        """Celery's promises no order among several calls."""
        self.calls += 1
        if not self.deaf:
            change(*arguments)

    def cancel_task_queue(self, queue: str) -> None:
        self._app.amqp.queues.deselect(queue)
        self.told.append(f"-{queue}")

    def add_task_queue(self, queue: str) -> None:
        self._app.amqp.queues.select_add(self._app.amqp.queues[queue])
        self.told.append(f"+{queue}")
