"""Tells the records when a worker's process died over a job, before its message comes back."""

from typing import Any

import structlog
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request

from tasks import keys
from tasks.dispatch import job_id_of
from tasks.errors import QueueUnavailableError
from tasks.settings import Settings
from tasks.store import JobStore, connect

_log = structlog.get_logger(__name__)


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
            self._release_lease()
        return super().on_failure(exc_info, *arguments, **options)

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: ANN401, FBT001 - the same
        """The time limit: the hard one kills the child."""
        if not soft:
            self._release_lease()
        return super().on_timeout(soft, timeout)

    def _release_lease(self) -> None:
        task_id, pid = job_id_of(self.id), self.worker_pid
        # A child that dies within milliseconds takes the news of its pid with it. The worker has
        # but one child, so its name alone says whose lease it was.
        holder = f"{self.hostname}/" if pid is None else keys.lease_holder(self.hostname, pid)
        try:
            store = JobStore(connect(Settings.load().redis_url.get_secret_value()))
            outcome = store.crash(task_id, holder=holder)
            job = store.get(task_id)
        except QueueUnavailableError as error:
            # The lease will run out by itself, and the reconciler will count a loss.
            _log.warning("job.crash_not_noted", task_id=task_id, reason=str(error))
        else:
            known = job.log_context() if job else {"task_id": task_id}
            _log.warning(
                "job.worker_died", **known, worker=self.hostname, pid=pid, outcome=outcome.value
            )
