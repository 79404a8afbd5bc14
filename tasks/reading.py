"""Reads job records and their indices."""

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
    """Reads records; every method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def get(self, task_id: str) -> Job | None:
        """Return a job, or None.

        Raises:
            UnreadableRecordError: its record is damaged.
        """
        found = self.read([task_id])
        for each, reason in found.unreadable.items():
            raise UnreadableRecordError(each, reason)
        return next(iter(found.jobs), None)

    def get_many(self, task_ids: Sequence[str]) -> list[Job]:
        """Return the jobs of those ids that have a readable record, in one round trip."""
        return self.read(task_ids).readable()

    def read(self, task_ids: Sequence[str]) -> Records:
        """Read the records of those ids that have one, with the reasons of unreadable ones."""
        with redis_errors():
            return read_records(self._client, task_ids)

    def recorded(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a record."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(keys.job_key(task_id))
            found = pipe.execute()
        return {task_id for task_id, there in zip(task_ids, found, strict=True) if there}

    def waiting_in(self, queue: str, task_ids: Sequence[str]) -> list[str]:
        """Return those of the ids whose record names a queue, even if the record is damaged."""
        with redis_errors():
            named = ask_each(
                self._client, task_ids, lambda pipe, each: pipe.hget(keys.job_key(each), "queue")
            )
        return [task_id for task_id, name in zip(task_ids, named, strict=True) if name == queue]

    def lists(self) -> list[str]:
        """Return the lists that messages were dispatched to, as `<queue>|<priority level>`."""
        with redis_errors():
            return sorted(cast("set[str]", self._client.smembers(keys.LISTS)))

    def position(self, task_id: str) -> int:
        """Return how many jobs wait ahead of this one in all queues; 0 if it does not wait."""
        with redis_errors():
            rank = self._client.zrank(keys.index_key(Status.QUEUED), task_id)
        return cast("int | None", rank) or 0

    def ids(self, status: Status) -> list[str]:
        """Return the ids of a status, by the time of entry."""
        return self._members(keys.index_key(status), "+inf")

    def dead(self) -> list[str]:
        """Return the ids of the dead letters, the oldest first."""
        return self._members(keys.DEAD, "+inf")

    def newest(self, statuses: Iterable[Status], limit: int) -> list[Job]:
        """Return the latest jobs of these statuses, the newest first."""
        return self.read_newest(statuses, limit).readable()

    def read_newest(self, statuses: Iterable[Status], limit: int) -> Records:
        """Read the latest jobs of these statuses, with the reasons of unreadable ones."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for status in statuses:
                pipe.zrange(keys.index_key(status), 0, limit - 1, desc=True)
            found = [task_id for ids in pipe.execute() for task_id in ids]
        records = self.read(found)
        jobs = sorted(records.jobs, key=lambda job: job.created_at, reverse=True)
        return Records(jobs[:limit], records.unreadable)

    def counts(self) -> dict[Status, int]:
        """Return the number of jobs by status."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for status in Status:
                pipe.zcard(keys.index_key(status))
            return dict(zip(Status, pipe.execute(), strict=True))

    def due(self, most: int | None = None) -> list[str]:
        """Return the ids of queued jobs that are to be dispatched now, the first `most` of them."""
        return self._members(keys.DUE, self._clock(), most)

    def is_due(self, task_id: str) -> bool:
        """Return whether a queued job is to be dispatched now."""
        with redis_errors():
            score = self._client.zscore(keys.DUE, task_id)
        return score is not None and score <= self._clock()

    def overdue(self, most: int | None = None) -> list[str]:
        """Return the ids of jobs whose deadline has passed, the first `most` of them."""
        return self._members(keys.DEADLINES, self._clock(), most)

    def has_lease(self, task_id: str) -> bool:
        """Return whether a worker holds the lease."""
        return task_id not in self.without_lease([task_id])

    def without_lease(self, task_ids: Sequence[str]) -> list[str]:
        """Return those of the ids whose lease no worker holds."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(keys.lease_key(task_id))
            found = pipe.execute()
        return [task_id for task_id, held in zip(task_ids, found, strict=True) if not held]

    def ready_workers(self) -> list[str]:
        """Return the names of the workers that are alive and ready."""
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
