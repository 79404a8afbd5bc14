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
from tasks.jobs.routing import is_io_worker, is_model_worker, task_id_of_message
from tasks.jobs.store import lease_holder
from tasks.runtime import Runtime, runtime_of
from tasks.worker import monitor
from tasks.worker_registry import WorkerRegistry

#: How long the parent may take to exit once nothing runs any more.
_EXIT_SECONDS: Final = 3.0
#: Interval of the checks for children that are still loading.
_POLL_SECONDS: Final = 0.5
#: How long attempts at webhooks may go on during a shutdown.
_DELIVERY_SECONDS: Final = 3.0

_log = structlog.get_logger(__name__)


class RemovalRequest(Request):  # type: ignore[misc] # celery publishes no types
    """The parent's view of one message; releases the job's lease if the child dies.

    Celery returns the message at once when a child dies. Its next delivery would find the dead
    child's lease, and leave the job alone.
    """

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - celery's signature
        """Record a crash if the child died; the task may have raised as well."""
        # Billiard wraps an exception that comes from another process.
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, (WorkerLostError, TimeLimitExceeded, SystemExit)):
            self._record_crash()
        return super().on_failure(exc_info, *arguments, **options)

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: ANN401, FBT001 - celery's signature
        """Record a crash at the hard time limit, which kills the child."""
        if not soft:
            self._record_crash()
        return super().on_timeout(soft, timeout)

    def cancel(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - celery's signature
        """Return the job before Celery kills the child in a cold shutdown."""
        self.return_job()
        return super().cancel(*arguments, **options)

    def return_job(self) -> None:
        """Return the job to the queue; its child, which still runs it, can write no result."""
        self._release("job.handed_back", crashed=False)

    def _record_crash(self) -> None:
        """Count a crash: the child died over the job, or is about to be killed for it."""
        self._release("job.worker_died", crashed=True)

    def _release(self, event: str, *, crashed: bool) -> None:
        """Release the lease, and count a crash; raise nothing: Celery must continue."""
        task_id = task_id_of_message(self.id)
        facts = {"task_id": task_id, "worker": self.hostname, "pid": self.worker_pid}
        # Without the pid, if the child died before it was known: the worker has one child.
        holder = (
            f"{self.hostname}/"
            if self.worker_pid is None
            else lease_holder(self.hostname, self.worker_pid)
        )
        try:
            runtime = runtime_of(self.app)
            # Until the next child is ready, jobs go to other workers.
            runtime.registry.mark_not_ready(self.hostname)
            store = runtime.job_store
            # The message may name another job than the one whose turn it was.
            facts["task_id"] = task_id = store.claimed_by(holder) or task_id
            outcome = (
                store.crash(task_id, holder=holder)
                if crashed
                else store.release(task_id, token=holder)
            )
            for job in store.get_many([task_id]):
                facts |= job.log_context()
            _log.warning(event, **facts, outcome=outcome.value)
        except TaskError as error:
            # Redis does not answer, or the record is damaged. The lease expires by itself, and
            # the reconciler counts a loss.
            _log.warning("job.return_not_noted", **facts, reason=str(error))
        except Exception:  # noqa: BLE001 - see above
            _log.exception("job.return_failed", **facts)


class ShutdownStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Starts a thread that bounds how long the worker's shutdown takes."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._name = str(worker.hostname)
        self._app = worker.app
        # Asked now: a drained worker, and one that loads its model, takes from no queue.
        self._has_model = is_model_worker(worker.app)
        self._begun = threading.Event()

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - celery's signature
        """Run on model workers and I/O workers."""
        return self._has_model or is_io_worker(worker.app)

    def create(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Listen for signals, from before the pool starts."""
        worker_shutting_down.connect(self._begin, weak=False)

    def close(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Begin here too: no signal announces a shutdown by `celery control shutdown`."""
        self._begin()

    def _begin(self, **_: object) -> None:
        if self._begun.is_set():
            return
        self._begun.set()
        # Looked up here and not in the thread: the interpreter aborts if it ends while a thread of
        # this kind is in pydantic's native code.
        runtime = runtime_of(self._app)
        enforce = enforce_grace_period if self._has_model else _end_deliveries
        threading.Thread(
            target=enforce, args=(self._name, runtime), name="shutdown", daemon=True
        ).start()


def enforce_grace_period(worker: str, runtime: Runtime) -> None:
    """End a model worker within the grace period and `_EXIT_SECONDS`."""
    seconds = runtime.settings.shutdown_seconds
    _log.info("worker.ends", worker=worker, grace_seconds=seconds)
    until, ready = time.monotonic() + seconds, set[int]()
    while time.monotonic() < until:
        # Repeatedly, since the pool replaces killed children until it shuts down as well.
        _kill_loading_children(runtime.registry, worker, ready)
        time.sleep(min(_POLL_SECONDS, max(0.0, until - time.monotonic())))
    _return_running_jobs()
    _force_exit(worker)


def _end_deliveries(worker: str, runtime: Runtime) -> None:
    """End an I/O worker: its attempts at webhooks have a moment, then others make them."""
    _log.info("worker.ends", worker=worker, grace_seconds=_DELIVERY_SECONDS)
    runner = runtime.delivery_runner
    if not runner.running.wait(_DELIVERY_SECONDS):
        runner.release_all()
    # An attempt may begin while the consumer stops: it is released too.
    _force_exit(worker, last=runner.release_all)


def _force_exit(worker: str, last: Callable[[], object] = lambda: None) -> None:
    """Exit, unless the process ends by itself within `_EXIT_SECONDS`."""
    time.sleep(_EXIT_SECONDS)
    last()
    # It waits for a server that hangs. The records and the reconciler cover what it leaves.
    _log.error("worker.end_forced", worker=worker)
    os._exit(0)


def _kill_loading_children(registry: WorkerRegistry, worker: str, ready: set[int]) -> None:
    """Kill children that are still loading their model: they run no job.

    Adds to `ready` the child whose model has answered; those in it are kept.
    """
    try:
        answered, _ = registry.last_answer(worker)
    except QueueUnavailableError as error:
        _log.warning("shutdown.redis_away", reason=str(error))
        return
    ready.add(answered)
    if not state.active_requests:
        for pid in monitor.child_pids() - ready:
            _log.info("worker.load_ended", worker=worker, pid=pid)
            monitor.kill_child(pid)


def _return_running_jobs() -> None:
    """Return the running jobs to the queue, and kill the children that run them."""
    try:
        for request in _running_requests():
            _log.warning("job.outlasts_grace", message_id=request.id)
            request.return_job()
    finally:
        for pid in monitor.child_pids():
            monitor.kill_child(pid)


def _running_requests() -> list[RemovalRequest]:
    """Return the requests that a child runs or is about to get."""
    for _ in range(10):
        try:
            found = [*state.reserved_requests]
        except RuntimeError:  # the set changed during the iteration
            continue
        return [each for each in found if isinstance(each, RemovalRequest)]
    return []
