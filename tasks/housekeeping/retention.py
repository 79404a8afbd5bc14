"""The retention sweeper: erase what has expired, and objects that no record names."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final, cast

import structlog
from redis import Redis
from redis.exceptions import LockError, ResponseError
from redis.lock import Lock

from tasks import redis_keys
from tasks.errors import (
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    QueueUnavailableError,
    UnreadableRecordError,
)
from tasks.jobs.batches import BatchStore
from tasks.jobs.job import Job
from tasks.jobs.job_objects import Eraser, get_manifest
from tasks.jobs.store import RECORD_GRACE_SECONDS, JobStore
from tasks.lua_scripts import move_member, set_absent
from tasks.object_store import (
    BACKGROUNDS,
    IMPROVEMENTS,
    MANIFESTS,
    ORIGINALS,
    RESULTS,
    UPLOAD_OBJECTS,
    ListedObject,
    ObjectStore,
    task_id_of_object,
    upload_id_of,
)
from tasks.redis_client import RedisLock, redis_errors
from tasks.uploads.service import UploadService
from tasks.uploads.store import UPLOAD_GRACE_SECONDS, UploadStore

_EXPIRED_PER_BLOCK: Final = 500
#: The pause before another try at what could not be erased.
_RETRY_SECONDS: Final = 600
#: A younger object may still get its record or its manifest.
ORPHAN_GRACE_SECONDS: Final = 3600
_OBJECTS_PER_BLOCK: Final = 500
#: Objects that the store may refuse to remove before a sweep gives up.
_MAX_FAILURES: Final = 3
#: Interval of the passes over what has expired, and of the sweeps of the whole bucket.
SWEEP_SECONDS: Final = 10.0
BUCKET_SWEEP_SECONDS: Final = 600
_LOCK_SECONDS: Final = 120
#: Interval of Redis's rewrites of its append-only file.
_FILE_REWRITE_SECONDS: Final = 24 * 3600

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OrphanSweep:
    """Removes objects that no record names; a sweep that is repeated or cut short does no harm."""

    store: JobStore
    uploads: UploadStore
    objects: ObjectStore
    #: How long an improvement is kept, which never has a record.
    retention_seconds: float
    clock: Callable[[], float] = time.time
    #: Called again and again during a long sweep.
    alive: Callable[[], object] = lambda: None
    #: Charges objects, by key with their bytes, that nobody was charged for.
    charge_found: Callable[[list[tuple[str, int]]], object] = lambda _: None

    def sweep(self) -> list[str]:
        """Remove the orphans; returns their keys.

        Raises:
            QueueUnavailableError, ObjectStoreUnavailableError: the rest waits for the next sweep.
        """
        swept, failures = [], 0
        for found in self._orphans():
            try:
                self._remove(found)
            except ObjectStoreUnavailableError as error:
                # Either this object is locked, or the store is away.
                failures += 1
                if failures > _MAX_FAILURES:
                    raise
                _log.warning("retention.orphan_stays", key=found.key, reason=str(error))
                continue
            swept.append(found.key)
            _log.info("retention.orphan_removed", key=found.key)
        return swept

    def _remove(self, found: ListedObject) -> None:
        if found.multipart_id:
            self.objects.abort_multipart(found.key, found.multipart_id)
        else:
            self.objects.delete(found.key)

    def _orphans(self) -> Iterator[ListedObject]:
        for prefix, is_lost in (
            (ORIGINALS, self._is_lost_input),
            (BACKGROUNDS, self._is_lost_companion),
            (RESULTS, self._is_lost_companion),
            (MANIFESTS, self._is_lost_input),
        ):
            for block in self._blocks(self.objects.list_entries(prefix)):
                yield from self._of_tasks(block, is_lost)
        for block in self._blocks(self.objects.list_entries(UPLOAD_OBJECTS)):
            yield from self._of_uploads(block)
        yield from self._of_uploads(self.objects.list_multipart(UPLOAD_OBJECTS))
        for block in self._blocks(self.objects.list_entries(IMPROVEMENTS)):
            yield from (each for each in block if self._is_old(each, self.retention_seconds))

    def _blocks(self, listed: Iterator[ListedObject]) -> Iterator[list[ListedObject]]:
        while block := list(islice(listed, _OBJECTS_PER_BLOCK)):
            self.alive()
            yield block

    def _of_tasks(
        self, block: Sequence[ListedObject], lost: Callable[[ListedObject], bool]
    ) -> Iterator[ListedObject]:
        task_ids = [task_id_of_object(each.key) for each in block]
        records = self.store.read(list(set(task_ids)))
        jobs = {job.task_id: job for job in records.readable()}
        self.charge_found(
            [
                (each.key, each.size)
                for each, task_id in zip(block, task_ids, strict=True)
                if task_id in jobs and _is_charged(each, jobs[task_id])
            ]
        )
        for each, task_id in zip(block, task_ids, strict=True):
            if task_id in records.unreadable:
                continue  # Its record exists, but cannot say which result is published.
            job = jobs.get(task_id)
            if self._is_left_over(each, job) if job else lost(each):
                yield each

    def _is_left_over(self, found: ListedObject, job: Job) -> bool:
        """Return whether an object is a result that its job did not publish."""
        return (
            found.key.startswith(RESULTS)
            and job.status.final
            and found.key != job.result_key
            and self._is_old(found)
        )

    def _is_lost_input(self, found: ListedObject) -> bool:
        """Return whether an original or a manifest is one without the other, or has expired."""
        return self._is_old(found) and not self._can_be_restored(found)

    def _is_lost_companion(self, found: ListedObject) -> bool:
        """Return whether a result or background belongs to an erased task, not to a lost record."""
        young = found.key.startswith(BACKGROUNDS) and not self._is_old(found)
        return not young and not self._can_be_restored(found)

    def _of_uploads(self, block: Sequence[ListedObject]) -> Iterator[ListedObject]:
        recorded = self.uploads.recorded([upload_id_of(each.key) for each in block])
        for each in block:
            if upload_id_of(each.key) not in recorded and self._is_old(each):
                yield each

    def _can_be_restored(self, found: ListedObject) -> bool:
        try:
            job = get_manifest(self.objects, task_id_of_object(found.key))
        except ObjectNotFoundError:
            return False
        return job is not None and job.expires_at > self.clock()

    def _is_old(self, found: ListedObject, seconds: float = ORPHAN_GRACE_SECONDS) -> bool:
        return found.modified.timestamp() + seconds <= self.clock()


def _is_charged(found: ListedObject, job: Job) -> bool:
    return found.key in {job.original_key, job.background_key, job.result_key}


@dataclass(frozen=True, slots=True)
class RetentionSweeper:
    """Erases a task's images when it expires, its record a day later, and orphans.

    Until its record is erased, the API shows the task as expired, unlike one that never existed.
    Each step is repeated until it succeeds.
    """

    client: Redis
    store: JobStore
    eraser: Eraser
    uploads: UploadService
    batches: BatchStore
    orphans: OrphanSweep
    #: The time for a whole pass; None while no clock can be trusted, and nothing is erased.
    trusted_time: Callable[[], float | None]
    clock: Callable[[], float] = time.time

    def run_once(self) -> bool:
        """Run one pass.

        Returns:
            False if another process runs one, a server does not answer, or the clock may be wrong.
        """
        lock = RedisLock(
            self.client, redis_keys.SWEEPER_LOCK, timeout=_LOCK_SECONDS, blocking=False
        )
        try:
            with redis_errors():
                if not lock.acquire():
                    return False
            try:
                now = self.trusted_time()
                if now is None:
                    return False
                alive = partial(self._go_on, lock)
                self._expire_due(now, alive)
                self._rewrite_append_only_file()
                if self._bucket_is_due():
                    replace(self.orphans, clock=lambda: now, alive=alive).sweep()
            finally:
                with redis_errors():
                    lock.release()
        except (QueueUnavailableError, ObjectStoreUnavailableError) as error:
            _log.warning("retention.put_off", reason=str(error))
            return False
        except LockError as error:
            # It expired, and another process may have begun a pass; two passes may overlap.
            _log.warning("retention.lock_lost", reason=str(error))
            return False
        return True

    def _go_on(self, lock: Lock) -> None:
        """Keep the lock, and note the time: a pass that takes long is no jump of the clock."""
        with redis_errors():
            lock.reacquire()
        self.trusted_time()

    def _rewrite_append_only_file(self) -> None:
        """Have Redis write its file anew once a day: until then it holds what was erased."""
        with redis_errors():
            due = set_absent(
                self.client, redis_keys.FILE_REWRITTEN, "1", seconds=_FILE_REWRITE_SECONDS
            )
            if not due:
                return
            try:
                if self.client.info("persistence").get("aof_enabled"):
                    self.client.bgrewriteaof()
            except ResponseError as error:
                # A hosted Redis forbids it, and has a schedule of its own.
                _log.info("retention.file_not_rewritten", reason=str(error))

    def _bucket_is_due(self) -> bool:
        with redis_errors():
            return set_absent(
                self.client, redis_keys.BUCKET_SWEPT, "1", seconds=BUCKET_SWEEP_SECONDS
            )

    def _expire_due(self, now: float, alive: Callable[[], object]) -> None:
        """Erase all that is due; `alive` is called again and again.

        Raises:
            QueueUnavailableError, ObjectStoreUnavailableError: the rest waits for the next pass.
        """
        # Before its tasks, each of which would take its name out of the batch.
        for batch_id in self.batches.expired(now):
            self.batches.remove(batch_id)
        while self._expire_tasks(now):
            alive()
        for upload_id in self.uploads.store.expired(now):
            self._attempt(
                redis_keys.UPLOADS, upload_id, lambda each: self._expire_upload(each, now)
            )

    def _expire_tasks(self, now: float) -> bool:
        """Erase tasks that are due, the first block of them; return whether there may be more."""
        with redis_errors():
            found = self.client.zrangebyscore(
                redis_keys.EXPIRIES, "-inf", now, start=0, num=_EXPIRED_PER_BLOCK
            )
        for task_id in cast("list[str]", found):
            self._attempt(redis_keys.EXPIRIES, task_id, lambda each: self._expire_task(each, now))
        return len(found) == _EXPIRED_PER_BLOCK

    def _attempt(self, index: str, item: str, expire: Callable[[str], None]) -> None:
        """Erase one item; if that fails, postpone it, so that the others come first."""
        try:
            expire(item)
        except QueueUnavailableError:
            raise
        except ObjectStoreUnavailableError:
            # Either the store is away, or it refuses this object alone.
            self._postpone(index, item)
            raise
        except Exception:  # noqa: BLE001 - whatever its record holds
            _log.exception("retention.item_failed", item=item)
            self._postpone(index, item)

    def _postpone(self, index: str, item: str) -> None:
        with redis_errors():
            move_member(self.client, index, item, self.clock() + _RETRY_SECONDS)

    def _expire_task(self, task_id: str, now: float) -> None:
        try:
            job = self.store.get(task_id)
        except UnreadableRecordError as error:
            self._expire_unreadable(error, now)
            return
        if job is None:
            # Its record has expired in Redis.
            self.store.forget(task_id)
        elif job.expires_at + RECORD_GRACE_SECONDS <= now:
            self.eraser.erase(job)
            _log.info("retention.task_erased", task_id=task_id)
        else:
            self.store.expire(task_id)
            self.eraser.erase_pictures(job)
            with redis_errors():
                again = job.expires_at + RECORD_GRACE_SECONDS
                move_member(self.client, redis_keys.EXPIRIES, task_id, again)
            _log.info("retention.task_expired", task_id=task_id)

    def _expire_unreadable(self, error: UnreadableRecordError, now: float) -> None:
        """Erase the images of a task whose record is damaged; the record expires in Redis."""
        with suppress(UnreadableRecordError):
            self.store.expire(error.task_id)
        self.eraser.erase_unread(error.task_id)
        with redis_errors():
            again = now + RECORD_GRACE_SECONDS
            move_member(self.client, redis_keys.EXPIRIES, error.task_id, again)
        _log.error("retention.task_expired", task_id=error.task_id, unreadable=error.reason)

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
        _log.info("retention.upload_expired", upload_id=upload_id)
