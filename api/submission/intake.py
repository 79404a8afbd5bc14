"""Accepts submissions: looks at the header, stores, records, queues. No HTTP in here."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from api.errors import ApiError
from api.settings import ApiSettings
from api.submission.files import safe_stem, sha256_of
from api.submission.submission import Submission, Upload
from inference.errors import InvalidOptionError
from inference.probe import ImageHeader, probe
from tasks import keys
from tasks.dispatch import Dispatcher
from tasks.errors import IdTakenError, QueueFullError, QueueUnavailableError, TaskError
from tasks.fleet import Fleet
from tasks.jobs import Job
from tasks.manifest import write_manifest
from tasks.routing import Router
from tasks.storage import ObjectStore
from tasks.store import JobStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Intake:
    """Everything that accepting a picture takes."""

    settings: ApiSettings
    store: JobStore
    objects: ObjectStore
    dispatcher: Dispatcher
    fleet: Fleet
    router: Router
    clock: Callable[[], float]

    def accept(self, submission: Submission, request_id: str) -> Job:
        """Accept a picture: check its header, store it, record it, queue it.

        Raises:
            InferenceError: the header shows that the picture cannot be used.
            ApiError: the owner may not use that model.
            StoreUnavailableError, QueueUnavailableError, QueueFullError: nothing was accepted.
        """
        header = probe(submission.image.stream, self.settings.image_limits)
        job = self._new_job(submission, sha256_of(submission.image.stream), request_id)
        if submission.background is not None:
            self._store_background(job, submission.background)
        self._store_original(job, submission.image, header)
        job = self._record(job)
        self._queue(job)
        _log.info(
            "job.accepted",
            **job.log_context(),
            model=job.model,
            queue=job.queue,
            bytes=submission.image.length,
            batch_id=job.batch_id,
        )
        return job

    def _new_job(self, submission: Submission, digest: str, request_id: str) -> Job:
        now = self.clock()
        task_id = keys.new_task_id()
        model = self._model(submission)
        return Job(
            task_id=task_id,
            model=model,
            queue=self.router.choose(model, submission.priority),
            original_key=keys.original_key(task_id),
            background_key=keys.background_key(task_id) if submission.background else None,
            created_at=now,
            expires_at=now + self.settings.retention_hours * 3600,
            deadline=self._deadline(submission, now),
            options=submission.options.to_dict(),
            owner=submission.owner.id,
            priority=submission.priority,
            metadata=dict(submission.metadata),
            webhook_url=submission.webhook_url,
            webhook_events=list(submission.webhook_events),
            batch_id=submission.batch_id,
            file_stem=safe_stem(submission.image.file_name),
            sha256=digest,
            request_id=request_id,
        )

    def _model(self, submission: Submission) -> str:
        name = submission.model or self.settings.model
        if not submission.owner.may_use(name):
            raise ApiError("forbidden", f"Your key is not for the model {name}.")
        if name != self.settings.model:
            served = {each.model for each in self.fleet.workers() if each.usable and each.model}
            served.add(self.settings.model)
            if name not in served:
                raise InvalidOptionError("model", f"Choose one of {', '.join(sorted(served))}.")
        return name

    def _deadline(self, submission: Submission, now: float) -> float | None:
        limits = [submission.expires_in, self.settings.queue_seconds]
        known = [seconds for seconds in limits if seconds is not None]
        return now + min(known) if known else None

    def _store_background(self, job: Job, background: Upload) -> None:
        header = probe(background.stream, self.settings.image_limits)
        self.objects.put(
            keys.background_key(job.task_id),
            background.stream,
            background.length,
            _media_type(header),
        )

    def _store_original(self, job: Job, image: Upload, header: ImageHeader) -> None:
        self.objects.put(
            job.original_key,
            image.stream,
            image.length,
            _media_type(header),
            # Should Redis be lost, `rmbg restore` makes the record from it.
            metadata=write_manifest(job),
        )

    def _record(self, job: Job) -> Job:
        try:
            return self.store.create(job, most_pending=self.settings.max_pending)
        except IdTakenError:
            # Ids are never drawn twice: this very record was written by an attempt whose answer
            # was lost, or by `rmbg restore`, which found the original first.
            return self.store.get(job.task_id) or job
        except (QueueUnavailableError, QueueFullError):
            self._discard(job)
            raise

    def _discard(self, job: Job) -> None:
        """Nothing is accepted, so nothing may stay."""
        for key in filter(None, (job.original_key, job.background_key)):
            try:
                self.objects.delete(key)
            except TaskError:
                _log.warning("submit.object_left", key=key)

    def _queue(self, job: Job) -> None:
        try:
            self.dispatcher.send(job)
        except QueueUnavailableError:
            # The record stands, so the job is accepted: the reconciler sends the message.
            _log.warning("submit.message_not_sent", **job.log_context())


def _media_type(header: ImageHeader) -> str:
    return f"image/{header.format.lower()}"
