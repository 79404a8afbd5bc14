"""A webhook delivery and its attempts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import urlsplit

#: The events of a task.
TASK_EVENTS: Final = ("removal.succeeded", "removal.failed", "removal.canceled")


class DeliveryState(StrEnum):
    """The states of a delivery."""

    #: An attempt is due, now or later.
    PENDING = "pending"
    #: The receiver accepted it.
    DELIVERED = "delivered"
    #: Given up; an operator or its owner can replay it.
    DEAD = "dead"
    #: Given up by an operator.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The record of a delivery. Times are unix seconds.

    Attributes:
        id: the `webhook-id`, the same on every attempt.
        kind: task or batch.
        subject: id of the task or the batch.
        event: such as `removal.succeeded`.
        url: of the receiver.
        owner: whose event it is, and whose secret signs it; empty without an API key.
        created_at: when the event happened.
        expires_at: when the images of its subject expire.
        state: see `DeliveryState`.
        attempts: all attempts.
        tries: attempts since the event, or since the last replay.
        reason: why it is dead.
        replayed: an operator or its owner has replayed it.
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
        """Return the receiver's host and port, which have one circuit breaker."""
        return urlsplit(self.url).netloc.lower()

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Build a delivery from a Redis hash."""
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
    """The outcome of one POST.

    Attributes:
        at: unix time of its start.
        outcome: delivered, refused (an answer that is no 2xx), or a network error's code.
        status: of HTTP; None without an answer.
        ms: its duration in milliseconds.
        answer: the first 500 bytes of the answer, or why there is none.
    """

    at: float
    outcome: str
    status: int | None
    ms: int
    answer: str

    def write(self) -> str:
        """Return the attempt as JSON, as Redis holds it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse what `write` returned."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


def attempt_outcome(attempt: Attempt | None) -> str:
    """Return the outcome for metrics and log; `not_sent` if no attempt was made."""
    return attempt.outcome if attempt else "not_sent"
