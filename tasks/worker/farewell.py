"""A worker that is told to end: what it runs may end within its grace time, then it is handed back.

Celery's warm shutdown takes nothing more and waits for what runs, for ever; with a Redis that hangs
it does not even begin. Its soft shutdown always sleeps for the whole time, and blocks the process.
"""

import os
import threading
import time
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state

from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet
from tasks.runtime import Runtime, runtime_of
from tasks.worker import pool
from tasks.worker.request import RemovalRequest
from tasks.worker.startup import serves_a_model

#: Once nothing runs any more, the parent is given so long to end by itself.
LAST_SECONDS: Final = 3.0
#: It is looked so often for processes that are still loading.
_LOOK_SECONDS: Final = 0.5

_log = structlog.get_logger(__name__)


class FarewellStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """A thread of a model worker's parent, from the moment in which the parent is told to end."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._name = str(worker.hostname)
        self._app = worker.app
        self._begun = threading.Event()

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on model workers."""
        return serves_a_model(worker.app)

    def create(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """Listen for signals, from before the pool starts."""
        worker_shutting_down.connect(self._on_signal, weak=False)

    def close(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """A shutdown begins; of one by `celery control shutdown` no signal tells."""
        self._begin()

    def _on_signal(self, **_: object) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._begun.is_set():
            return
        self._begun.set()
        # Looked up here and not in the thread: the interpreter aborts if it ends while a thread of
        # this kind is in pydantic's native code.
        threading.Thread(
            target=bid_farewell,
            args=(self._name, runtime_of(self._app)),
            name="farewell",
            daemon=True,
        ).start()


def bid_farewell(worker: str, runtime: Runtime) -> None:
    """See to it that this process ends, within the grace time and `LAST_SECONDS`.

    Args:
        worker: Celery's name of it.
        runtime: how long the grace time is, and the worker registry.
    """
    seconds = runtime.settings.shutdown_seconds
    _log.info("worker.ends", worker=worker, grace_seconds=seconds)
    until, ready = time.monotonic() + seconds, set[int]()
    while time.monotonic() < until:
        # Again and again: the pool replaces what is killed, until it has heard that it is to end.
        end_loading(runtime.registry, worker, ready)
        time.sleep(min(_LOOK_SECONDS, max(0.0, until - time.monotonic())))
    hand_back_all()
    time.sleep(LAST_SECONDS)
    # It waits for a server that is silent. The record and the reconciler see to the rest.
    _log.error("worker.end_forced", worker=worker)
    os._exit(0)


def end_loading(fleet: Fleet, worker: str, ready: set[int]) -> None:
    """Kill a process that is still loading its model: nothing is lost with it.

    Args:
        fleet: knows whose model has answered.
        worker: Celery's name of it.
        ready: processes whose model is known to have answered; added to.
    """
    try:
        answered, _ = fleet.answer(worker)
    except QueueUnavailableError as error:
        _log.warning("farewell.redis_away", reason=str(error))
        return
    ready.add(answered)
    if not state.active_requests:
        for pid in pool.children() - ready:
            _log.info("worker.load_ended", worker=worker, pid=pid)
            pool.kill(pid)


def hand_back_all() -> None:
    """Hand back what is running, and end the processes that have it."""
    try:
        for request in _requests():
            _log.warning("job.outlasts_grace", message_id=request.id)
            request.hand_back()
    finally:
        for pid in pool.children():
            pool.kill(pid)


def _requests() -> list[RemovalRequest]:
    """Those accepted, and those that are on their way to a process."""
    for _ in range(10):
        try:
            found = [*state.reserved_requests]
        except RuntimeError:  # it changed meanwhile
            continue
        return [each for each in found if isinstance(each, RemovalRequest)]
    return []
