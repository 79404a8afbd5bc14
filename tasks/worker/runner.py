"""One job, start to end: claim, fetch, cut out, store, write the outcome."""

import io
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import structlog

from inference.errors import InferenceError
from inference.models.base import Matting
from inference.options import Options
from inference.pipeline import Result, remove_background
from inference.probe import ImageLimits
from inference.stages import StageTimer
from tasks import keys
from tasks.errors import LeaseLostError, ObjectNotFoundError, TaskError
from tasks.jobs import Job, JobError, Status
from tasks.storage import ObjectStore
from tasks.store import Claim, JobStore
from tasks.worker.lease import LeaseKeeper

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Runner:
    """Everything a worker's process needs to run jobs, made once."""

    store: JobStore
    objects: ObjectStore
    model: Matting
    model_lock: AbstractContextManager[Any]
    limits: ImageLimits
    worker: str

    def run(self, task_id: str) -> None:
        """Run a job if its lease can be had; otherwise leave it to whoever has it.

        Raises:
            TaskError: Redis or the store went away; the job was put back, or will be by the
                reconciler once its lease has run out.
        """
        token = secrets.token_hex(8)
        outcome = self.store.claim(task_id, token=token, worker=self.worker)
        job = self.store.get(task_id)
        if outcome is not Claim.CLAIMED or job is None:
            _log.info("job.not_claimed", task_id=task_id, reason=str(outcome))
            return
        with (
            structlog.contextvars.bound_contextvars(**job.log_context(), worker=self.worker),
            LeaseKeeper(self.store, task_id, token) as lease,
        ):
            self._run_claimed(job, token, lease)

    def _run_claimed(self, job: Job, token: str, lease: LeaseKeeper) -> None:
        timer = StageTimer(before=lambda _stage: lease.check())
        try:
            result = self._cut_out(job, timer)
            key = self._store_result(job, token, result, timer)
        except LeaseLostError:
            _log.warning("job.lease_lost")
        except (InferenceError, ObjectNotFoundError) as error:
            self._fail(job, token, error, timer)
        except TaskError:
            self.store.release(job.task_id, token=token)
            raise
        except Exception as error:  # noqa: BLE001 - the job must end whatever was met
            _log.exception("job.crashed")
            self._fail(job, token, error, timer)
        else:
            self._succeed(job, token, key, result, timer)

    def _cut_out(self, job: Job, timer: StageTimer) -> Result:
        options = Options.from_dict(job.options)
        with timer("fetch"):
            original = self.objects.get(job.original_key)
        # The probe that shows an idle model to be alive must not run beside a job.
        with self.model_lock:
            return remove_background(
                original, options, self.model, limits=self.limits, stages=timer
            )

    def _store_result(self, job: Job, token: str, result: Result, timer: StageTimer) -> str:
        key = keys.result_key(job.task_id, token, result.format.value)
        with timer("store"):
            self.objects.put(
                key, io.BytesIO(result.data), len(result.data), result.format.media_type
            )
        return key

    def _succeed(self, job: Job, token: str, key: str, result: Result, timer: StageTimer) -> None:
        facts = {
            "format": result.format.value,
            "width": result.width,
            "height": result.height,
            "size": len(result.data),
        }
        timings = self._timings(job, timer)
        published = self.store.finish(
            job.task_id,
            token=token,
            status=Status.SUCCEEDED,
            result_key=key,
            timings=timings,
            **facts,
        )
        if not published:
            # Somebody else's run is the one that counts: leave nothing of this one.
            self.objects.delete(key)
            _log.warning("job.late", result="discarded")
            return
        _log.info("job.succeeded", **facts, **timings)

    def _fail(self, job: Job, token: str, error: Exception, timer: StageTimer) -> None:
        reason = explain(error)
        self.store.finish(
            job.task_id,
            token=token,
            status=Status.FAILED,
            error=reason,
            timings=self._timings(job, timer),
        )
        _log.info("job.failed", type=reason.type, reason=reason.message)

    def _timings(self, job: Job, timer: StageTimer) -> dict[str, int]:
        started = job.started_at or job.created_at
        return {"queue_ms": max(0, round((started - job.created_at) * 1000)), **timer.timings}


def explain(error: Exception) -> JobError:
    """What the caller is told; the text of an error that nobody foresaw stays in the log."""
    if isinstance(error, InferenceError):
        return JobError(error.code, str(error), error.retryable)
    if isinstance(error, ObjectNotFoundError):
        return JobError("original_missing", "The uploaded image is no longer stored.")
    return JobError(
        "internal_error", "The image could not be processed; the service's log says why.", True
    )
