"""Lifts jobs that wait for too long, a few at a time, so that no priority is starved.

A step up once they waited for so many seconds, another one after as long again. At most
`MAX_LIFTED` lifted jobs stand on a list at once: a batch cannot become urgent as a whole, and
whoever is waiting meets no more of them than that.
"""

from collections.abc import Callable, Iterator
from typing import Final

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.jobs import Job, Priority, Status
from tasks.store import JobStore, Sending
from tasks.worker.skipped import Skipped

#: Lifted jobs on one list.
MAX_LIFTED: Final = 2
#: Looked at on one list in one pass; the oldest stand first.
_MOST: Final = 16
#: The step above each.
_ABOVE: Final = {
    f"{int(Priority.LOW)}": Priority.NORMAL,
    f"{int(Priority.NORMAL)}": Priority.HIGH,
}


class Ageing:
    """Finds the jobs whose turn it is to be lifted.

    Args:
        client: Redis.
        store: the records.
        skipped: takes those that cannot be read.
        seconds: how long a job waits on each step.
        clock: gives unix seconds.
    """

    def __init__(
        self,
        client: Redis,
        store: JobStore,
        skipped: Skipped,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._store = store
        self._skipped = skipped
        self._seconds = seconds
        self._clock = clock

    def find(self) -> list[Sending]:
        """The messages by which the oldest of them are lifted."""
        return [sending for name in self._store.lists() for sending in self._lift_from(name)]

    def _lift_from(self, name: str) -> Iterator[Sending]:
        queue, _, step = name.rpartition("|")
        above = _ABOVE.get(step)
        if above is None:
            return
        free, oldest = self._look_at(name, f"{queue}|{int(above)}")
        ripe = (job for job, since in self._waiting(oldest) if self._is_ripe(job, since))
        for _, job in zip(range(free), ripe, strict=False):
            yield Sending(job.task_id, queue, above, after=job.dispatch_seq)

    def _look_at(self, name: str, above: str) -> tuple[int, list[str]]:
        """How many may be lifted from a list now, and its oldest jobs."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.scard(keys.lifted_key(above))
            pipe.zrange(keys.sent_key(name), 0, _MOST - 1)
            lifted, oldest = pipe.execute()
        return max(0, MAX_LIFTED - lifted), oldest

    def _waiting(self, task_ids: list[str]) -> Iterator[tuple[Job, float]]:
        """Those that are queued, and since when."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.zscore(keys.index_key(Status.QUEUED), task_id)
            since = dict(zip(task_ids, pipe.execute(), strict=True))
        found = self._store.read(task_ids)
        for task_id, reason in found.unreadable.items():
            self._skipped.note(task_id, "lift", reason)
        for job in found.jobs:
            entered = since[job.task_id]
            if entered is not None:
                yield job, float(entered)

    def _is_ripe(self, job: Job, since: float) -> bool:
        steps = list(Priority)
        lifted = steps.index(job.priority) - steps.index(job.effective_priority)
        return self._clock() - since >= self._seconds * (lifted + 1)
