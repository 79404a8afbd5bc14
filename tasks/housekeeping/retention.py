"""The retention sweeper: erase what has expired, and objects that no record names."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, cast

import structlog
from redis import Redis
from redis.exceptions import LockError

from tasks import redis_keys
from tasks.errors import (
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    QueueUnavailableError,
    UnreadableRecordError,
)
from tasks.jobs.artifacts import Eraser, read_manifest
from tasks.jobs.batches import BatchStore
from tasks.jobs.model import Job
from tasks.jobs.store import RECORD_GRACE_SECONDS, JobStore
from tasks.redis_client import redis_errors
from tasks.runtime import Runtime
from tasks.storage import object_keys
from tasks.storage.object_store import ListedObject, ObjectStore
from tasks.uploads.service import UploadService
from tasks.uploads.store import UPLOAD_GRACE_SECONDS, UploadStore

_EXPIRED_PER_BLOCK: Final = 500

#: What could not be erased is tried again after so long.
_RETRY_SECONDS: Final = 600

_expiry_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExpirySweep:
    """Two steps: the pictures go at a task's expiry, its record a day later.

    In between the task is shown as expired, so that it can be told from one that never was. Each
    step may be repeated without harm, and is, until it is done.
    """

    client: Redis
    store: JobStore
    eraser: Eraser
    uploads: UploadService
    batches: BatchStore
    clock: Callable[[], float] = time.time

    def run_once(self) -> int:
        """Erase what is due; how many tasks and uploads were.

        Raises:
            QueueUnavailableError, StoreUnavailableError: the rest is for the next time.
        """
        now = self.clock()
        with redis_errors():
            found = self.client.zrangebyscore(
                redis_keys.EXPIRIES, "-inf", now, start=0, num=_EXPIRED_PER_BLOCK
            )
        due = cast("list[str]", found)
        for task_id in due:
            self._attempt(redis_keys.EXPIRIES, task_id, lambda each: self._expire_task(each, now))
        for batch_id in self.batches.expired(now):
            self.batches.remove(batch_id)
        uploads = self.uploads.store.expired(now)
        for upload_id in uploads:
            self._attempt(
                redis_keys.UPLOADS, upload_id, lambda each: self._expire_upload(each, now)
            )
        return len(due) + len(uploads)

    def _attempt(self, index: str, item: str, expire: Callable[[str], None]) -> None:
        """One of those that are due; if it cannot be erased now, the others come before it."""
        try:
            expire(item)
        except QueueUnavailableError:
            raise
        except ObjectStoreUnavailableError:
            # The store may be away; or it is this one alone that it does not give up.
            self._put_off(index, item)
            raise
        except Exception:  # noqa: BLE001 - whatever its record holds
            _expiry_log.exception("retention.item_failed", item=item)
            self._put_off(index, item)

    def _put_off(self, index: str, item: str) -> None:
        with redis_errors():
            self.client.zadd(index, {item: self.clock() + _RETRY_SECONDS}, xx=True)

    def _expire_task(self, task_id: str, now: float) -> None:
        try:
            job = self.store.get(task_id)
        except UnreadableRecordError as error:
            self._expire_unread(error, now)
            return
        if job is None:
            # Redis was quicker to drop the record.
            self.store.forget(task_id)
        elif job.expires_at + RECORD_GRACE_SECONDS <= now:
            self.eraser.erase(job)
            _expiry_log.info("retention.task_erased", task_id=task_id)
        else:
            self.store.expire(task_id)
            self.eraser.erase_pictures(job)
            with redis_errors():
                again = job.expires_at + RECORD_GRACE_SECONDS
                self.client.zadd(redis_keys.EXPIRIES, {task_id: again}, xx=True)
            _expiry_log.info("retention.task_expired", task_id=task_id)

    def _expire_unread(self, error: UnreadableRecordError, now: float) -> None:
        """The pictures go at their time all the same; Redis drops such a record by itself."""
        with suppress(UnreadableRecordError):
            self.store.expire(error.task_id)
        self.eraser.erase_unread(error.task_id)
        with redis_errors():
            again = now + RECORD_GRACE_SECONDS
            self.client.zadd(redis_keys.EXPIRIES, {error.task_id: again}, xx=True)
        _expiry_log.error("retention.task_expired", task_id=error.task_id, unreadable=error.reason)

    def _expire_upload(self, upload_id: str, now: float) -> None:
        upload = self.uploads.store.get(upload_id)
        if upload is None:
            self.uploads.store.remove(upload_id)
            return
        self.uploads.erase(upload)
        if upload.expires_at + UPLOAD_GRACE_SECONDS <= now:
            self.uploads.store.remove(upload_id)
        else:
            self.uploads.store.postpone(upload_id, upload.expires_at + UPLOAD_GRACE_SECONDS)
        _expiry_log.info("retention.upload_expired", upload_id=upload_id)


#: What is younger may still get its record, or its manifest.
ORPHAN_GRACE_SECONDS: Final = 3600

_OBJECTS_PER_BLOCK: Final = 500

#: Objects that may refuse to go before a look is given up.
_MAX_FAILURES: Final = 3

_orphans_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OrphanSweep:
    """Removes objects that no record names; it may be repeated, or cut short, without harm.

    Attributes:
        store: the records of jobs.
        uploads: the records of uploads.
        objects: the bucket.
        retention_seconds: how long an object is kept that never has a record: an improvement.
        clock: unix seconds.
        alive: called now and then during a long look.
    """

    store: JobStore
    uploads: UploadStore
    objects: ObjectStore
    retention_seconds: float
    clock: Callable[[], float] = time.time
    alive: Callable[[], object] = lambda: None

    def sweep(self) -> list[str]:
        """Remove what belongs to nothing; the keys that went.

        Raises:
            QueueUnavailableError, StoreUnavailableError: the rest is for the next time.
        """
        swept, failures = [], 0
        for found in self._orphans():
            try:
                self._remove(found)
            except ObjectStoreUnavailableError as error:
                # One object may be locked; the store may be away.
                failures += 1
                if failures > _MAX_FAILURES:
                    raise
                _orphans_log.warning("retention.orphan_stays", key=found.key, reason=str(error))
                continue
            swept.append(found.key)
            _orphans_log.info("retention.orphan_removed", key=found.key)
        return swept

    def _remove(self, found: ListedObject) -> None:
        if found.multipart_id:
            self.objects.abort_multipart(found.key, found.multipart_id)
        else:
            self.objects.delete(found.key)

    def _orphans(self) -> Iterator[ListedObject]:
        for block in self._blocks(self.objects.list_entries(object_keys.ORIGINALS)):
            yield from self._of_tasks(block, self._is_lost_original)
        for block in self._blocks(self.objects.list_entries(object_keys.BACKGROUNDS)):
            yield from self._of_tasks(block, self._is_lost_companion)
        for block in self._blocks(self.objects.list_entries(object_keys.RESULTS)):
            yield from self._of_tasks(block, self._is_lost_companion)
        for block in self._blocks(self.objects.list_entries(object_keys.UPLOAD_OBJECTS)):
            yield from self._of_uploads(block)
        yield from self._of_uploads(self.objects.list_multipart(object_keys.UPLOAD_OBJECTS))
        for block in self._blocks(self.objects.list_entries(object_keys.IMPROVEMENTS)):
            yield from (each for each in block if self._is_old(each, self.retention_seconds))

    def _blocks(self, listed: Iterator[ListedObject]) -> Iterator[list[ListedObject]]:
        while block := list(islice(listed, _OBJECTS_PER_BLOCK)):
            self.alive()
            yield block

    def _of_tasks(
        self, block: Sequence[ListedObject], lost: Callable[[ListedObject], bool]
    ) -> Iterator[ListedObject]:
        records = self.store.read(_task_ids_of(block))
        jobs = {job.task_id: job for job in records.readable()}
        for each in block:
            if object_keys.task_id_of_object(each.key) in records.unreadable:
                continue  # it is recorded; which result counts cannot be told
            job = jobs.get(object_keys.task_id_of_object(each.key))
            if self._is_left_over(each, job) if job else lost(each):
                yield each

    def _is_left_over(self, found: ListedObject, job: Job) -> bool:
        """A result of a run that is not the one that counts."""
        return (
            found.key.startswith(object_keys.RESULTS)
            and job.status.final
            and found.key != job.result_key
            and self._is_old(found)
        )

    def _is_lost_original(self, found: ListedObject) -> bool:
        return self._is_old(found) and not self._can_be_restored(found.key)

    def _is_lost_companion(self, found: ListedObject) -> bool:
        """A result or a background whose task was erased, not one whose record was lost."""
        young = found.key.startswith(object_keys.BACKGROUNDS) and not self._is_old(found)
        return not young and not self._can_be_restored(
            object_keys.original_key(object_keys.task_id_of_object(found.key))
        )

    def _of_uploads(self, block: Sequence[ListedObject]) -> Iterator[ListedObject]:
        recorded = self.uploads.recorded([object_keys.upload_id_of(each.key) for each in block])
        for each in block:
            if object_keys.upload_id_of(each.key) not in recorded and self._is_old(each):
                yield each

    def _can_be_restored(self, original: str) -> bool:
        try:
            job = read_manifest(original, self.objects.metadata(original))
        except ObjectNotFoundError:
            return False
        return job is not None and job.expires_at > self.clock()

    def _is_old(self, found: ListedObject, seconds: float = ORPHAN_GRACE_SECONDS) -> bool:
        return found.modified.timestamp() + seconds <= self.clock()


def _task_ids_of(block: Iterable[ListedObject]) -> list[str]:
    return list({object_keys.task_id_of_object(each.key) for each in block})


#: Between two looks at what has expired, and between two looks through the whole bucket.
SWEEP_SECONDS: Final = 10.0

BUCKET_SWEEP_SECONDS: Final = 600

_LOCK: Final = f"{redis_keys.PREFIX}retention"

_LAST_BUCKET_SWEEP: Final = f"{redis_keys.PREFIX}retention:bucket"

_LOCK_SECONDS: Final = 120

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionSweeper:
    """What the I/O worker runs every few seconds."""

    client: Redis
    expiry: ExpirySweep
    orphans: OrphanSweep

    @classmethod
    def from_runtime(cls, runtime: Runtime) -> "RetentionSweeper":
        """Build both sweeps from a runtime's parts; nothing is sent before the first pass."""
        store, uploads = runtime.job_store, runtime.uploads
        return cls(
            client=runtime.redis,
            expiry=ExpirySweep(runtime.redis, store, runtime.eraser, uploads, runtime.batches),
            orphans=OrphanSweep(store, uploads.store, runtime.object_store, uploads.seconds),
        )

    def run_once(self) -> bool:
        """One pass; False when another process is at it, or Redis or the store is away."""
        lock = self.client.lock(_LOCK, timeout=_LOCK_SECONDS, blocking=False)
        try:
            with redis_errors():
                if not lock.acquire():
                    return False
            try:
                self.expiry.run_once()
                if self._bucket_is_due():
                    replace(self.orphans, alive=lock.reacquire).sweep()
            finally:
                with redis_errors():
                    lock.release()
        except (QueueUnavailableError, ObjectStoreUnavailableError) as error:
            # A lock that ran out meanwhile is one of these, and no harm: passes may overlap.
            _log.warning("retention.put_off", reason=str(error))
            return False
        except LockError as error:
            _log.warning("retention.lock_lost", reason=str(error))
            return False
        return True

    def _bucket_is_due(self) -> bool:
        with redis_errors():
            return bool(self.client.set(_LAST_BUCKET_SWEEP, "1", nx=True, ex=BUCKET_SWEEP_SECONDS))
