"""Counts Celery's events for those who know Celery's metrics; lossy, and no truth hangs on it."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from celery import bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import names
from tasks.meters import Meters, meters
from tasks.settings import Settings

#: A worker whose last heartbeat is older counts as gone.
_SILENT_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 2.0
_TASK_EVENTS: Final = frozenset(
    {
        "task-sent",
        "task-received",
        "task-started",
        "task-succeeded",
        "task-failed",
        "task-rejected",
        "task-retried",
        "task-revoked",
    }
)

_log = structlog.get_logger(__name__)


class EventCounter:
    """Turns events into counts. Its labels come from workers, never from a client."""

    def __init__(self, counted: Meters) -> None:
        self._meters = counted
        self._seen: dict[str, float] = {}

    def count(self, event: Mapping[str, Any]) -> None:
        """One event, as Celery gives it."""
        kind, host = str(event.get("type")), str(event.get("hostname", ""))
        if kind in _TASK_EVENTS:
            self._meters.celery_events.labels(kind.removeprefix("task-"), host).inc()
        if kind == "task-succeeded":
            self._meters.celery_runtime.labels(host).observe(float(event.get("runtime") or 0))
        if kind.startswith("worker-"):
            self._note(host, online=kind != "worker-offline")

    def _note(self, host: str, *, online: bool) -> None:
        now = time.monotonic()
        self._seen[host] = now if online else 0.0
        for each, seen in self._seen.items():
            self._meters.celery_worker_up.labels(each).set(now - seen < _SILENT_SECONDS)


class EventsStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """A thread of the I/O worker that listens to all workers' events."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._receiver: Any = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers, and only if asked for."""
        return Settings.load().celery_metrics and (
            names.IO_QUEUE in worker.app.amqp.queues.consume_from
        )

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin to listen."""
        threading.Thread(
            target=self._run, args=(worker.app,), name="celery-events", daemon=True
        ).start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """Listen no more."""
        self._ended.set()
        if self._receiver is not None:
            self._receiver.should_stop = True

    terminate = stop

    def _run(self, app: Any) -> None:  # noqa: ANN401 - the same
        counter = EventCounter(meters())
        while not self._ended.is_set():
            try:
                self._listen(app, counter)
            except (OperationalError, RedisError, OSError) as error:
                _log.warning("events.broker_away", reason=str(error))
            self._ended.wait(_PAUSE_SECONDS)

    def _listen(self, app: Any, counter: EventCounter) -> None:  # noqa: ANN401 - the same
        with app.connection_for_read() as connection:
            self._receiver = app.events.Receiver(connection, handlers={"*": counter.count}, app=app)
            self._receiver.capture(limit=None, timeout=None, wakeup=False)
