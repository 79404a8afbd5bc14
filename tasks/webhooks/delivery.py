"""A webhook delivery and its attempts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import urlsplit

#: What a receiver may be told of a task.
TASK_EVENTS: Final = ("removal.succeeded", "removal.failed", "removal.canceled")
#: What it may be told of a batch.
BATCH_COMPLETED: Final = "batch.completed"


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    #: To be sent, perhaps again.
    PENDING = "pending"
    #: A receiver took it.
    DELIVERED = "delivered"
    #: Given up; it can be replayed.
    DEAD = "dead"
    #: Given up by an operator.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row. Times are unix seconds.

    Attributes:
        id: the `webhook-id`, the same on every attempt.
        kind: task or batch.
        subject: id of the task or the batch.
        event: such as `removal.succeeded`.
        url: of the receiver.
        owner: whose event it is, and whose secret signs it.
        created_at: when what it tells of happened.
        expires_at: when the pictures that it tells of are gone.
        state: where it stands.
        attempts: made in all.
        tries: made since it was born, or last replayed.
        reason: why it is dead.
        replayed: somebody asked for it to be sent once more.
    """

    id: str
    kind: str
    subject: str
    event: str
    url: str
    owner: str
    created_at: float
    expires_at: float
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    tries: int = 0
    reason: str = ""
    replayed: bool = False

    @property
    def host(self) -> str:
        """The receiver's host and port, which share one breaker."""
        return urlsplit(self.url).netloc.lower()

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """From a Redis hash."""
        return cls(
            id=record["id"],
            kind=record["kind"],
            subject=record["subject"],
            event=record["event"],
            url=record["url"],
            owner=record["owner"],
            created_at=float(record["created_at"]),
            expires_at=float(record["expires_at"]),
            state=DeliveryState(record["state"]),
            attempts=int(record["attempts"]),
            tries=int(record["tries"]),
            reason=record.get("reason", ""),
            replayed=record.get("replayed") == "1",
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one POST.

    Attributes:
        at: unix time of its beginning.
        outcome: delivered, refused (an answer that is no 2xx), or a network error's code.
        status: of HTTP; None without an answer.
        ms: milliseconds that it took.
        answer: the first 500 bytes of the answer, or why there is none.
    """

    at: float
    outcome: str
    status: int | None
    ms: int
    answer: str

    def write(self) -> str:
        """As it stands in Redis."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Self:
        """The inverse of `write`."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


def attempt_outcome(attempt: Attempt | None) -> str:
    """What the metrics and the log call it; `not_sent` if something stood against an attempt."""
    return attempt.outcome if attempt else "not_sent"
