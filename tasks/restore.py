"""Rebuilds the records that Redis lost, from the originals in the bucket."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from tasks import keys
from tasks.dispatch import Dispatcher
from tasks.errors import IdTakenError, ObjectNotFoundError, QueueUnavailableError
from tasks.jobs import Job
from tasks.manifest import read_manifest
from tasks.routing import Router
from tasks.storage import ObjectStore
from tasks.store import JobStore

_AT_ONCE = 500


@dataclass(slots=True)
class Findings:
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
    dispatcher: Dispatcher
    router: Router
    clock: Callable[[], float] = time.time

    def find(self) -> Findings:
        """Look at every original in the bucket.

        Raises:
            StoreUnavailableError, QueueUnavailableError: one of them does not answer.
        """
        findings = Findings()
        originals = self.objects.list(keys.ORIGINALS)
        while block := list(islice(originals, _AT_ONCE)):
            for key in self._without_record(block, findings):
                self._look_at(key, findings)
        findings.lost.sort(key=lambda job: job.created_at)
        return findings

    def _without_record(self, originals: list[str], findings: Findings) -> Iterator[str]:
        by_id = {keys.task_id_of(key): key for key in originals}
        recorded = self.store.recorded(list(by_id))
        findings.recorded += len(recorded)
        yield from (key for task_id, key in by_id.items() if task_id not in recorded)

    def _look_at(self, key: str, findings: Findings) -> None:
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
