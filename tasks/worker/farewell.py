"""A worker that is told to end: what it runs may end within its grace time, then it is handed back.

Celery's warm shutdown takes nothing more and waits for what runs, for ever. Its soft shutdown, on
the other hand, always sleeps for the whole time, and blocks the process meanwhile.
"""

import threading
import time
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.worker import state

from tasks.settings import Settings
from tasks.worker.request import RemovalRequest
from tasks.worker.startup import serves_a_model

#: The process that is left looks so often whether anything runs still.
_AGAIN_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class FarewellStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """A thread of a model worker's parent, from the moment in which the parent is told to end."""

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - celery's signature
        """Only on model workers."""
        return serves_a_model(worker.app)

    def close(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Called once at the beginning of every warm shutdown, whatever asked for it."""
        seconds = Settings.load().shutdown_seconds
        _log.info("worker.ends", worker=worker.hostname, grace_seconds=seconds)
        threading.Thread(target=_run, args=(seconds,), name="farewell", daemon=True).start()


def _run(seconds: float) -> None:
    time.sleep(seconds)
    while True:  # It ends with its process.
        try:
            hand_back_running()
        except Exception:  # noqa: BLE001 - the worker must end whatever was met
            _log.exception("farewell.failed")
        time.sleep(_AGAIN_SECONDS)


def hand_back_running() -> None:
    """Hand every running removal back, and end the process that has it."""
    for request in tuple(state.active_requests):
        if isinstance(request, RemovalRequest):
            _log.warning("job.outlasts_grace", message_id=request.id)
            request.hand_back()
            request.kill_process()
