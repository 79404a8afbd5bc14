"""Batch records in Redis. The Lua command that ends a job counts that end in its batch."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from redis import Redis

from tasks import keys, scripts
from tasks.batches.record import Batch, Item
from tasks.connection import redis_errors
from tasks.store import RECORD_GRACE_SECONDS

_SUFFIXES: Final = ("", ":items", ":ends")


class BatchStore:
    """The records. Every method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def create(self, batch: Batch) -> None:
        """Record a new batch; its jobs may be submitted from now on."""
        name = keys.batch_key(batch.batch_id)
        flat: list[Any] = [part for pair in batch.to_record().items() for part in pair]
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(name, items=flat)
            pipe.expireat(name, int(batch.expires_at + RECORD_GRACE_SECONDS))
            pipe.zadd(keys.BATCHES, {batch.batch_id: batch.expires_at + RECORD_GRACE_SECONDS})
            pipe.execute()

    def seal(self, batch: Batch, items: Sequence[Item]) -> None:
        """Record the items of a batch; it completes once all their jobs have ended, perhaps now."""
        with redis_errors():
            scripts.JOBS.run(
                self._client,
                "seal_batch",
                batch=batch.batch_id,
                now=self._clock(),
                expiry=int(batch.expires_at + RECORD_GRACE_SECONDS),
                items=[(item.write(), item.task_id or "") for item in items],
            )

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch, or None."""
        name = keys.batch_key(batch_id)
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(name)
            pipe.lrange(f"{name}:items", 0, -1)
            record, items = pipe.execute()
        return Batch.from_record(record, items) if record else None

    def remove(self, batch_id: str) -> None:
        """Remove a batch's record; its jobs stay."""
        name = keys.batch_key(batch_id)
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.delete(*(f"{name}{suffix}" for suffix in _SUFFIXES))
            pipe.zrem(keys.BATCHES, batch_id)
            pipe.execute()

    def expired(self, now: float) -> list[str]:
        """Return the ids of batches whose records had expired at `now`."""
        with redis_errors():
            return cast("list[str]", self._client.zrangebyscore(keys.BATCHES, "-inf", now))
