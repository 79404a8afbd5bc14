"""What the handlers call: submitting, looking up, waiting. No HTTP in here."""

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Final

import structlog

from api.settings import ApiSettings
from inference.options import Options
from inference.probe import probe
from tasks import keys
from tasks.app import create_celery
from tasks.dispatch import Dispatcher
from tasks.errors import IdTakenError, QueueFullError, QueueUnavailableError, TaskError
from tasks.fleet import Fleet
from tasks.jobs import Job, Priority
from tasks.manifest import write_manifest
from tasks.routing import Router
from tasks.storage import MinioStore, ObjectStore
from tasks.store import JobStore, connect

_log = structlog.get_logger(__name__)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_CHUNK_BYTES: Final = 2**18
_FIRST_POLL_SECONDS: Final = 0.02
_LAST_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it came."""

    stream: BinaryIO
    length: int
    file_name: str


@dataclass(frozen=True, slots=True)
class Services:
    """The API's dependencies, made once per process."""

    settings: ApiSettings
    store: JobStore
    objects: ObjectStore
    dispatcher: Dispatcher
    router: Router
    waiting: threading.BoundedSemaphore
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(cls, settings: ApiSettings) -> "Services":
        """Connect lazily: nothing is sent before the first request."""
        client = connect(settings.redis_url.get_secret_value())
        store = JobStore(client)
        return cls(
            settings=settings,
            store=store,
            objects=MinioStore.from_settings(settings),
            dispatcher=Dispatcher(create_celery(settings), store),
            router=Router(client, Fleet(client), routing=settings.routing),
            waiting=threading.BoundedSemaphore(settings.max_waiting),
        )

    def submit(self, upload: Upload, options: Options, request_id: str) -> Job:
        """Accept a picture: check its header, store it, record it, queue it.

        Raises:
            InferenceError: the header shows that the picture cannot be used.
            StoreUnavailableError, QueueUnavailableError: nothing was accepted.
        """
        header = probe(upload.stream, self.settings.image_limits)
        digest = _sha256(upload.stream)
        job = self._new_job(upload, options, digest, request_id)
        self.objects.put(
            job.original_key,
            upload.stream,
            upload.length,
            f"image/{header.format.lower()}",
            # Should Redis be lost, `rmbg restore` makes the record from it.
            metadata=write_manifest(job),
        )
        job = self._record(job)
        self._queue(job)
        return job

    def _new_job(self, upload: Upload, options: Options, digest: str, request_id: str) -> Job:
        now = self.clock()
        task_id = keys.new_task_id()
        return Job(
            task_id=task_id,
            model=self.settings.model,
            queue=self.router.choose(self.settings.model, Priority.NORMAL),
            original_key=keys.original_key(task_id),
            created_at=now,
            expires_at=now + self.settings.retention_hours * 3600,
            deadline=now + self.settings.queue_seconds if self.settings.queue_seconds else None,
            options=options.to_dict(),
            file_stem=safe_stem(upload.file_name),
            sha256=digest,
            request_id=request_id,
        )

    def _record(self, job: Job) -> Job:
        try:
            return self.store.create(job, most_pending=self.settings.max_pending)
        except IdTakenError:
            # Ids are never drawn twice: this very record was written by an attempt whose answer
            # was lost, or by `rmbg restore`, which found the original first.
            return self.store.get(job.task_id) or job
        except (QueueUnavailableError, QueueFullError):
            # Nothing is accepted, so nothing may stay.
            try:
                self.objects.delete(job.original_key)
            except TaskError:
                _log.warning("submit.original_left", key=job.original_key)
            raise

    def _queue(self, job: Job) -> None:
        try:
            self.dispatcher.send(job)
        except QueueUnavailableError:
            # The record stands, so the job is accepted: the reconciler sends the message.
            _log.warning("submit.message_not_sent", **job.log_context())

    def position(self, job: Job) -> int:
        """How many jobs wait ahead; 0 when that cannot be told, which is no reason to fail."""
        try:
            return self.store.position(job.task_id)
        except QueueUnavailableError:
            return 0

    def wait_final(self, task_id: str, seconds: float) -> Job | None:
        """The job once it is final, or as it is when the time is up or too many wait already."""
        if seconds <= 0 or not self.waiting.acquire(blocking=False):
            return self.store.get(task_id)
        try:
            return self._poll(task_id, time.monotonic() + seconds)
        finally:
            self.waiting.release()

    def _poll(self, task_id: str, deadline: float) -> Job | None:
        pause = _FIRST_POLL_SECONDS
        while True:
            job = self.store.get(task_id)
            left = deadline - time.monotonic()
            if job is None or job.status.final or left <= 0:
                return job
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LAST_POLL_SECONDS)

    def result_url(self, job: Job, *, download: bool = False) -> str | None:
        """The signed address of the result, if there is one and it has not expired."""
        if job.result_key is None:
            return None
        name = f"{job.file_stem}.{job.format}" if download else None
        return self._url(job, job.result_key, name)

    def original_url(self, job: Job) -> str | None:
        """The signed address of the upload, until it expires."""
        return self._url(job, job.original_key, None)

    def _url(self, job: Job, key: str, file_name: str | None) -> str | None:
        left = int(job.expires_at - self.clock())
        if left <= 0:
            return None
        return self.objects.url(key, seconds=left, file_name=file_name)


def _sha256(stream: BinaryIO) -> str:
    """The digest of a whole stream, which is at its start again afterwards."""
    digest = hashlib.sha256()
    stream.seek(0)
    while piece := stream.read(_CHUNK_BYTES):
        digest.update(piece)
    stream.seek(0)
    return digest.hexdigest()


def safe_stem(file_name: str) -> str:
    """A client's file name, reduced to what is safe in a header and on any file system."""
    stem = PurePath(file_name.replace("\\", "/")).stem
    return _UNSAFE.sub("-", stem).strip("-.")[:80] or "image"
