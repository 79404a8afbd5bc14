"""The I/O worker's own work: a reconciler beside Celery's consumer."""

import threading
from typing import Any

import structlog
from celery import Celery, bootsteps

from tasks import names
from tasks.connection import connect
from tasks.dispatch import Dispatcher
from tasks.fleet import Fleet
from tasks.routing import Router
from tasks.settings import Settings
from tasks.store import JobStore
from tasks.worker.reconcile import INTERVAL_SECONDS, Reconciler

_log = structlog.get_logger(__name__)


class ReconcilerStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs the reconciler in every worker that takes from the I/O queue."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers; a model worker has one job."""
        return names.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin reconciling."""
        reconciler = _reconciler(worker.app, Settings.load())
        self._thread = threading.Thread(
            target=self._run, args=(reconciler,), name="reconciler", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End after the pass that is running."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=INTERVAL_SECONDS)

    terminate = stop

    def _run(self, reconciler: Reconciler) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            try:
                reconciler.run_once()
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _log.exception("reconciler.failed")


def _reconciler(app: Celery, settings: Settings) -> Reconciler:
    client = connect(settings.redis_url.get_secret_value())
    store, fleet = JobStore(client), Fleet(client)
    router = Router(client, fleet, routing=settings.routing)
    return Reconciler(
        client,
        store,
        Dispatcher(app, store),
        fleet,
        router,
        ageing_seconds=settings.ageing_seconds,
    )
