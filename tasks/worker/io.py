"""The I/O worker's own work: a reconciler beside Celery's consumer."""

import threading
from typing import Any

import structlog
from celery import bootsteps

from tasks import names
from tasks.runtime import Runtime, runtime_of
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
        reconciler = _reconciler(runtime_of(worker.app))
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


def _reconciler(runtime: Runtime) -> Reconciler:
    return Reconciler(
        runtime.redis,
        runtime.job_store,
        runtime.dispatcher,
        runtime.registry,
        runtime.router,
        ageing_seconds=runtime.settings.ageing_seconds,
    )
