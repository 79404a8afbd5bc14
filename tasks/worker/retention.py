"""The sweeper, as a part of the I/O worker."""

import threading
from typing import Any

import structlog
from celery import bootsteps

from tasks import names
from tasks.retention.sweeper import INTERVAL_SECONDS, Sweeper
from tasks.runtime import runtime_of

_log = structlog.get_logger(__name__)


class RetentionStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Sweeps in every worker that takes from the I/O queue; a lock lets one at a time do so."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers; a model worker has one job."""
        return names.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin sweeping."""
        sweeper = Sweeper.from_runtime(runtime_of(worker.app))
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

    def _run(self, sweeper: Sweeper) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            try:
                sweeper.run_once()
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _log.exception("retention.failed")
