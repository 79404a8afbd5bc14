"""Removes objects that no record names: left by processes that died, or by a late writer.

The bucket is not of one mind with Redis at every moment. An original is stored before its record,
and after a loss of Redis `rmbg restore` makes records from originals. So nothing goes only because
its record is missing: an original with a manifest stays until the expiry that it names, and so does
all that belongs to it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from tasks import keys
from tasks.errors import ObjectNotFoundError, StoreUnavailableError
from tasks.jobs import Job
from tasks.large_objects import LargeObjects, Listed
from tasks.manifest import read_manifest
from tasks.storage import ObjectStore
from tasks.store import JobStore
from tasks.uploads.store import UploadStore

#: What is younger may still get its record, or its manifest.
GRACE_SECONDS: Final = 3600
_AT_ONCE: Final = 500
#: Objects that may refuse to go before a look is given up.
_MOST_FAILURES: Final = 3

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Orphans:
    """One look through the bucket; it may be repeated, or cut short, without harm."""

    store: JobStore
    uploads: UploadStore
    objects: ObjectStore
    large: LargeObjects
    clock: Callable[[], float] = time.time
    #: Called now and then during a long look.
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
            except StoreUnavailableError as error:
                # One object may be locked; the store may be away.
                failures += 1
                if failures > _MOST_FAILURES:
                    raise
                _log.warning("retention.orphan_stays", key=found.key, reason=str(error))
                continue
            swept.append(found.key)
            _log.info("retention.orphan_removed", key=found.key)
        return swept

    def _remove(self, found: Listed) -> None:
        if found.multipart_id:
            self.large.abort(found.key, found.multipart_id)
        else:
            self.objects.delete(found.key)

    def _orphans(self) -> Iterator[Listed]:
        for block in self._blocks(self.large.list(keys.ORIGINALS)):
            yield from self._of_tasks(block, self._is_lost_original)
        for block in self._blocks(self.large.list(keys.BACKGROUNDS)):
            yield from self._of_tasks(block, self._is_lost_companion)
        for block in self._blocks(self.large.list(keys.RESULTS)):
            yield from self._of_tasks(block, self._is_lost_companion)
        for block in self._blocks(self.large.list(keys.UPLOADED)):
            yield from self._of_uploads(block)
        yield from self._of_uploads(self.large.unfinished(keys.UPLOADED))

    def _blocks(self, listed: Iterator[Listed]) -> Iterator[list[Listed]]:
        while block := list(islice(listed, _AT_ONCE)):
            self.alive()
            yield block

    def _of_tasks(
        self, block: Sequence[Listed], lost: Callable[[Listed], bool]
    ) -> Iterator[Listed]:
        records = self.store.read(_tasks_of(block))
        jobs = {job.task_id: job for job in records.readable()}
        for each in block:
            if keys.task_of(each.key) in records.unreadable:
                continue  # it is recorded; which result counts cannot be told
            job = jobs.get(keys.task_of(each.key))
            if self._is_left_over(each, job) if job else lost(each):
                yield each

    def _is_left_over(self, found: Listed, job: Job) -> bool:
        """A result of a run that is not the one that counts."""
        return (
            found.key.startswith(keys.RESULTS)
            and job.status.final
            and found.key != job.result_key
            and self._is_old(found)
        )

    def _is_lost_original(self, found: Listed) -> bool:
        return self._is_old(found) and not self._can_be_restored(found.key)

    def _is_lost_companion(self, found: Listed) -> bool:
        """A result or a background whose task was erased, not one whose record was lost."""
        young = found.key.startswith(keys.BACKGROUNDS) and not self._is_old(found)
        return not young and not self._can_be_restored(keys.original_key(keys.task_of(found.key)))

    def _of_uploads(self, block: Sequence[Listed]) -> Iterator[Listed]:
        recorded = self.uploads.recorded([keys.upload_id_of(each.key) for each in block])
        for each in block:
            if keys.upload_id_of(each.key) not in recorded and self._is_old(each):
                yield each

    def _can_be_restored(self, original: str) -> bool:
        try:
            job = read_manifest(original, self.objects.metadata(original))
        except ObjectNotFoundError:
            return False
        return job is not None and job.expires_at > self.clock()

    def _is_old(self, found: Listed) -> bool:
        return found.modified.timestamp() + GRACE_SECONDS <= self.clock()


def _tasks_of(block: Iterable[Listed]) -> list[str]:
    return list({keys.task_of(each.key) for each in block})
