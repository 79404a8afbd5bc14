"""The I/O worker's thread that settles the followers of jobs that have ended.

Not the model's worker: its GPU would wait while the results are copied.
"""

import threading
from typing import Any, Final

import structlog
from celery import bootsteps

from tasks import names
from tasks.errors import TaskError
from tasks.runtime import Runtime, runtime_of
from tasks.twins import Settler

#: How long a duplicate waits after its primary has ended, at most.
_INTERVAL_SECONDS: Final = 0.2
#: The pause after Redis or the store did not answer.
_PAUSE_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class SettlerStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs the settler in every worker that takes from the I/O queue."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on I/O workers."""
        return names.IO_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin settling."""
        settler = _settler(runtime_of(worker.app))
        self._thread = threading.Thread(
            target=self._run, args=(settler,), name="settler", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End after the pass that is running."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=_PAUSE_SECONDS)

    terminate = stop

    def _run(self, settler: Settler) -> None:
        pause = _INTERVAL_SECONDS
        while not self._ended.wait(pause):
            pause = _INTERVAL_SECONDS
            try:
                settler.run_once()
            except TaskError as error:
                _log.warning("settler.away", reason=str(error))
                pause = _PAUSE_SECONDS
            except Exception:  # noqa: BLE001 - it must outlive whatever one pass met
                _log.exception("settler.failed")
                pause = _PAUSE_SECONDS


def _settler(runtime: Runtime) -> Settler:
    return Settler(
        runtime.redis,
        runtime.job_store,
        runtime.object_store,
        runtime.dispatcher,
        runtime.router,
    )
