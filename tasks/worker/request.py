"""Tells the records when a worker's process died over a job, before its message comes back."""

from collections.abc import Callable
from typing import Any

import structlog
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request

from tasks import keys
from tasks.dispatch import job_id_of
from tasks.errors import TaskError
from tasks.runtime import runtime_of
from tasks.store import JobStore, Returned

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

    def _put_back(self, event: str, change: Callable[[JobStore, str], Returned]) -> None:
        """Whatever is met here, Celery must go on: it has a message to give back."""
        facts = {"task_id": self._job, "worker": self.hostname, "pid": self.worker_pid}
        try:
            runtime = runtime_of(self.app)
            # Until the next child is ready, others are to be preferred.
            runtime.registry.withdraw(self.hostname)
            store = runtime.job_store
            outcome = change(store, self._holder())
            _log.warning(event, **{**facts, **self._known(store)}, outcome=outcome.value)
        except TaskError as error:
            # Redis is away, or the record cannot be read. The lease will run out by itself, and
            # the reconciler will count a loss.
            _log.warning("job.return_not_noted", **facts, reason=str(error))
        except Exception:  # noqa: BLE001 - see above
            _log.exception("job.return_failed", **facts)

    def _known(self, store: JobStore) -> dict[str, Any]:
        """What the log tells of a job; no more than its id if its record cannot be read."""
        found = store.get_many([self._job])
        return found[0].log_context() if found else {}

    @property
    def _job(self) -> str:
        return job_id_of(self.id)

    def _holder(self) -> str:
        """Whose lease it is.

        A child that dies within milliseconds takes the news of its pid with it. The worker has but
        one child, so its name alone says it.
        """
        if self.worker_pid is None:
            return f"{self.hostname}/"
        return keys.lease_holder(self.hostname, self.worker_pid)
