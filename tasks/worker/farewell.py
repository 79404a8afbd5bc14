"""SIGTERM: the running job may end within its grace time; then it is handed back to the queue.

Celery's warm shutdown takes nothing more and waits for what runs, for ever. Its soft shutdown, on
the other hand, always sleeps for the whole time, and blocks the process meanwhile.
"""

import threading
from typing import Any

import structlog
from celery.signals import worker_shutting_down
from celery.worker import state

from tasks.settings import Settings
from tasks.worker.request import RemovalRequest

_log = structlog.get_logger(__name__)


@worker_shutting_down.connect
def _begin_farewell(sender: str | None = None, how: str = "", **_: Any) -> None:  # noqa: ANN401 - Celery's signal signature
    """Called by the signal's handler, in the parent: what takes time is another thread's."""
    if how != "Warm":
        return  # Celery cancels what runs by itself.
    seconds = Settings.load().shutdown_seconds
    timer = threading.Timer(seconds, hand_back_running, [seconds])
    timer.name, timer.daemon = "farewell", True
    timer.start()
    _log.info("worker.ends", worker=sender, grace_seconds=seconds)


def hand_back_running(seconds: float) -> None:
    """Hand every running removal back, and end the process that has it."""
    for request in tuple(state.active_requests):
        if isinstance(request, RemovalRequest):
            _log.warning("job.outlasts_grace", message_id=request.id, grace_seconds=seconds)
            request.hand_back()
            request.kill_process()
