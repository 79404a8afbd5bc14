"""The sender of webhooks, beside Celery's consumer of an I/O worker."""

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from celery import bootsteps

from tasks import names
from tasks.api_keys import ApiKeys
from tasks.batches.presentation import batch_data
from tasks.batches.store import BatchStore
from tasks.errors import QueueUnavailableError
from tasks.presentation import task_data
from tasks.runtime import Runtime, runtime_of
from tasks.settings import Settings
from tasks.storage import ObjectStore
from tasks.store import JobStore
from tasks.webhooks.body import Bodies, Describe
from tasks.webhooks.breaker import Breaker
from tasks.webhooks.courier import Courier
from tasks.webhooks.schedule import Schedule
from tasks.webhooks.sender import Sender

_INTERVAL_SECONDS: Final = 0.2
_REDIS_AWAY_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class WebhookStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Sends webhooks from every worker that takes from the I/O queue."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers."""
        return names.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin sending."""
        sender = make_sender(runtime_of(worker.app))
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

    def _run(self, sender: Sender) -> None:
        pause = _INTERVAL_SECONDS
        while not self._ended.wait(pause):
            pause = _INTERVAL_SECONDS
            try:
                sender.run_once()
            except QueueUnavailableError as error:
                _log.warning("webhooks.redis_away", reason=str(error))
                pause = _REDIS_AWAY_SECONDS
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _log.exception("webhooks.failed")
        sender.close()


def make_sender(runtime: Runtime) -> Sender:
    """Build the sender of a runtime."""
    settings = runtime.settings
    courier = Courier(
        runtime.deliveries,
        Breaker(runtime.redis),
        Schedule(settings.webhook_pauses, random.random),
        Bodies(descriptions(runtime.job_store, runtime.batches, runtime.object_store)),
        runtime.http_client,
        partial(signing_secrets, runtime.api_keys, settings),
        settings.webhook_connect_seconds,
        settings.webhook_seconds,
    )
    return Sender(courier, threads=settings.webhook_threads)


def descriptions(
    job_store: JobStore,
    batches: BatchStore,
    object_store: ObjectStore,
    clock: Callable[[], float] = time.time,
) -> dict[str, Describe]:
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
