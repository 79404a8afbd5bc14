"""What is known of a batch."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from tasks.jobs import JobError


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a batch.

    Attributes:
        name: the input's, as its sender calls it; not to be trusted.
        task_id: its job; None if it was refused.
        error: why it was refused.
    """

    name: str
    task_id: str | None = None
    error: JobError | None = None

    def write(self) -> str:
        """As it stands in Redis."""
        error = self.error and [self.error.type, self.error.message, self.error.retryable]
        return json.dumps([self.name, self.task_id, error], separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Self:
        """The inverse of `write`."""
        name, task_id, error = json.loads(text)
        return cls(name, task_id, JobError(*error) if error else None)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch's record. Times are unix seconds.

    Attributes:
        batch_id: its name, which cannot be guessed.
        owner: id of whoever sent it.
        total: how many items it has.
        metadata: echoed wherever the batch is shown.
        webhook_url: who is to be told when all of it is done.
        completed_at: when the last item ended; None before.
        items: in the order in which they came.
    """

    batch_id: str
    owner: str
    created_at: float
    expires_at: float
    total: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    webhook_url: str | None = None
    request_id: str = ""
    completed_at: float | None = None
    items: tuple[Item, ...] = ()

    @property
    def task_ids(self) -> list[str]:
        """The jobs of the items that were not refused."""
        return [item.task_id for item in self.items if item.task_id]

    def to_record(self) -> dict[str, str]:
        """As a Redis hash, without the items."""
        record = {
            "batch_id": self.batch_id,
            "owner": self.owner,
            "created_at": repr(self.created_at),
            "expires_at": repr(self.expires_at),
            "metadata": json.dumps(self.metadata),
            "request_id": self.request_id,
        }
        return {**record, "webhook_url": self.webhook_url} if self.webhook_url else record

    @classmethod
    def from_record(cls, record: dict[str, str], items: list[str]) -> Self:
        """The inverse of `to_record`, with the items."""
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
            items=tuple(map(Item.read, items)),
        )
