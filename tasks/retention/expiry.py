"""Erases what has expired, by what the records say: cheap, and done every few seconds."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

import structlog
from redis import Redis

from tasks import keys
from tasks.batches.store import BatchStore
from tasks.connection import redis_errors
from tasks.erasure import Eraser
from tasks.errors import QueueUnavailableError, StoreUnavailableError, UnreadableRecordError
from tasks.store import RECORD_GRACE_SECONDS, JobStore
from tasks.uploads.record import GRACE_SECONDS
from tasks.uploads.service import Uploads

_AT_ONCE: Final = 500
#: What could not be erased is tried again after so long.
_PAUSE_SECONDS: Final = 600

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Two steps: the pictures go at a task's expiry, its record a day later.

    In between the task is shown as expired, so that it can be told from one that never was. Each
    step may be repeated without harm, and is, until it is done.
    """

    client: Redis
    store: JobStore
    eraser: Eraser
    uploads: Uploads
    batches: BatchStore
    clock: Callable[[], float] = time.time

    def run_once(self) -> int:
        """Erase what is due; how many tasks and uploads were.

        Raises:
            QueueUnavailableError, StoreUnavailableError: the rest is for the next time.
        """
        now = self.clock()
        with redis_errors():
            found = self.client.zrangebyscore(keys.EXPIRIES, "-inf", now, start=0, num=_AT_ONCE)
        due = cast("list[str]", found)
        for task_id in due:
            self._attempt(keys.EXPIRIES, task_id, lambda each: self._expire_task(each, now))
        for batch_id in self.batches.expired(now):
            self.batches.remove(batch_id)
        uploads = self.uploads.store.expired(now)
        for upload_id in uploads:
            self._attempt(keys.UPLOADS, upload_id, lambda each: self._expire_upload(each, now))
        return len(due) + len(uploads)

    def _attempt(self, index: str, item: str, expire: Callable[[str], None]) -> None:
        """One of those that are due; if it cannot be erased now, the others come before it."""
        try:
            expire(item)
        except QueueUnavailableError:
            raise
        except StoreUnavailableError:
            # The store may be away; or it is this one alone that it does not give up.
            self._put_off(index, item)
            raise
        except Exception:  # noqa: BLE001 - whatever its record holds
            _log.exception("retention.item_failed", item=item)
            self._put_off(index, item)

    def _put_off(self, index: str, item: str) -> None:
        with redis_errors():
            self.client.zadd(index, {item: self.clock() + _PAUSE_SECONDS}, xx=True)

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
            _log.info("retention.task_erased", task_id=task_id)
        else:
            self.store.expire(task_id)
            self.eraser.erase_pictures(job)
            with redis_errors():
                again = job.expires_at + RECORD_GRACE_SECONDS
                self.client.zadd(keys.EXPIRIES, {task_id: again}, xx=True)
            _log.info("retention.task_expired", task_id=task_id)

    def _expire_unread(self, error: UnreadableRecordError, now: float) -> None:
        """The pictures go at their time all the same; Redis drops such a record by itself."""
        with suppress(UnreadableRecordError):
            self.store.expire(error.task_id)
        self.eraser.erase_unread(error.task_id)
        with redis_errors():
            again = now + RECORD_GRACE_SECONDS
            self.client.zadd(keys.EXPIRIES, {error.task_id: again}, xx=True)
        _log.error("retention.task_expired", task_id=error.task_id, unreadable=error.reason)

    def _expire_upload(self, upload_id: str, now: float) -> None:
        upload = self.uploads.store.get(upload_id)
        if upload is None:
            self.uploads.store.remove(upload_id)
            return
        self.uploads.erase(upload)
        if upload.expires_at + GRACE_SECONDS <= now:
            self.uploads.store.remove(upload_id)
        else:
            self.uploads.store.postpone(upload_id, upload.expires_at + GRACE_SECONDS)
        _log.info("retention.upload_expired", upload_id=upload_id)
