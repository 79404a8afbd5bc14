"""Removes a job for good: pictures, results, record."""

from collections.abc import Iterator
from dataclasses import dataclass

from tasks import keys
from tasks.jobs import Job
from tasks.storage import ObjectStore
from tasks.store import JobStore


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases jobs; an erasure that was cut short may be repeated, and then goes on."""

    store: JobStore
    objects: ObjectStore

    def erase(self, job: Job) -> None:
        """End the job if need be, then remove its pictures, and its record last.

        A run that is under way is fenced off first: it stores nothing that counts, and removes
        what it has stored. The record goes last, since it alone tells what was not removed yet,
        should the store fail on the way; and without its original no `rmbg restore` finds it.

        Raises:
            QueueUnavailableError, StoreUnavailableError: not all of it is gone; repeat it.
        """
        self.store.cancel(job.task_id)
        self.erase_pictures(job)
        self.store.erase(job.task_id)

    def erase_pictures(self, job: Job) -> None:
        """Remove a job's original, background and results, and leave its record.

        Raises:
            StoreUnavailableError: not all of them are gone; repeat it.
        """
        for key in self._pictures(job):
            self.objects.delete(key)

    def erase_unread(self, task_id: str) -> None:
        """Remove the pictures of a job whose record cannot be read, by where they always lie.

        Raises:
            StoreUnavailableError: not all of them are gone; repeat it.
        """
        for key in (keys.original_key(task_id), keys.background_key(task_id)):
            self.objects.delete(key)
        for key in list(self.objects.list(keys.results_prefix(task_id))):
            self.objects.delete(key)

    def _pictures(self, job: Job) -> Iterator[str]:
        yield job.original_key
        if job.background_key:
            yield job.background_key
        if job.result_key:
            yield job.result_key
        # Earlier runs may have died over theirs.
        yield from self.objects.list(keys.results_prefix(job.task_id))
