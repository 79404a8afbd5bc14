"""Graceful shutdown, and what the parent does about a job whose child died.

On SIGTERM the running job may finish within the grace period; then it returns to the queue.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state
from celery.worker.request import Request

from tasks.errors import QueueUnavailableError, TaskError
from tasks.ids import lease_holder
from tasks.jobs.routing import is_io_worker, task_id_of_message
from tasks.jobs.store import JobStore, ReleaseOutcome
from tasks.runtime import Runtime, runtime_of
from tasks.worker import monitor
from tasks.worker.startup import serves_a_model
from tasks.worker_registry import WorkerRegistry

_request_log = structlog.get_logger(__name__)


class RemovalRequest(Request):  # type: ignore[misc] # celery publishes no types
    """Runs in the worker's parent, one for each message.

    Celery gives the message back at once when a child dies. Without this, the next delivery would
    meet the dead child's lease and leave.
    """

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - celery's signature
        """A child died, or the task raised."""
        # Billiard wraps what it carries from one process to another.
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, (WorkerLostError, TimeLimitExceeded, SystemExit)):
            self._note_crash()
        return super().on_failure(exc_info, *arguments, **options)

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: ANN401, FBT001 - the same
        """The time limit: the hard one kills the child."""
        if not soft:
            self._note_crash()
        return super().on_timeout(soft, timeout)

    def cancel(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the same
        """Celery ends the child in a hurry: a cold shutdown."""
        self.hand_back()
        return super().cancel(*arguments, **options)

    def hand_back(self) -> None:
        """Put the job back, though its child is still at it; that one can write nothing more."""
        self._put_back(
            "job.handed_back", lambda store, holder: store.release(self._job, token=holder)
        )

    def _note_crash(self) -> None:
        """The child died over the job, or is about to be killed for it."""
        self._put_back(
            "job.worker_died", lambda store, holder: store.crash(self._job, holder=holder)
        )

    def _put_back(self, event: str, change: Callable[[JobStore, str], ReleaseOutcome]) -> None:
        """Whatever is met here, Celery must go on: it has a message to give back."""
        facts = {"task_id": self._job, "worker": self.hostname, "pid": self.worker_pid}
        try:
            runtime = runtime_of(self.app)
            # Until the next child is ready, others are to be preferred.
            runtime.registry.withdraw(self.hostname)
            store = runtime.job_store
            outcome = change(store, self._holder())
            _request_log.warning(event, **{**facts, **self._known(store)}, outcome=outcome.value)
        except TaskError as error:
            # Redis is away, or the record cannot be read. The lease will run out by itself, and
            # the reconciler will count a loss.
            _request_log.warning("job.return_not_noted", **facts, reason=str(error))
        except Exception:  # noqa: BLE001 - see above
            _request_log.exception("job.return_failed", **facts)

    def _known(self, store: JobStore) -> dict[str, Any]:
        """What the log tells of a job; no more than its id if its record cannot be read."""
        found = store.get_many([self._job])
        return found[0].log_context() if found else {}

    @property
    def _job(self) -> str:
        return task_id_of_message(self.id)

    def _holder(self) -> str:
        """Whose lease it is.

        A child that dies within milliseconds takes the news of its pid with it. The worker has but
        one child, so its name alone says it.
        """
        if self.worker_pid is None:
            return f"{self.hostname}/"
        return lease_holder(self.hostname, self.worker_pid)


#: Once nothing runs any more, the parent is given so long to end by itself.
EXIT_SECONDS: Final = 3.0

#: It is looked so often for processes that are still loading.
_POLL_SECONDS: Final = 0.5

#: Attempts at webhooks that a shutdown meets may end within this time.
_DELIVERY_SECONDS: Final = 3.0

_log = structlog.get_logger(__name__)


class ShutdownStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Starts a thread, once the worker is told to end, that bounds how long that takes."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._name = str(worker.hostname)
        self._app = worker.app
        self._begun = threading.Event()

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - celery's signature
        """Run on model workers and I/O workers."""
        return serves_a_model(worker.app) or is_io_worker(worker.app)

    def create(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Listen for signals, from before the pool starts."""
        worker_shutting_down.connect(self._on_signal, weak=False)

    def close(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Begin here too: no signal announces a shutdown by `celery control shutdown`."""
        self._begin()

    def _on_signal(self, **_: object) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._begun.is_set():
            return
        self._begun.set()
        # Looked up here and not in the thread: the interpreter aborts if it ends while a thread of
        # this kind is in pydantic's native code.
        runtime = runtime_of(self._app)
        enforce = enforce_grace_period if serves_a_model(self._app) else end_deliveries
        threading.Thread(
            target=enforce, args=(self._name, runtime), name="shutdown", daemon=True
        ).start()


def enforce_grace_period(worker: str, runtime: Runtime) -> None:
    """End a model worker within the grace period and `EXIT_SECONDS`.

    Args:
        worker: Celery's name of it.
        runtime: how long the grace period is, and the worker registry.
    """
    seconds = runtime.settings.shutdown_seconds
    _log.info("worker.ends", worker=worker, grace_seconds=seconds)
    until, ready = time.monotonic() + seconds, set[int]()
    while time.monotonic() < until:
        # Again and again: the pool replaces what is killed, until it has heard that it is to end.
        kill_loading_children(runtime.registry, worker, ready)
        time.sleep(min(_POLL_SECONDS, max(0.0, until - time.monotonic())))
    return_running_jobs()
    _force_exit(worker)


def end_deliveries(worker: str, runtime: Runtime) -> None:
    """End an I/O worker: its attempts at webhooks have a moment, then others make them.

    Args:
        worker: Celery's name of it.
        runtime: runs the attempts.
    """
    _log.info("worker.ends", worker=worker, grace_seconds=_DELIVERY_SECONDS)
    runner = runtime.delivery_runner
    if not runner.running.wait(_DELIVERY_SECONDS):
        runner.release_all()
    _force_exit(worker)


def _force_exit(worker: str) -> None:
    """Exit, unless the process ends by itself within `EXIT_SECONDS`."""
    time.sleep(EXIT_SECONDS)
    # It waits for a server that is silent. The record and the reconciler see to the rest.
    _log.error("worker.end_forced", worker=worker)
    os._exit(0)


def kill_loading_children(fleet: WorkerRegistry, worker: str, ready: set[int]) -> None:
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
        for pid in monitor.child_pids() - ready:
            _log.info("worker.load_ended", worker=worker, pid=pid)
            monitor.kill_child(pid)


def return_running_jobs() -> None:
    """Hand back what is running, and end the processes that have it."""
    try:
        for request in _running_requests():
            _log.warning("job.outlasts_grace", message_id=request.id)
            request.hand_back()
    finally:
        for pid in monitor.child_pids():
            monitor.kill_child(pid)


def _running_requests() -> list[RemovalRequest]:
    """Those accepted, and those that are on their way to a process."""
    for _ in range(10):
        try:
            found = [*state.reserved_requests]
        except RuntimeError:  # it changed meanwhile
            continue
        return [each for each in found if isinstance(each, RemovalRequest)]
    return []
