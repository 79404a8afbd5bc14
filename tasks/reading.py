"""Jobs' records as they are: everything that changes none of them."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.errors import UnreadableRecordError
from tasks.jobs import Job, Status
from tasks.records import Records, ask_each, read_records


class JobReader:
    """The records. Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def get(self, task_id: str) -> Job | None:
        """The record, or None.

        Raises:
            UnreadableRecordError: it is damaged.
        """
        found = self.read([task_id])
        for each, reason in found.unreadable.items():
            raise UnreadableRecordError(each, reason)
        return next(iter(found.jobs), None)

    def get_many(self, task_ids: Sequence[str]) -> list[Job]:
        """The records of those that have one that can be read, in that order, in one round trip."""
        return self.read(task_ids).told()

    def read(self, task_ids: Sequence[str]) -> Records:
        """The records of those that have one, and what is wrong with the others."""
        with redis_errors():
            return read_records(self._client, task_ids)

    def recorded(self, task_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a record."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(keys.job_key(task_id))
            found = pipe.execute()
        return {task_id for task_id, there in zip(task_ids, found, strict=True) if there}

    def waiting_in(self, queue: str, task_ids: Sequence[str]) -> list[str]:
        """Those of the ids whose record names a queue, even if the rest of it cannot be read."""
        with redis_errors():
            named = ask_each(
                self._client, task_ids, lambda pipe, each: pipe.hget(keys.job_key(each), "queue")
            )
        return [task_id for task_id, name in zip(task_ids, named, strict=True) if name == queue]

    def lists(self) -> list[str]:
        """The lists that messages were sent to, as `<queue>|<step>`."""
        with redis_errors():
            return sorted(cast("set[str]", self._client.smembers(keys.LISTS)))

    def position(self, task_id: str) -> int:
        """How many jobs wait ahead of this one, in all queues; 0 once it no longer waits."""
        with redis_errors():
            rank = self._client.zrank(keys.index_key(Status.QUEUED), task_id)
        return cast("int | None", rank) or 0

    def ids(self, status: Status) -> list[str]:
        """The ids of a status, by the time they entered it."""
        return self._members(keys.index_key(status), "+inf")

    def dead(self) -> list[str]:
        """The ids of the dead letters, oldest first."""
        return self._members(keys.DEAD, "+inf")

    def newest(self, statuses: Iterable[Status], limit: int) -> list[Job]:
        """The jobs of these statuses that were submitted last, newest first."""
        return self.read_newest(statuses, limit).told()

    def read_newest(self, statuses: Iterable[Status], limit: int) -> Records:
        """The same, and what is wrong with those that cannot be read."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for status in statuses:
                pipe.zrange(keys.index_key(status), 0, limit - 1, desc=True)
            found = [task_id for ids in pipe.execute() for task_id in ids]
        records = self.read(found)
        jobs = sorted(records.jobs, key=lambda job: job.created_at, reverse=True)
        return Records(jobs[:limit], records.unreadable)

    def counts(self) -> dict[Status, int]:
        """How many jobs each status has."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for status in Status:
                pipe.zcard(keys.index_key(status))
            return dict(zip(Status, pipe.execute(), strict=True))

    def due(self, most: int | None = None) -> list[str]:
        """The ids of queued jobs whose next message is to be sent now; the first `most` of them."""
        return self._members(keys.DUE, self._clock(), most)

    def is_due(self, task_id: str) -> bool:
        """Is a queued job's next message to be sent now?"""
        with redis_errors():
            score = self._client.zscore(keys.DUE, task_id)
        return score is not None and score <= self._clock()

    def overdue(self, most: int | None = None) -> list[str]:
        """The ids of jobs whose deadline is over; the first `most` of them."""
        return self._members(keys.DEADLINES, self._clock(), most)

    def has_lease(self, task_id: str) -> bool:
        """Is a worker at it?"""
        return task_id not in self.without_lease([task_id])

    def without_lease(self, task_ids: Sequence[str]) -> list[str]:
        """Those of the ids that no worker is at."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(keys.lease_key(task_id))
            found = pipe.execute()
        return [task_id for task_id, held in zip(task_ids, found, strict=True) if not held]

    def ready_workers(self) -> list[str]:
        """The names of the workers that live, and whose model answered lately."""
        now = self._clock()
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for index in (keys.READY_INDEX, keys.ALIVE_INDEX):
                pipe.zrangebyscore(index, now, "+inf")
            ready, alive = pipe.execute()
        return sorted({*ready} & {*alive})

    def ping(self) -> None:
        """Raise unless Redis answers."""
        with redis_errors():
            self._client.ping()

    def _members(self, key: str, until: float | str, most: int | None = None) -> list[str]:
        start = None if most is None else 0
        with redis_errors():
            found = self._client.zrangebyscore(key, "-inf", until, start=start, num=most)
        return cast("list[str]", found)
