"""Restore job records that Redis lost from the manifests of the originals in the bucket."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from tasks.errors import IdTakenError, ObjectNotFoundError, QueueUnavailableError
from tasks.jobs.artifacts import read_manifest
from tasks.jobs.model import Job
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import JobStore
from tasks.storage import object_keys
from tasks.storage.object_store import ObjectStore

_BLOCK_SIZE = 500


@dataclass(slots=True)
class RestoreReport:
    """What the bucket holds.

    Attributes:
        lost: jobs without a record, the oldest first.
        recorded: number of originals whose record is there.
        expired: number of originals without a record that are past their time.
        unreadable: keys of originals that do not tell whose they are.
    """

    lost: list[Job] = field(default_factory=list)
    recorded: int = 0
    expired: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restorer:
    """Compares the bucket with the records; both steps may be repeated without harm."""

    store: JobStore
    objects: ObjectStore
    dispatcher: JobDispatcher
    router: Router
    clock: Callable[[], float] = time.time

    def find(self) -> RestoreReport:
        """Look at every original in the bucket.

        Raises:
            StoreUnavailableError, QueueUnavailableError: one of them does not answer.
        """
        findings = RestoreReport()
        originals = self.objects.list(object_keys.ORIGINALS)
        while block := list(islice(originals, _BLOCK_SIZE)):
            for key in self._without_record(block, findings):
                self._look_at(key, findings)
        findings.lost.sort(key=lambda job: job.created_at)
        return findings

    def _without_record(self, originals: list[str], findings: RestoreReport) -> Iterator[str]:
        by_id = {object_keys.task_id_of_original(key): key for key in originals}
        recorded = self.store.recorded(list(by_id))
        findings.recorded += len(recorded)
        yield from (key for task_id, key in by_id.items() if task_id not in recorded)

    def _look_at(self, key: str, findings: RestoreReport) -> None:
        try:
            job = read_manifest(key, self.objects.metadata(key))
        except ObjectNotFoundError:
            return  # erased since it was listed
        if job is None:
            findings.unreadable.append(key)
        elif job.expires_at <= self.clock():
            findings.expired += 1
        else:
            findings.lost.append(job)

    def restore(self, job: Job) -> bool:
        """Record a job as queued, and send it; False if it has a record by now.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        queue = self.router.choose(job.model, job.priority)
        try:
            # Its deadline may be over; that it waits is no fault of its submitter's.
            recorded = self.store.create(job.restarted(self.clock()).evolve(queue=queue))
        except IdTakenError:
            return False
        # The record stands: if Redis goes away now, the reconciler sends the message later.
        with suppress(QueueUnavailableError):
            self.dispatcher.send(recorded)
        return True
