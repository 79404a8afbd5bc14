"""The records of batches in Redis. Their jobs' ends are counted by the scripts that end jobs."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from redis import Redis

from tasks import keys
from tasks.batches.record import Batch, Item
from tasks.connection import redis_errors
from tasks.scripts import load_scripts
from tasks.store import RECORD_GRACE_SECONDS

#: Too little time for a batch to be taken in would have it vanish in the middle.
_SUFFIXES: Final = ("", ":items", ":ends")


class BatchStore:
    """Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._scripts = load_scripts(client)
        self._clock = clock

    def create(self, batch: Batch) -> None:
        """Begin a batch; its jobs may be submitted from now on."""
        name = keys.batch_key(batch.batch_id)
        flat: list[Any] = [part for pair in batch.to_record().items() for part in pair]
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(name, items=flat)
            pipe.expireat(name, int(batch.expires_at + RECORD_GRACE_SECONDS))
            pipe.zadd(keys.BATCHES, {batch.batch_id: batch.expires_at + RECORD_GRACE_SECONDS})
            pipe.execute()

    def seal(self, batch: Batch, items: Sequence[Item]) -> None:
        """Say what belongs to a batch; it is done once all of that has ended, maybe now."""
        with redis_errors():
            self._scripts["seal_batch"](
                args=[
                    batch.batch_id,
                    self._clock(),
                    int(batch.expires_at + RECORD_GRACE_SECONDS),
                    *(part for item in items for part in (item.write(), item.task_id or "")),
                ]
            )

    def get(self, batch_id: str) -> Batch | None:
        """The record, or None."""
        name = keys.batch_key(batch_id)
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(name)
            pipe.lrange(f"{name}:items", 0, -1)
            record, items = pipe.execute()
        return Batch.from_record(record, items) if record else None

    def remove(self, batch_id: str) -> None:
        """Forget a batch; its jobs are their own."""
        name = keys.batch_key(batch_id)
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.delete(*(f"{name}{suffix}" for suffix in _SUFFIXES))
            pipe.zrem(keys.BATCHES, batch_id)
            pipe.execute()

    def expired(self, now: float) -> list[str]:
        """The ids of batches whose records' time was over at `now`."""
        with redis_errors():
            return cast("list[str]", self._client.zrangebyscore(keys.BATCHES, "-inf", now))
