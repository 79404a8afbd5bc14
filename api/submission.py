"""Accept a submission: check the header, ask the cache, store the original, record and queue."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from api.errors import ApiError
from api.file_names import safe_stem
from api.idempotency import IdempotencyGuard, Reservation
from api.inputs import InputFile
from api.quotas import note_usage
from api.settings import ApiSettings
from inference.errors import InferenceError, InvalidOptionError
from inference.options import Options
from inference.probe import ImageHeader
from tasks.api_keys import ANONYMOUS, Owner
from tasks.errors import (
    QueueUnavailableError,
    RedisFullError,
    ResultKnownError,
    TaskError,
    UncertainWriteError,
    UrlNotAllowedError,
)
from tasks.jobs.cache import cache_key, cache_ttl
from tasks.jobs.dedup import send_if_due
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.job_objects import (
    copied_result_fields,
    copy_result,
    discard_object,
    input_keys,
    put_manifest,
)
from tasks.jobs.routing import model_queue
from tasks.jobs.store import AcceptedJob
from tasks.object_store import background_key, original_key
from tasks.runtime import Runtime
from tasks.tracing import current_traceparent, span

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One picture and what is asked for. All of it has been checked except the pictures.

    Attributes:
        image: the picture.
        options: how the result is to look.
        background: the picture to be put behind the subject.
        owner: who submits it.
        model: name of a served model; None for the service's own.
        priority: how urgent it is.
        metadata: a JSON object that is echoed wherever the task is shown.
        webhook_url: where the end is reported.
        webhook_events: the events to report; empty for all.
        expires_in: seconds; not begun by then, the task fails.
        cache: False neither reads nor writes the cache, and makes no duplicate of a running job.
        batch_id: the batch that it belongs to.
    """

    image: InputFile
    options: Options = field(default_factory=Options)
    background: InputFile | None = None
    owner: Owner = ANONYMOUS
    model: str | None = None
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, Any] = field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()
    expires_in: float | None = None
    cache: bool = True
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class SubmissionService:
    """Accepts pictures as jobs.

    Attributes:
        clock: unix seconds.
    """

    settings: ApiSettings
    runtime: Runtime
    idempotency: IdempotencyGuard
    clock: Callable[[], float]

    def submit(
        self,
        submission: Submission,
        request_id: str,
        *,
        task_id: str | None = None,
        reservation: Reservation | None = None,
    ) -> AcceptedJob:
        """Check a picture's header, store the picture, record the job and queue it.

        A result that the cache has is copied, and the job is final at once. While an equal job
        runs, the new one waits as its duplicate.

        Args:
            submission: what is asked for.
            request_id: goes with the job into every log line.
            task_id: the id that the job is to have; a fresh one if None.
            reservation: of the request's Idempotency-Key, which is kept when the job is recorded.

        Raises:
            InferenceError: the header shows that the picture cannot be used.
            ApiError: the owner may not use that model.
            ObjectStoreUnavailableError, QueueUnavailableError, QueueFullError: nothing was
                accepted.
            QuotaExceededError: a quota of the owner has no room; nothing was kept.
            UncertainWriteError: Redis went away, and it is unknown whether the job was recorded.
        """
        submission.image.probe(self.settings.image_limits)
        if submission.background is not None:
            self._probe_background(submission.background)
        new = self._new_job(submission, task_id or new_task_id(), request_id)
        with self.runtime.quotas.released_on_error(new.owner, [new.task_id]):
            accepted = self._accept(new, submission, reservation)
        job = accepted.job
        _log.info(
            "job.accepted",
            **job.log_context(),
            model=job.model,
            queue=job.queue,
            bytes=submission.image.length,
            batch_id=job.batch_id,
            cached=job.cached,
            duplicate_of=job.primary,
        )
        return accepted

    def find(self, task_id: str) -> AcceptedJob | None:
        """Return a job that an earlier request made; None if it was erased."""
        job = self.runtime.job_store.get(task_id)
        return AcceptedJob(job, self.position(job)) if job else None

    def position(self, job: Job) -> int:
        """Return how many jobs go before this one; 0 if Redis does not answer."""
        try:
            return self.runtime.job_store.position(job)
        except QueueUnavailableError:
            return 0

    def webhook_url(self, url: str | None, owner: Owner) -> str | None:
        """Return the address of a task's webhooks: the one asked for, or the owner's own.

        Its host is looked up at each attempt, not here: an answer that told what its name leads
        to would tell which names there are in the service's network.

        Raises:
            ApiError: `invalid_parameter`: the address may not be called, or there is no secret to
                sign webhooks with.
        """
        if url is None:
            return owner.webhook_url
        try:
            self.runtime.url_guard.check_text(url)
        except UrlNotAllowedError as error:
            raise _refused_webhook(str(error)) from None
        if owner.anonymous and self.settings.webhook_secret is None:
            raise _refused_webhook(
                "This service signs no webhooks: its operator has not set RMBG_WEBHOOK_SECRET."
            )
        return url

    def _accept(
        self, job: Job, submission: Submission, reservation: Reservation | None
    ) -> AcceptedJob:
        """Copy a cached result; without one store the pictures, record the job and queue it."""
        if job.cache_key:
            cached = self.runtime.result_cache.find(job.cache_key)
            done = cached and self._reuse(job, cached, submission, reservation, stored=False)
            if done:
                return done
        # No picture is stored while Redis, which has to record it, is away: it is charged there.
        self._charge(submission.owner, job, _inputs(job, submission))
        job = job.evolve(queue=self.runtime.router.choose(job.model))
        with self._discarded_on_error(job):
            if submission.background is not None:
                header = self._probe_background(submission.background)
                self.runtime.object_store.put(
                    background_key(job.task_id),
                    submission.background.stream,
                    submission.background.length,
                    media_type(header),
                    lasting=False,
                )
            self._store_original(job, submission.image, submission.image.object_key)
            accepted = self._record(job, submission, reservation)
        if not accepted.job.cached:
            self._queue(accepted.job)
        return accepted

    def _charge(self, owner: Owner, job: Job, objects: Mapping[str, int]) -> None:
        pending = not job.status.final
        note_usage(self.runtime.quotas.charge(owner, [job.task_id], objects, pending=pending))

    def _new_job(self, submission: Submission, task_id: str, request_id: str) -> Job:
        """Return the job that a submission asks for, with its times, receiver and cache key."""
        now = self.clock()
        model = self._model(submission)
        retention = self.settings.retention_hours * 3600
        # A job that no worker has begun by then fails.
        queue_seconds = min(self.settings.queue_seconds, retention)
        if submission.expires_in is not None:
            queue_seconds = min(queue_seconds, submission.expires_in)
        webhook_url = submission.webhook_url
        # A batch has its own webhook.
        if submission.batch_id is None or webhook_url is not None:
            webhook_url = self.webhook_url(webhook_url, submission.owner)
        job = Job(
            task_id=task_id,
            model=model,
            # A worker's own queue is chosen once the cache has been asked.
            queue=model_queue(model),
            original_key=original_key(task_id),
            background_key=background_key(task_id) if submission.background else None,
            created_at=now,
            expires_at=now + retention,
            deadline=now + queue_seconds,
            options=submission.options.to_dict(),
            owner=submission.owner.id,
            priority=submission.priority,
            metadata=dict(submission.metadata),
            webhook_url=webhook_url,
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

    def _model(self, submission: Submission) -> str:
        name = submission.model or self.settings.model
        if not submission.owner.may_use(name):
            raise ApiError("forbidden", f"Your API key may not use the model {name}.")
        if name != self.settings.model:
            served = {
                each.model for each in self.runtime.registry.workers() if each.usable and each.model
            }
            served.add(self.settings.model)
            if name not in served:
                raise InvalidOptionError("model", f"Choose one of {', '.join(sorted(served))}.")
        return name

    def _probe_background(self, background: InputFile) -> ImageHeader:
        try:
            return background.probe(self.settings.image_limits)
        except InferenceError as error:
            raise InvalidOptionError("background_image", str(error)) from error

    def _store_original(self, job: Job, image: InputFile, source: str | None) -> None:
        """Store a job's original and its manifest; `source` is an object with the same bytes."""
        kind = media_type(image.probe(self.settings.image_limits))
        store = self.runtime.object_store
        with span("store original"):
            if source is None:
                store.put(job.original_key, image.stream, image.length, kind, lasting=False)
            elif source != job.original_key:
                # The bytes are in the bucket: they do not pass through this process again.
                store.copy(source, job.original_key, media_type=kind, lasting=False)
            # If Redis is lost, `rmbg restore` makes the record from the manifest. It comes last, so
            # that its sync of the disk is the pictures' too.
            put_manifest(store, job)

    def _record(
        self, job: Job, submission: Submission, reservation: Reservation | None
    ) -> AcceptedJob:
        """Record a job whose pictures are stored."""
        try:
            return self.runtime.job_store.create(
                job,
                max_pending=self.settings.max_pending,
                reservation=reservation.to_keep() if reservation else None,
            )
        except ResultKnownError as known:
            # An equal job ended while this one's pictures were stored.
            cached = self.runtime.result_cache.remember(job.cache_key or "", known.task_id)
            done = cached and self._reuse(job, cached, submission, reservation, stored=True)
            # A result that cannot be copied was forgotten, so `create` does not name it again.
            return done or self._record(job, submission, reservation)
        except RedisFullError:
            raise  # nothing was written
        except QueueUnavailableError as error:
            return self._resolve_create(job, reservation, error)

    def _resolve_create(
        self, job: Job, reservation: Reservation | None, error: QueueUnavailableError
    ) -> AcceptedJob:
        """Find out whether a job was recorded whose `create` was not answered with success.

        The record may have been written by the attempt whose answer was lost, or by `rmbg restore`,
        which found the original first. Ids are never drawn twice, so it is this job's.

        Raises:
            UncertainWriteError: Redis does not answer. The pictures stay: a record that is written
                late needs them, and otherwise the sweeper removes them.
            QueueUnavailableError: there is no record, and a tombstone keeps it from being written.
        """
        try:
            found = self.runtime.job_store.tombstone(job.task_id)
        except QueueUnavailableError as again:
            _log.warning("submit.undecided", **job.log_context())
            raise UncertainWriteError(str(again), job.task_id) from error
        if found is None:
            raise error
        # What `create` does beside recording a job.
        try:
            if reservation is not None:
                self.idempotency.keep(reservation)
            return AcceptedJob(found, self.runtime.job_store.position(found))
        except QueueUnavailableError:
            # The key stays reserved, and then is free.
            _log.warning("submit.key_not_kept", **found.log_context())
            return AcceptedJob(found, 0)

    def _reuse(
        self,
        job: Job,
        cached: Job,
        submission: Submission,
        reservation: Reservation | None,
        *,
        stored: bool,
    ) -> AcceptedJob | None:
        """Finish a job with a copy of a cached job's result; None if that cannot be copied.

        `stored` says whether the job's own pictures are stored already.
        """
        now = self.clock()
        done = job.evolve(
            status=Status.SUCCEEDED,
            started_at=now,
            finished_at=now,
            # The copy of a result is not entered into the cache again.
            cache_key=None,
            cache_seconds=None,
            **copied_result_fields(job, cached),
        )
        copied = str(done.result_key)
        inputs = {} if stored else _inputs(done, submission)
        self._charge(submission.owner, done, {**inputs, copied: done.size or 0})
        with self._discarded_on_error(done):
            try:
                if not stored:
                    self._copy_inputs(done, cached, submission.image)
                copy_result(self.runtime.object_store, done, cached)
            except TaskError as error:
                _log.info("cache.copy_failed", cached_from=cached.task_id, reason=str(error))
                self.runtime.result_cache.forget(job.cache_key or "", cached.task_id)
                self.runtime.quotas.release(job.owner, [job.task_id], [copied])
                return None
            try:
                self.runtime.job_store.create_finished(
                    done, reservation=reservation.to_keep() if reservation else None
                )
            except RedisFullError:
                raise  # nothing was written
            except QueueUnavailableError as error:
                return self._resolve_create(done, reservation, error)
            return AcceptedJob(done, 0)

    def _copy_inputs(self, job: Job, cached: Job, image: InputFile) -> None:
        """Store a job's pictures as copies of those of an equal job."""
        if job.background_key:
            self.runtime.object_store.copy(
                cached.background_key or "", job.background_key, lasting=False
            )
        self._store_original(job, image, image.object_key or cached.original_key)

    @contextmanager
    def _discarded_on_error(self, job: Job) -> Iterator[None]:
        """Remove a job's pictures if a block of code fails before the job is recorded."""
        try:
            yield
        except UncertainWriteError:
            # A record may be written late, which needs them.
            raise
        except BaseException:
            self._discard(job)
            raise

    def _discard(self, job: Job) -> None:
        """Remove the pictures of a job that was not accepted."""
        for key in filter(None, (*input_keys(job), job.result_key)):
            discard_object(self.runtime.object_store, key)
        if job.result_key:
            # What was charged for the inputs is released with the submission.
            self.runtime.quotas.release(job.owner, [job.task_id], [job.result_key])

    def _queue(self, job: Job) -> None:
        if job.primary is not None:
            # The duplicate has raised a primary of an earlier version, which is then due.
            send_if_due(
                self.runtime.job_store, self.runtime.dispatcher, self.runtime.router, job.primary
            )
            return
        try:
            with span("queue"):
                self.runtime.dispatcher.send(job)
        except QueueUnavailableError:
            # The job is accepted, since it is recorded; the reconciler sends the message.
            _log.warning("submit.message_not_sent", **job.log_context())


def _inputs(job: Job, submission: Submission) -> dict[str, int]:
    """Return the bytes of a job's original and background, by their keys."""
    sizes = {job.original_key: submission.image.length}
    if job.background_key and submission.background is not None:
        sizes[job.background_key] = submission.background.length
    return sizes


def _refused_webhook(sentence: str) -> ApiError:
    fields = {"webhook_url": sentence}
    return ApiError("invalid_parameter", f"webhook_url: {sentence}", fields=fields)


def media_type(header: ImageHeader) -> str:
    """Return the media type of a picture."""
    return f"image/{header.format.lower()}"
