"""Run one job in the child of a model worker, from its claim to its end, and renew its lease."""

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from types import FrameType
from typing import Any, Final, Self

import structlog
from billiard import pool
from billiard.exceptions import SoftTimeLimitExceeded

from inference.decode import Decoder, decode
from inference.errors import (
    GpuFaultError,
    GpuOutOfMemoryError,
    ImageTooComplexError,
    InferenceError,
)
from inference.models.base import MattingModel
from inference.options import Options
from inference.pipeline import Result, remove_background
from inference.probe import ImageLimits
from tasks.errors import (
    LeaseLostError,
    ObjectNotFoundError,
    QueueUnavailableError,
    TaskError,
)
from tasks.jobs.job import INTERNAL_ERROR, ORIGINAL_MISSING, Job, JobError, Status
from tasks.jobs.store import (
    RENEW_SECONDS,
    ClaimOutcome,
    JobStore,
    Message,
    ReleaseOutcome,
    lease_holder,
    lease_token,
)
from tasks.metrics import instruments
from tasks.object_store import ObjectStore, result_key, results_prefix
from tasks.tracing import span
from tasks.worker_registry import WorkerRegistry

#: The pause before a job that this worker may not run is sent again, so that the worker does not
#: take it again and again.
_REDIRECT_SECONDS: Final = 1.0
#: A lease that was held this recently is taken to be held: a small part of what a stage that is
#: worth sparing takes.
_RECENTLY_SECONDS: Final = 0.1

_log = structlog.get_logger(__name__)


@contextmanager
def _soft_limit_deferred() -> Iterator[None]:
    """Ignore the soft time limit during a short step that has timeouts of its own.

    The soft limit is a signal whose handler raises; it needs the main thread. In the middle of a
    PUT it would leave an object that the store may complete after it was removed.
    """

    def note(_number: int, _frame: FrameType | None) -> None:
        _log.warning("job.soft_limit_deferred")

    before = signal.signal(pool.SIG_SOFT_TIMEOUT, note)
    try:
        yield
    finally:
        signal.signal(pool.SIG_SOFT_TIMEOUT, before)


#: Stages whose time depends on the picture's size and on how busy the machine is. The soft time
#: limit within one of these says nothing of the model, and another run would take as long.
_PICTURE_STAGES: Final = frozenset({"decode", "compose", "encode"})


class _StalledError(Exception):
    """The soft time limit struck while the image was being processed."""


class LeaseKeeper:
    """Renews a lease from a thread until the `with` block ends."""

    def __init__(self, store: JobStore, task_id: str, token: str) -> None:
        self._store = store
        self._task_id = task_id
        self.token: Final = token
        #: When the lease was last known to be held; claiming it is one such time.
        self._held_at = monotonic()
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Renew the lease, and raise `LeaseLostError` if it is lost; called between two stages.

        So a job that was canceled or erased ends at its next stage. A lease that was held a moment
        ago is not asked about again.
        """
        if self._lost.is_set() or monotonic() - self._held_at > _RECENTLY_SECONDS:
            self.confirm()

    def confirm(self) -> None:
        """Renew the lease in any case, and raise `LeaseLostError` if it is lost."""
        self._renew()
        if self._lost.is_set():
            raise LeaseLostError("The lease expired, or the job was canceled, while it ran.")

    def _run(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self._lost.is_set():
            self._renew()

    def _renew(self) -> None:
        asked_at = monotonic()
        try:
            kept = self._store.renew(self._task_id, token=self.token)
        except QueueUnavailableError:
            # Redis may be back before the lease expires: the final write decides.
            _log.warning("lease.renewal_failed", task_id=self._task_id)
            return
        self._held_at = asked_at
        if not kept:
            self._lost.set()


class StageTimer:
    """Measures the stages of one job, for its record, the worker's metrics and the traces.

    The times of a stage that is entered twice are added; a stage that fails counts until it failed.
    `before` is called on entry of each stage; what it raises ends the job.
    """

    def __init__(self, job: Job, model: str, worker: str, before: Callable[[], None]) -> None:
        self._labels = (model, worker)
        self._before = before
        self._seconds: dict[str, float] = {}
        #: The stage that ended by an error.
        self.failed: str | None = None
        if job.attempts == 1 and job.started_at is not None:
            waited = max(0.0, job.started_at - job.created_at)
            instruments().stage_seconds.labels("queue").observe(waited)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure one stage for as long as the context lasts."""
        self._before()
        with span(stage):
            began, status = perf_counter(), "error"
            try:
                yield
                status = "ok"
            except BaseException:
                self.failed = stage
                raise
            finally:
                took = perf_counter() - began
                self._seconds[stage] = self._seconds.get(stage, 0.0) + took
                instruments().stage_seconds.labels(stage).observe(took)
                if stage == "inference":
                    instruments().inference_seconds.labels(*self._labels, status).observe(took)

    def has_run(self, stage: str) -> bool:
        """Return whether a stage has been entered."""
        return stage in self._seconds

    @property
    def timings(self) -> dict[str, int]:
        """Whole milliseconds of each stage so far, in the order of entry: `{"decode_ms": 21}`."""
        return {f"{stage}_ms": round(seconds * 1000) for stage, seconds in self._seconds.items()}


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A job that this process has claimed, and runs.

    Attributes:
        job: as it was claimed.
        message: by which it was claimed.
        lease: fences all that is written of it.
        timer: of its stages.
    """

    job: Job
    message: Message | None
    lease: LeaseKeeper
    timer: StageTimer


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs jobs in a child, on a model that is loaded and warm."""

    job_store: JobStore
    object_store: ObjectStore
    registry: WorkerRegistry
    model: MattingModel
    #: Held while the model runs, by a job or by a probe of the idle model.
    model_lock: AbstractContextManager[Any]
    limits: ImageLimits
    #: Celery's name of this worker.
    worker: str
    #: Ends this process, whose GPU context is broken.
    exit_child: Callable[[], None]
    #: Decodes pictures; that of a worker does so in a process with bounds.
    decoder: Decoder = decode

    def run(self, task_id: str, message: Message | None = None) -> bool:
        """Run the job whose turn it is, if this worker gets its lease.

        Args:
            task_id: the job that the message names.
            message: stands for a job of its list; None runs the named job.

        Returns:
            Whether the model made a result, even if the result was not stored.

        Raises:
            QueueUnavailableError: Redis does not answer; once the lease has expired, the reconciler
                returns the job to the queue.
        """
        if self.registry.drained(self.worker):
            self._pass_on(task_id, message, "drained")
            return False
        token = lease_token(self.worker, os.getpid())
        claimed = self._claim(task_id, message, token)
        job = self.job_store.get(claimed) if claimed else None
        if job is None:
            return False
        with (
            structlog.contextvars.bound_contextvars(**job.log_context(), worker=self.worker),
            span("job", parent=job.traceparent, **job.log_context(), worker=self.worker),
            LeaseKeeper(self.job_store, job.task_id, token) as lease,
        ):
            if job.task_id != task_id:
                _log.info("job.has_its_turn", message_id=task_id)
            timer = StageTimer(job, self.model.name, self.worker, lease.check)
            return self._run_claimed(_Attempt(job, message, lease, timer))

    def _claim(self, task_id: str, message: Message | None, token: str) -> str | None:
        """Claim the job whose turn it is, and return its id; None if there is none to run."""
        claim = partial(
            self.job_store.claim_next,
            task_id,
            message,
            token=token,
            worker=self.worker,
            model=self.model.name,
        )
        turn = claim()
        if turn.claim is ClaimOutcome.EXCLUDED:
            if self._others_can():
                self._pass_on(turn.task_id, message, "went wrong here")
                return None
            turn = claim(respect_exclusion=False)
        if turn.claim is ClaimOutcome.OTHER_MODEL:
            _log.warning("job.handed_back", task_id=turn.task_id, model=self.model.name)
            return None
        if turn.claim is not ClaimOutcome.CLAIMED:
            _log.info("job.not_claimed", task_id=turn.task_id, reason=turn.claim.value)
            return None
        return turn.task_id

    def _others_can(self) -> bool:
        return any(
            each.usable and each.model == self.model.name and each.name != self.worker
            for each in self.registry.workers()
        )

    def _pass_on(self, task_id: str, message: Message | None, reason: str) -> None:
        """Let the reconciler send a message again, to a worker that the router chooses.

        It is the message of this job, unless another one's turn gave it to that one meanwhile.
        """
        self.job_store.postpone(task_id, seconds=_REDIRECT_SECONDS, message=message)
        _log.info("job.passed_on", task_id=task_id, reason=reason)

    def _run_claimed(self, attempt: _Attempt) -> bool:
        """Run a claimed job, and record its end or return it; return as `run`."""
        timer = attempt.timer
        answered = False
        try:
            result = self._cut_out(attempt.job, timer)
            answered = timer.has_run("inference")  # not for what has been cut out already
            with _soft_limit_deferred():
                self._publish(attempt, result)
        except LeaseLostError:
            _log.warning("job.lease_lost")
        except _StalledError:
            if timer.failed in _PICTURE_STAGES:
                self._fail(attempt, _took_too_long(timer))
            else:
                self._time_out(attempt)
        except SoftTimeLimitExceeded:
            self._return(attempt, "The time limit struck before the model got the image.")
        except (GpuFaultError, GpuOutOfMemoryError) as error:
            self._return_after_fault(attempt, error)
        except (InferenceError, ObjectNotFoundError) as error:
            self._fail(attempt, error)
        except TaskError as error:
            self._return(attempt, str(error))
        except Exception as error:  # noqa: BLE001 - the job must end
            _log.exception("job.crashed")
            self._fail(attempt, error)
        return answered

    def _cut_out(self, job: Job, timer: StageTimer) -> Result:
        """Fetch a job's pictures, and run the pipeline on them."""
        options = Options.from_dict(job.options)
        with timer("fetch"):
            original = self.object_store.get(job.original_key)
            behind = self.object_store.get(job.background_key) if job.background_key else None

        def cut_out() -> Result:
            return remove_background(
                original,
                options,
                self.model,
                background=behind,
                limits=self.limits,
                stages=timer,
                decoder=self.decoder,
            )

        # The probe of an idle model must not run beside a job.
        with self.model_lock:
            try:
                return _retry_out_of_memory(cut_out)
            except SoftTimeLimitExceeded as error:
                raise _StalledError from error

    def _publish(self, attempt: _Attempt, result: Result) -> None:
        """Store the result, then record the job's success, unless another attempt did so first."""
        job, lease = attempt.job, attempt.lease
        # A worker that was stopped for a while learns here what its lease's keeper has yet to ask.
        lease.confirm()
        key = result_key(job.task_id, lease.token, result.format.value)
        with attempt.timer("store"):
            self.object_store.put(
                key, io.BytesIO(result.data), len(result.data), result.format.media_type
            )
        facts = _result_fields(result)
        timings = _timings(attempt)
        published = self.job_store.finish(
            job.task_id,
            token=lease.token,
            status=Status.SUCCEEDED,
            result_key=key,
            timings=timings,
            **facts,
        )
        if not published:
            # Another run of the job was published: remove the result of this one.
            self.object_store.delete(key)
            _log.warning("job.late", result="discarded")
            return
        if job.attempts > 1:
            self._sweep_other_results(job.task_id, key)
        _log.info("job.succeeded", **facts, **timings)

    def _sweep_other_results(self, task_id: str, published: str) -> None:
        """Remove the results of earlier runs that died before they published them."""
        try:
            for key in self.object_store.list(results_prefix(task_id)):
                if key != published:
                    self.object_store.delete(key)
        except TaskError as error:
            # The job is done; the retention sweeper removes them later.
            _log.warning("job.results_left", reason=str(error))

    def _return_after_fault(self, attempt: _Attempt, error: InferenceError) -> None:
        """Return the job to the queue, since the GPU is at fault and not its image."""
        try:
            self._return(attempt, str(error), excluded_worker=self.worker)
            if self.registry.record_fault(self.worker, attempt.job.task_id, error.code):
                _log.error("worker.drained", worker=self.worker, reason=error.code)
        finally:
            if isinstance(error, GpuFaultError):
                # After a CUDA error the context is lost, even while Redis does not answer: only a
                # new process gets a new one.
                _log.error("worker.leaves", reason=str(error))
                self.exit_child()

    def _return(self, attempt: _Attempt, reason: str, *, excluded_worker: str = "") -> None:
        outcome = self.job_store.release(
            attempt.job.task_id, token=attempt.lease.token, excluded_worker=excluded_worker
        )
        _log.warning("job.returned", reason=reason, outcome=outcome.value)

    def _time_out(self, attempt: _Attempt) -> None:
        """Count the soft limit within the model as a crash: the image may hang it again."""
        holder = lease_holder(self.worker, os.getpid())
        outcome = self.job_store.crash(attempt.job.task_id, holder=holder)
        _log.warning("job.timed_out", outcome=outcome.value)
        if outcome is ReleaseOutcome.QUEUED:
            self._pass_on(attempt.job.task_id, attempt.message, "timed out")

    def _fail(self, attempt: _Attempt, error: Exception) -> None:
        reason = _describe_error(error)
        self.job_store.finish(
            attempt.job.task_id,
            token=attempt.lease.token,
            status=Status.FAILED,
            error=reason,
            timings=_timings(attempt),
        )
        _log.info("job.failed", type=reason.type, reason=reason.message)


def _timings(attempt: _Attempt) -> dict[str, int]:
    job = attempt.job
    started = job.started_at or job.created_at
    waited = max(0, round((started - job.created_at) * 1000))
    return {"queue_ms": waited, **attempt.timer.timings}


def _retry_out_of_memory(cut_out: Callable[[], Result]) -> Result:
    try:
        return cut_out()
    except GpuOutOfMemoryError:
        # The engine has freed its cache: a second try may succeed here.
        _log.warning("job.gpu_out_of_memory", retry="here")
        return cut_out()


def _result_fields(result: Result) -> dict[str, Any]:
    """Return the fields of the record that describe a result."""
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


def _took_too_long(timer: StageTimer) -> ImageTooComplexError:
    seconds = sum(timer.timings.values()) / 1000
    return ImageTooComplexError(
        f"The stage {timer.failed} was ended after {seconds:.0f} s, the time limit of a task. "
        "Send a smaller image, or try again while the service is less busy."
    )


def _describe_error(error: Exception) -> JobError:
    """Return what the caller learns; the text of an unexpected error stays in the log."""
    if isinstance(error, InferenceError):
        return JobError(error.code, str(error), error.retryable)
    if isinstance(error, ObjectNotFoundError):
        return ORIGINAL_MISSING
    return INTERNAL_ERROR
