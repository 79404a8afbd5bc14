"""A consumer for tests of the monitor; test_celery_consumer.py compares it with Celery's."""

from collections.abc import Callable

from celery import Celery


class FakeConsumer:
    """Celery's consumer as the monitor sees it: it applies requests later, or never."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.changes: list[str] = []
        self.deaf = False
        self.calls = 0

    def call_soon(self, change: Callable[..., None], *arguments: object) -> None:
        """Celery's promises no order among several calls."""
        self.calls += 1
        if not self.deaf:
            change(*arguments)

    def cancel_task_queue(self, queue: str) -> None:
        self._app.amqp.queues.deselect(queue)
        self.changes.append(f"-{queue}")

    def add_task_queue(self, queue: str) -> None:
        self._app.amqp.queues.select_add(self._app.amqp.queues[queue])
        self.changes.append(f"+{queue}")
