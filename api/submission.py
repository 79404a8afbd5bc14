"""Accepts a submission: check the header, ask the cache, store the original, record and queue."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from api.errors import ApiError
from api.inputs import InputFile, Submission, safe_stem
from api.settings import ApiSettings
from inference.errors import InferenceError, InvalidOptionError
from inference.probe import ImageHeader
from tasks.accounts.api_keys import Owner
from tasks.errors import (
    QueueFullError,
    QueueUnavailableError,
    ResultKnownError,
    TaskError,
    UncertainWriteError,
    UrlNotAllowedError,
    UrlUnreachableError,
)
from tasks.ids import new_task_id
from tasks.jobs.artifacts import (
    copied_result_fields,
    copy_inputs,
    copy_result,
    discard_object,
    write_manifest,
)
from tasks.jobs.cache import cache_key, cache_ttl
from tasks.jobs.dedup import send_if_due
from tasks.jobs.model import Job, Status
from tasks.net.url_guard import UrlGuard
from tasks.runtime import Runtime
from tasks.storage import object_keys
from tasks.tracing import current_traceparent, span

_log = structlog.get_logger(__name__)


def validate_webhook_url(
    url: str | None, owner: Owner, guard: UrlGuard, settings: ApiSettings
) -> str | None:
    """The address that webhooks go to: the one asked for, or the owner's own.

    Raises:
        ApiError: `invalid_parameter`: it may not be called, or nothing could be signed.
    """
    if url is None:
        return owner.webhook_url
    try:
        guard.check(url)
    except UrlUnreachableError:
        # The name service may know it by then; each attempt looks again.
        _log.info("submit.receiver_unknown")
    except UrlNotAllowedError as error:
        raise _refused(str(error)) from None
    if owner.anonymous and settings.webhook_secret is None:
        raise _refused(
            "This service signs no webhooks: its operator has not set RMBG_WEBHOOK_SECRET."
        )
    return url


def _refused(sentence: str) -> ApiError:
    fields = {"webhook_url": sentence}
    return ApiError("invalid_parameter", f"webhook_url: {sentence}", fields=fields)


@dataclass(frozen=True, slots=True)
class SubmissionService:
    """Everything that accepting a picture takes."""

    settings: ApiSettings
    runtime: Runtime
    clock: Callable[[], float]

    def accept(self, submission: Submission, request_id: str, task_id: str | None = None) -> Job:
        """Accept a picture: check its header, store it, record it, queue it.

        Where an equal job has the result already, it is copied; where one runs, it is awaited.

        Args:
            submission: what is asked for.
            request_id: goes with the job through every log line.
            task_id: the id that the job is to have; a fresh one if none is given.

        Returns:
            The job; final, if the cache had the result.

        Raises:
            InferenceError: the header shows that the picture cannot be used.
            ApiError: the owner may not use that model.
            StoreUnavailableError, QueueUnavailableError, QueueFullError: nothing was accepted.
        """
        submission.image.probe(self.settings.image_limits)
        if submission.background is not None:
            self._probe_background(submission.background)
        job = self._new_job(submission, request_id, task_id or new_task_id())
        accepted = self._accept(job, submission)
        _log.info(
            "job.accepted",
            **accepted.log_context(),
            model=accepted.model,
            queue=accepted.queue,
            bytes=submission.image.length,
            batch_id=accepted.batch_id,
            cached=accepted.cached,
            duplicate_of=accepted.primary,
        )
        return accepted

    def _accept(self, job: Job, submission: Submission) -> Job:
        donor = self.runtime.result_cache.find(job.cache_key) if job.cache_key else None
        if donor is not None:
            done = self._reuse(job, donor, stored=False)
            if done is not None:
                return done
        # Nothing is stored that could not be recorded.
        self.runtime.job_store.ping()
        if submission.background is not None:
            self._store_background(job, submission.background)
        self._store_original(job, submission.image)
        return self._record(job)

    def _new_job(self, submission: Submission, request_id: str, task_id: str) -> Job:
        now = self.clock()
        model = self._model(submission)
        retention = self.settings.retention_hours * 3600
        job = Job(
            task_id=task_id,
            model=model,
            queue=self.runtime.router.choose(model, submission.priority),
            original_key=object_keys.original_key(task_id),
            background_key=object_keys.background_key(task_id) if submission.background else None,
            created_at=now,
            expires_at=now + retention,
            deadline=now + self._queue_timeout(submission),
            options=submission.options.to_dict(),
            owner=submission.owner.id,
            priority=submission.priority,
            metadata=dict(submission.metadata),
            webhook_url=self._webhook_url(submission),
            webhook_events=list(submission.webhook_events),
            batch_id=submission.batch_id,
            file_stem=safe_stem(submission.image.file_name),
            sha256=submission.image.sha256,
            request_id=request_id,
            traceparent=current_traceparent(),
        )
        return self._with_cache_key(job) if submission.cache else job

    def _with_cache_key(self, job: Job) -> Job:
        revision = self.runtime.registry.revision(job.model)
        if revision is None:
            return job
        key = cache_key(
            owner=job.owner,
            sha256=job.sha256,
            options=job.options,
            model=job.model,
            revision=revision,
        )
        return job.evolve(cache_key=key, cache_seconds=cache_ttl(job.expires_at - job.created_at))

    def _webhook_url(self, submission: Submission) -> str | None:
        if submission.batch_id is not None and submission.webhook_url is None:
            # The batch itself has one.
            return None
        return validate_webhook_url(
            submission.webhook_url, submission.owner, self.runtime.url_guard, self.settings
        )

    def _model(self, submission: Submission) -> str:
        name = submission.model or self.settings.model
        if not submission.owner.may_use(name):
            raise ApiError("forbidden", f"Your key is not for the model {name}.")
        if name != self.settings.model:
            served = {
                each.model for each in self.runtime.registry.workers() if each.usable and each.model
            }
            served.add(self.settings.model)
            if name not in served:
                raise InvalidOptionError("model", f"Choose one of {', '.join(sorted(served))}.")
        return name

    def _queue_timeout(self, submission: Submission) -> float:
        """Seconds after which nobody wants a job that was not begun."""
        default = min(self.settings.queue_seconds, self.settings.retention_hours * 3600)
        return default if submission.expires_in is None else min(default, submission.expires_in)

    def _probe_background(self, background: InputFile) -> ImageHeader:
        try:
            return background.probe(self.settings.image_limits)
        except InferenceError as error:
            raise InvalidOptionError("background_image", str(error)) from error

    def _store_background(self, job: Job, background: InputFile) -> None:
        header = self._probe_background(background)
        self.runtime.object_store.put(
            object_keys.background_key(job.task_id),
            background.stream,
            background.length,
            _media_type(header),
        )

    def _store_original(self, job: Job, image: InputFile) -> None:
        header = image.probe(self.settings.image_limits)
        with span("store original"):
            self.runtime.object_store.put(
                job.original_key,
                image.stream,
                image.length,
                _media_type(header),
                # Should Redis be lost, `rmbg restore` makes the record from it.
                metadata=write_manifest(job),
            )

    def _record(self, job: Job) -> Job:
        """Record the job whose pictures are stored, and have it run."""
        try:
            recorded = self.runtime.job_store.create(job, max_pending=self.settings.max_pending)
        except ResultKnownError as known:
            return self._take_over(job, known.task_id)
        except QueueFullError:
            self._discard(job)
            raise
        except QueueUnavailableError as error:
            recorded = self._settle(job, error)
        self._queue(recorded)
        return recorded

    def _settle(self, job: Job, error: QueueUnavailableError) -> Job:
        """The record, whose writing was not answered by a yes.

        It may be there, written by an attempt whose answer was lost; ids are never drawn twice, so
        one that is taken tells the same, or that `rmbg restore` found the original first.

        Raises:
            UndecidedError: nothing can be known. The pictures stay: a record that is written later
                needs them, and otherwise the sweeper takes them.
            QueueUnavailableError: there is no record, and there will be none.
        """
        try:
            found = self.runtime.job_store.tombstone(job.task_id)
        except QueueUnavailableError as again:
            _log.warning("submit.undecided", **job.log_context())
            raise UncertainWriteError(str(again)) from error
        if found is None:
            self._discard(job)
            raise error
        return found

    def _take_over(self, job: Job, task_id: str) -> Job:
        """An equal job ended while this one's pictures were being stored."""
        donor = self.runtime.result_cache.remember(job.cache_key or "", task_id)
        done = self._reuse(job, donor, stored=True) if donor is not None else None
        # Its result cannot be had, and is forgotten: so this does not go on for ever.
        return done or self._record(job)

    def _reuse(self, job: Job, donor: Job, *, stored: bool) -> Job | None:
        """The job, finished with a copy of an equal one's result; None if it cannot be copied."""
        now = self.clock()
        done = job.evolve(
            status=Status.SUCCEEDED,
            started_at=now,
            finished_at=now,
            # Copies are not copied in their turn.
            cache_key=None,
            cache_seconds=None,
            **copied_result_fields(job, donor),
        )
        try:
            if not stored:
                copy_inputs(self.runtime.object_store, done, donor)
            copy_result(self.runtime.object_store, done, donor)
        except TaskError as error:
            _log.info("cache.copy_failed", donor=donor.task_id, reason=str(error))
            self.runtime.result_cache.forget(job.cache_key or "", donor.task_id)
            return None
        return self._record_finished(done)

    def _record_finished(self, job: Job) -> Job:
        try:
            self.runtime.job_store.create_finished(job)
        except QueueUnavailableError as error:
            return self._settle(job, error)
        return job

    def _discard(self, job: Job) -> None:
        """Nothing is accepted, so nothing may stay."""
        for key in filter(None, (job.original_key, job.background_key, job.result_key)):
            discard_object(self.runtime.object_store, key)

    def _queue(self, job: Job) -> None:
        if job.primary is not None:
            # It waits for its primary, which may have become more urgent by it.
            send_if_due(
                self.runtime.job_store, self.runtime.dispatcher, self.runtime.router, job.primary
            )
            return
        try:
            with span("queue"):
                self.runtime.dispatcher.send(job)
        except QueueUnavailableError:
            # The record stands, so the job is accepted: the reconciler sends the message.
            _log.warning("submit.message_not_sent", **job.log_context())


def _media_type(header: ImageHeader) -> str:
    return f"image/{header.format.lower()}"
