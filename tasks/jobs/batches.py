"""Batches: their records and items in Redis."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from redis import Redis

from tasks import lua_scripts, redis_keys
from tasks.jobs.job import JobError, dated_id, to_record
from tasks.jobs.store import RECORD_GRACE_SECONDS
from tasks.redis_client import redis_errors


def new_batch_id() -> str:
    """Draw a batch's id, `rb-YYYYMMDD-` (UTC) and a random word."""
    return dated_id("rb")


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One picture of a batch."""

    #: Of the file or URL, as the client calls it; not to be trusted.
    name: str
    #: Its job; None if the picture was refused.
    task_id: str | None = None
    #: Why it was refused.
    error: JobError | None = None

    def write(self) -> str:
        """Return the item as Redis stores it."""
        error = self.error and [self.error.type, self.error.message, self.error.retryable]
        return json.dumps([self.name, self.task_id, error], separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse an item."""
        name, task_id, error = json.loads(text)
        return cls(name, task_id, JobError(*error) if error else None)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch's record. Times are unix seconds."""

    batch_id: str
    owner: str
    created_at: float
    expires_at: float
    #: Number of items.
    total: int = 0
    #: A JSON object that is repeated in each answer about the batch.
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Where the webhook of its completion goes.
    webhook_url: str | None = None
    request_id: str = ""
    #: When the last job ended; None before.
    completed_at: float | None = None
    #: In the order of the request.
    items: tuple[BatchItem, ...] = ()

    @property
    def task_ids(self) -> list[str]:
        """Ids of the jobs of all items that were not refused."""
        return [item.task_id for item in self.items if item.task_id]

    def to_record(self) -> dict[str, str]:
        """Return the record as a Redis hash, without the items."""
        names = self.__dataclass_fields__.keys() - {"total", "items"}
        return to_record({name: getattr(self, name) for name in names})

    @classmethod
    def from_record(cls, record: dict[str, str], items: list[str]) -> Self:
        """Parse a Redis hash and its list of items."""
        completed = record.get("completed_at")
        return cls(
            batch_id=record["batch_id"],
            owner=record["owner"],
            created_at=float(record["created_at"]),
            expires_at=float(record["expires_at"]),
            total=len(items),
            metadata=json.loads(record["metadata"]),
            webhook_url=record.get("webhook_url"),
            request_id=record["request_id"],
            completed_at=float(completed) if completed else None,
            items=tuple(map(BatchItem.read, items)),
        )


@dataclass(frozen=True, slots=True)
class BatchStore:
    """The records. Every method raises `QueueUnavailableError` if Redis does not answer."""

    client: Redis
    clock: Callable[[], float] = time.time

    def create(self, batch: Batch) -> None:
        """Record a new batch; its jobs may be submitted from now on."""
        name = redis_keys.batch_key(batch.batch_id)
        with redis_errors(), self.client.pipeline(transaction=True) as pipe:
            pipe.hset(name, items=[part for pair in batch.to_record().items() for part in pair])
            pipe.expireat(name, int(batch.expires_at + RECORD_GRACE_SECONDS))
            pipe.zadd(redis_keys.BATCHES, {batch.batch_id: batch.expires_at + RECORD_GRACE_SECONDS})
            pipe.execute()

    def seal(
        self,
        batch: Batch,
        items: Sequence[BatchItem],
        *,
        reservation: Mapping[str, str] | None = None,
    ) -> None:
        """Record the items of a batch; it completes once all their jobs have ended, perhaps now.

        `reservation` is of the request's Idempotency-Key, which is kept with them; see
        `JobStore.create`.
        """
        with redis_errors():
            lua_scripts.JOBS.run(
                self.client,
                "seal_batch",
                batch=batch.batch_id,
                now=self.clock(),
                expiry=int(batch.expires_at + RECORD_GRACE_SECONDS),
                items=[(item.write(), item.task_id or "") for item in items],
                reservation=reservation,
            )

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch, or None."""
        if not redis_keys.is_id(batch_id):
            return None
        name = redis_keys.batch_key(batch_id)
        with redis_errors(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(name)
            pipe.lrange(f"{name}:items", 0, -1)
            record, items = pipe.execute()
        return Batch.from_record(record, items) if record else None

    def remove(self, batch_id: str) -> None:
        """Remove a batch's record and its deliveries; its jobs stay."""
        with redis_errors():
            lua_scripts.JOBS.run(self.client, "erase_batch", batch=batch_id)

    def expired(self, now: float) -> list[str]:
        """Return the ids of batches whose records had expired at `now`."""
        with redis_errors():
            return cast("list[str]", self.client.zrangebyscore(redis_keys.BATCHES, "-inf", now))
