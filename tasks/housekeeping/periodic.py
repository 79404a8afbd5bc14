"""The I/O worker's periodic work: reconciling, retention, duplicates and due webhooks."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import structlog
from celery import bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.accounts.api_keys import ApiKeys
from tasks.errors import QueueUnavailableError, TaskError
from tasks.housekeeping.reconcile import RECONCILE_SECONDS, Reconciler
from tasks.housekeeping.retention import SWEEP_SECONDS, RetentionSweeper
from tasks.jobs import routing
from tasks.jobs.batches import BatchStore
from tasks.jobs.dedup import DuplicateCompleter
from tasks.jobs.serializers import batch_data, task_data
from tasks.jobs.store import JobStore
from tasks.metrics.instruments import Instruments, instruments
from tasks.runtime import Runtime, runtime_of
from tasks.settings import Settings
from tasks.storage.object_store import ObjectStore
from tasks.webhooks.attempt import DeliveryRunner, PayloadData, PayloadRenderer
from tasks.webhooks.dispatcher import WebhookDispatcher
from tasks.webhooks.retry import HostBreaker, RetryPolicy

_reconciler_log = structlog.get_logger(__name__)


class ReconcilerStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs the reconciler in every worker that takes from the I/O queue."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers; a model worker has one job."""
        return routing.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin reconciling."""
        reconciler = _make_reconciler(runtime_of(worker.app))
        self._thread = threading.Thread(
            target=self._run, args=(reconciler,), name="reconciler", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End after the pass that is running."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=RECONCILE_SECONDS)

    terminate = stop

    def _run(self, reconciler: Reconciler) -> None:
        while not self._ended.wait(RECONCILE_SECONDS):
            try:
                reconciler.run_once()
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _reconciler_log.exception("reconciler.failed")


def _make_reconciler(runtime: Runtime) -> Reconciler:
    return Reconciler(
        runtime.redis,
        runtime.job_store,
        runtime.dispatcher,
        runtime.registry,
        runtime.router,
        ageing_seconds=runtime.settings.ageing_seconds,
    )


_retention_log = structlog.get_logger(__name__)


class RetentionStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Sweeps in every worker that takes from the I/O queue; a lock lets one at a time do so."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers; a model worker has one job."""
        return routing.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin sweeping."""
        sweeper = RetentionSweeper.from_runtime(runtime_of(worker.app))
        self._thread = threading.Thread(
            target=self._run, args=(sweeper,), name="retention", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End; a pass that is cut short is made again."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    terminate = stop

    def _run(self, sweeper: RetentionSweeper) -> None:
        while not self._ended.wait(SWEEP_SECONDS):
            try:
                sweeper.run_once()
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _retention_log.exception("retention.failed")


#: How long a duplicate waits after its primary has ended, at most.
_DUPLICATES_SECONDS: Final = 0.2

#: The pause after Redis or the store did not answer.
_DUPLICATES_PAUSE_SECONDS: Final = 2.0

_duplicates_log = structlog.get_logger(__name__)


class DuplicatesStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs the settler in every worker that takes from the I/O queue."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers."""
        return routing.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin settling."""
        settler = _make_completer(runtime_of(worker.app))
        self._thread = threading.Thread(
            target=self._run, args=(settler,), name="settler", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End after the pass that is running."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=_DUPLICATES_PAUSE_SECONDS)

    terminate = stop

    def _run(self, settler: DuplicateCompleter) -> None:
        pause = _DUPLICATES_SECONDS
        while not self._ended.wait(pause):
            pause = _DUPLICATES_SECONDS
            try:
                settler.run_once()
            except TaskError as error:
                _duplicates_log.warning("settler.away", reason=str(error))
                pause = _DUPLICATES_PAUSE_SECONDS
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _duplicates_log.exception("settler.failed")
                pause = _DUPLICATES_PAUSE_SECONDS


def _make_completer(runtime: Runtime) -> DuplicateCompleter:
    return DuplicateCompleter(
        runtime.redis,
        runtime.job_store,
        runtime.object_store,
        runtime.dispatcher,
        runtime.router,
    )


_WEBHOOK_SECONDS: Final = 0.2

_REDIS_AWAY_SECONDS: Final = 1.0

_webhooks_log = structlog.get_logger(__name__)


class WebhookStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Sends webhooks from every worker that takes from the I/O queue."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers."""
        return routing.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin sending."""
        sender = make_dispatcher(runtime_of(worker.app))
        self._thread = threading.Thread(
            target=self._run, args=(sender,), name="webhooks", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """Begin nothing more; what runs is brought to its end, or claimed again by others."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=_REDIS_AWAY_SECONDS)

    terminate = stop

    def _run(self, sender: WebhookDispatcher) -> None:
        pause = _WEBHOOK_SECONDS
        while not self._ended.wait(pause):
            pause = _WEBHOOK_SECONDS
            try:
                sender.run_once()
            except QueueUnavailableError as error:
                _webhooks_log.warning("webhooks.redis_away", reason=str(error))
                pause = _REDIS_AWAY_SECONDS
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _webhooks_log.exception("webhooks.failed")
        sender.close()


def make_dispatcher(runtime: Runtime) -> WebhookDispatcher:
    """Build the sender of a runtime."""
    settings = runtime.settings
    courier = DeliveryRunner(
        runtime.deliveries,
        HostBreaker(runtime.redis),
        RetryPolicy(settings.webhook_pauses, random.random),
        PayloadRenderer(payload_data(runtime.job_store, runtime.batches, runtime.object_store)),
        runtime.http_client,
        partial(signing_secrets, runtime.api_keys, settings),
        settings.webhook_connect_seconds,
        settings.webhook_seconds,
    )
    return WebhookDispatcher(courier, threads=settings.webhook_threads)


def payload_data(
    job_store: JobStore,
    batches: BatchStore,
    object_store: ObjectStore,
    clock: Callable[[], float] = time.time,
) -> dict[str, PayloadData]:
    """Return, for each kind of subject, the function that renders its data."""

    def describe_task(task_id: str) -> dict[str, Any] | None:
        job = job_store.get(task_id)
        return None if job is None else task_data(job, object_store, clock())

    def describe_batch(batch_id: str) -> dict[str, Any] | None:
        batch = batches.get(batch_id)
        if batch is None:
            return None
        jobs = {job.task_id: job for job in job_store.get_many(batch.task_ids)}
        return batch_data(batch, jobs, clock())

    return {"task": describe_task, "batch": describe_batch}


def signing_secrets(
    api_keys: ApiKeys, settings: Settings, owner_id: str, now: float
) -> tuple[str, ...]:
    """The secrets of an owner; of anybody, the service's own."""
    if not owner_id:
        secret = settings.webhook_secret
        return (secret.get_secret_value(),) if secret else ()
    owner = api_keys.get(owner_id)
    return owner.signing_secrets(now) if owner else ()


#: A worker whose last heartbeat is older counts as gone.
_WORKER_GONE_SECONDS: Final = 10.0

_EVENTS_PAUSE_SECONDS: Final = 2.0

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

_events_log = structlog.get_logger(__name__)


class CeleryEventCounter:
    """Turns events into counts. Its labels come from workers, never from a client."""

    def __init__(self, counted: Instruments) -> None:
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
            self._meters.celery_worker_up.labels(each).set(now - seen < _WORKER_GONE_SECONDS)


class CeleryEventsStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """A thread of the I/O worker that listens to all workers' events."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._receiver: Any = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers, and only if asked for."""
        return Settings.load().celery_metrics and (
            routing.IO_QUEUE in worker.app.amqp.queues.consume_from
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
        counter = CeleryEventCounter(instruments())
        while not self._ended.is_set():
            try:
                self._listen(app, counter)
            except (OperationalError, RedisError, OSError) as error:
                _events_log.warning("events.broker_away", reason=str(error))
            self._ended.wait(_EVENTS_PAUSE_SECONDS)

    def _listen(self, app: Any, counter: CeleryEventCounter) -> None:  # noqa: ANN401 - the same
        with app.connection_for_read() as connection:
            self._receiver = app.events.Receiver(connection, handlers={"*": counter.count}, app=app)
            self._receiver.capture(limit=None, timeout=None, wakeup=False)
