"""Restores job records that Redis lost, from the manifests in the bucket."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from tasks.errors import IdTakenError, ObjectNotFoundError, QueueUnavailableError
from tasks.jobs.job import Job
from tasks.jobs.job_objects import get_manifest
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import JobStore
from tasks.object_store import ORIGINALS, ObjectStore, task_id_of_object

#: Originals whose records are looked up at once.
_BLOCK_SIZE: Final = 500


@dataclass(slots=True)
class RestoreReport:
    """What a comparison of the bucket with the records found."""

    #: Jobs without a record, the oldest first.
    lost: list[Job] = field(default_factory=list)
    #: Number of originals with a record.
    recorded: int = 0
    #: Number of originals without a record that have expired.
    expired: int = 0
    #: Keys of originals without a valid manifest.
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restorer:
    """Finds jobs without a record, and records them again; both steps may be repeated."""

    job_store: JobStore
    object_store: ObjectStore
    dispatcher: JobDispatcher
    router: Router
    clock: Callable[[], float] = time.time

    def find(self) -> RestoreReport:
        """Compare all originals in the bucket with the records.

        Raises:
            ObjectStoreUnavailableError, QueueUnavailableError: a server does not answer.
        """
        report = RestoreReport()
        originals = self.object_store.list(ORIGINALS)
        while block := list(islice(originals, _BLOCK_SIZE)):
            by_id = {task_id_of_object(key): key for key in block}
            recorded = self.job_store.recorded(list(by_id))
            report.recorded += len(recorded)
            for task_id, key in by_id.items():
                if task_id not in recorded:
                    self._examine(task_id, key, report)
        report.lost.sort(key=lambda job: job.created_at)
        return report

    def _examine(self, task_id: str, key: str, report: RestoreReport) -> None:
        try:
            job = get_manifest(self.object_store, task_id)
        except ObjectNotFoundError:
            return  # erased since it was listed
        if job is None:
            report.unreadable.append(key)
        elif job.expires_at <= self.clock():
            report.expired += 1
        else:
            report.lost.append(job)

    def restore(self, job: Job) -> bool:
        """Record a job as queued, and send its message; False if it has a record by now.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        job = job.evolve(queue=self.router.choose(job.model))
        if job.deadline is not None:
            # It may have passed during the outage: the queue timeout begins again.
            timeout = job.deadline - job.created_at
            deadline = min(self.clock() + timeout, job.expires_at)
            job = job.evolve(queue_timeout=timeout, deadline=deadline)
        try:
            recorded = self.job_store.create(job).job
        except IdTakenError:
            return False
        # The record stands: if Redis goes away now, the reconciler sends the message later.
        with suppress(QueueUnavailableError):
            self.dispatcher.send(recorded)
        return True
