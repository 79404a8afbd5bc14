"""Run one job in the child process: claim, cut out, store, finish."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import structlog
from billiard import pool
from billiard.exceptions import SoftTimeLimitExceeded

from inference.errors import InferenceError
from inference.models.base import MattingModel
from inference.options import Options
from inference.pipeline import Result, remove_background
from inference.probe import ImageLimits
from inference.stages import StageTimer
from tasks.errors import LeaseLostError, ObjectNotFoundError, TaskError
from tasks.ids import lease_holder, lease_token
from tasks.jobs.model import Job, JobError, Status
from tasks.jobs.store import Claim, JobStore, ReleaseOutcome
from tasks.storage import object_keys
from tasks.storage.object_store import ObjectStore
from tasks.tracing import span
from tasks.worker.lease import LeaseKeeper
from tasks.worker.metrics import MeteredStageTimer
from tasks.worker.readiness import GPU_FAULT, OUT_OF_MEMORY
from tasks.worker_registry import WorkerRegistry

_soft_limit_log = structlog.get_logger(__name__)


@contextmanager
def soft_limit_deferred() -> Iterator[None]:
    """For steps that are short, and whose own timeouts bound them; in a main thread only.

    The soft limit is a signal whose handler raises. In the middle of a PUT that leaves an object
    which the store may finish after whatever was done to remove it. Once the block has run to its
    end there is nothing left to be stopped, so the signal is forgotten.
    """

    def note(_number: int, _frame: FrameType | None) -> None:
        _soft_limit_log.warning("job.soft_limit_deferred")

    before = signal.signal(pool.SIG_SOFT_TIMEOUT, note)
    try:
        yield
    finally:
        signal.signal(pool.SIG_SOFT_TIMEOUT, before)


#: A job that this worker may not begin is sent on after so long: at once, it might be taken by the
#: same worker again and again.
_REDIRECT_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class _StalledError(Exception):
    """The soft time limit struck while the picture was being worked on."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Everything a worker's process needs to run jobs, made once.

    Attributes:
        store: the records.
        objects: the pictures.
        fleet: where this worker's facts are kept.
        model: loaded and warm.
        model_lock: held while the model runs; the probe of an idle model takes it too.
        limits: what is accepted, in pixels.
        worker: Celery's name of this worker.
        leave: ends this process, whose GPU context is broken.
    """

    store: JobStore
    objects: ObjectStore
    fleet: WorkerRegistry
    model: MattingModel
    model_lock: AbstractContextManager[Any]
    limits: ImageLimits
    worker: str
    leave: Callable[[], None]

    def run(self, task_id: str) -> bool:
        """Run a job if its lease can be had; otherwise leave it to whoever has it.

        Returns:
            Whether the model made a result of it, whatever became of that.

        Raises:
            QueueUnavailableError: Redis went away; once the lease has run out, the reconciler
                puts the job back.
        """
        if self.fleet.drained(self.worker):
            self._pass_on(task_id, "drained")
            return False
        token = lease_token(self.worker, os.getpid())
        if not self._claim(task_id, token):
            return False
        job = self.store.get(task_id)
        if job is None:
            return False
        with (
            structlog.contextvars.bound_contextvars(**job.log_context(), worker=self.worker),
            span("job", parent=job.traceparent, **job.log_context(), worker=self.worker),
            LeaseKeeper(self.store, task_id, token) as lease,
        ):
            return self._run_claimed(job, token, lease)

    def _claim(self, task_id: str, token: str) -> bool:
        outcome = self.store.claim(task_id, token=token, worker=self.worker)
        if outcome is Claim.EXCLUDED:
            if self._others_can():
                self._pass_on(task_id, "went wrong here")
                return False
            outcome = self.store.claim(
                task_id, token=token, worker=self.worker, respect_exclusion=False
            )
        if outcome is not Claim.CLAIMED:
            _log.info("job.not_claimed", task_id=task_id, reason=outcome.value)
        return outcome is Claim.CLAIMED

    def _others_can(self) -> bool:
        return any(
            each.usable and each.model == self.model.name and each.name != self.worker
            for each in self.fleet.workers()
        )

    def _pass_on(self, task_id: str, reason: str) -> None:
        """To whoever the reconciler sends it to."""
        self.store.postpone(task_id, seconds=_REDIRECT_SECONDS)
        _log.info("job.passed_on", task_id=task_id, reason=reason)

    def _run_claimed(self, job: Job, token: str, lease: LeaseKeeper) -> bool:
        answered = False
        timer = MeteredStageTimer(job, self.model.name, self.worker, lambda _stage: lease.check())
        try:
            result = self._cut_out(job, timer)
            answered = True
            with soft_limit_deferred():
                self._publish(job, token, result, timer)
        except LeaseLostError:
            _log.warning("job.lease_lost")
        except _StalledError:
            self._time_out(job)
        except SoftTimeLimitExceeded:
            self._return(job, token, "The time limit struck before the model had the picture.")
        except InferenceError as error:
            self._fail_or_return(job, token, error, timer)
        except ObjectNotFoundError as error:
            self._fail(job, token, error, timer)
        except TaskError as error:
            self._return(job, token, str(error))
        except Exception as error:  # noqa: BLE001 - the job must end whatever was met
            _log.exception("job.crashed")
            self._fail(job, token, error, timer)
        return answered

    def _cut_out(self, job: Job, timer: StageTimer) -> Result:
        options = Options.from_dict(job.options)
        with timer("fetch"):
            original = self.objects.get(job.original_key)
            behind = self.objects.get(job.background_key) if job.background_key else None
        # The probe that shows an idle model to be alive must not run beside a job.
        with self.model_lock:
            try:
                return self._try_twice(original, behind, options, timer)
            except SoftTimeLimitExceeded as error:
                raise _StalledError from error

    def _try_twice(
        self, original: bytes, behind: bytes | None, options: Options, timer: StageTimer
    ) -> Result:
        try:
            return self._pipeline(original, behind, options, timer)
        except InferenceError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            # The engine has freed its cache: once more, before others are bothered.
            _log.warning("job.gpu_out_of_memory", retry="here")
            return self._pipeline(original, behind, options, timer)

    def _pipeline(
        self, original: bytes, behind: bytes | None, options: Options, timer: StageTimer
    ) -> Result:
        return remove_background(
            original, options, self.model, background=behind, limits=self.limits, stages=timer
        )

    def _publish(self, job: Job, token: str, result: Result, timer: StageTimer) -> None:
        # A worker that was stopped for a while learns here what its lease's keeper has yet to ask.
        if not self.store.renew(job.task_id, token=token):
            raise LeaseLostError("The lease ran out before the result was stored.")
        key = self._store_result(job, token, result, timer)
        self._succeed(job, token, key, result, timer)

    def _store_result(self, job: Job, token: str, result: Result, timer: StageTimer) -> str:
        key = object_keys.result_key(job.task_id, token, result.format.value)
        with timer("store"):
            self.objects.put(
                key, io.BytesIO(result.data), len(result.data), result.format.media_type
            )
        return key

    def _succeed(self, job: Job, token: str, key: str, result: Result, timer: StageTimer) -> None:
        facts = result_fields(result)
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
        if job.attempts > 1:
            self._sweep_other_results(job.task_id, key)
        _log.info("job.succeeded", **facts, **timings)

    def _sweep_other_results(self, task_id: str, published: str) -> None:
        """Remove what earlier runs stored before they died."""
        try:
            for key in self.objects.list(object_keys.results_prefix(task_id)):
                if key != published:
                    self.objects.delete(key)
        except TaskError as error:
            # The job is done all the same; the sweeper of the bucket comes by later.
            _log.warning("job.results_left", reason=str(error))

    def _fail_or_return(
        self, job: Job, token: str, error: InferenceError, timer: StageTimer
    ) -> None:
        """A picture's fault fails the job; a GPU's fault gives it to another GPU."""
        if error.code not in {OUT_OF_MEMORY, GPU_FAULT}:
            self._fail(job, token, error, timer)
            return
        try:
            self._return(job, token, str(error), excluded_worker=self.worker)
            if self.fleet.fault(self.worker, job.task_id, error.code):
                _log.error("worker.drained", worker=self.worker, reason=error.code)
        finally:
            if error.code == GPU_FAULT:
                # After a CUDA error the context is of no more use, also if Redis is away just now:
                # a fresh process gets a fresh one.
                _log.error("worker.leaves", reason=str(error))
                self.leave()

    def _return(self, job: Job, token: str, reason: str, *, excluded_worker: str = "") -> None:
        outcome = self.store.release(job.task_id, token=token, excluded_worker=excluded_worker)
        _log.warning("job.returned", reason=reason, outcome=outcome.value)

    def _time_out(self, job: Job) -> None:
        """The soft limit, over a picture: a crash, since what hung over it may hang again."""
        holder = lease_holder(self.worker, os.getpid())
        outcome = self.store.crash(job.task_id, holder=holder)
        _log.warning("job.timed_out", outcome=outcome.value)
        if outcome is ReleaseOutcome.QUEUED:
            self._pass_on(job.task_id, "timed out")

    def _fail(self, job: Job, token: str, error: Exception, timer: StageTimer) -> None:
        reason = describe_error(error)
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


def result_fields(result: Result) -> dict[str, Any]:
    """What the record keeps of a result."""
    box = result.foreground
    return {
        "format": result.format.value,
        "width": result.width,
        "height": result.height,
        "size": len(result.data),
        "full_width": result.full_width,
        "full_height": result.full_height,
        "coverage": result.coverage,
        "foreground": box
        and {"top": box.top, "left": box.left, "width": box.width, "height": box.height},
    }


def describe_error(error: Exception) -> JobError:
    """What the caller is told; the text of an error that nobody foresaw stays in the log."""
    if isinstance(error, InferenceError):
        return JobError(error.code, str(error), error.retryable)
    if isinstance(error, ObjectNotFoundError):
        return JobError("original_missing", "The uploaded image is no longer stored.")
    return JobError(
        "internal_error",
        "The image could not be processed; the service's log says why.",
        retryable=True,
    )
