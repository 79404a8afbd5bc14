"""Deliveries in Redis: what is due, what came of it, and how the receivers behave."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import structlog
from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.records import ask_each
from tasks.scripts import load_scripts
from tasks.webhooks.delivery import Attempt, Delivery, outcome_of
from tasks.webhooks.schedule import Verdict

#: A row that cannot be read is looked at again after so long.
_ASIDE_SECONDS: Final = 60

_log = structlog.get_logger(__name__)


class DeliveryStore:
    """The rows. Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._scripts = load_scripts(client)

    def due(self, now: float, limit: int) -> list[Delivery]:
        """The next deliveries to send, the one that is due longest first."""
        with redis_errors():
            ids = self._client.zrangebyscore(keys.DELIVERIES_DUE, "-inf", now, start=0, num=limit)
        records = self._records(cast("list[str]", ids))
        for each in [each for each, record in records.items() if record and not _read(record)]:
            # Until somebody mends it; the others are not to wait behind it.
            self.postpone({each: now + _ASIDE_SECONDS})
            _log.error("webhook.unreadable", webhook_id=each)
        return self._readable(records, forget=True)

    def _rows(self, ids: Sequence[str], *, forget: bool = False) -> list[Delivery]:
        return self._readable(self._records(ids), forget=forget)

    def _records(self, ids: Sequence[str]) -> dict[str, Any]:
        with redis_errors():
            found = ask_each(
                self._client, ids, lambda pipe, each: pipe.hgetall(keys.delivery_key(each))
            )
        return dict(zip(ids, found, strict=True))

    def _readable(self, records: Mapping[str, Any], *, forget: bool) -> list[Delivery]:
        gone = [each for each, record in records.items() if not record]
        if forget and gone:
            with redis_errors():
                self._client.zrem(keys.DELIVERIES_DUE, *gone)
                self._client.zrem(keys.DELIVERIES_DEAD, *gone)
        return [row for row in map(_read, records.values()) if row]

    def claim(self, delivery_id: str, now: float, *, seconds: float) -> str | None:
        """Take a delivery that is due; the claim, or None if another sender has it.

        Args:
            delivery_id: which.
            now: unix time.
            seconds: after these it is due again, should its sender have died.
        """
        claim = secrets.token_hex(8)
        with redis_errors():
            ours = self._scripts["claim_delivery"](args=[delivery_id, claim, now, now + seconds])
        return claim if ours else None

    def postpone(self, due: Mapping[str, float]) -> None:
        """Leave deliveries that were not claimed until later, each to its unix time."""
        if due:
            with redis_errors():
                self._client.zadd(keys.DELIVERIES_DUE, dict(due), xx=True)

    def note(
        self, delivery: Delivery, claim: str, attempt: Attempt | None, verdict: Verdict
    ) -> str:
        """Write down an attempt and what follows; `late` if another sender has taken over."""
        with redis_errors():
            settled = self._scripts["note_attempt"](
                args=[
                    delivery.id,
                    claim,
                    attempt.write() if attempt else "",
                    verdict.state.value,
                    verdict.due,
                    verdict.reason,
                    outcome_of(attempt),
                ]
            )
        return str(settled)

    def get(self, delivery_id: str) -> Delivery | None:
        """A row, or None."""
        return next(iter(self._rows([delivery_id])), None)

    def of(self, subject: str) -> list[Delivery]:
        """All deliveries about a task or a batch, in the order of their birth."""
        with redis_errors():
            ids = self._client.lrange(keys.deliveries_key(subject), 0, -1)
        return self._rows(cast("list[str]", ids))

    def attempts(self, delivery_id: str) -> list[Attempt]:
        """The latest 50 attempts, the first one first."""
        with redis_errors():
            found = self._client.lrange(keys.attempts_key(delivery_id), 0, -1)
        return [Attempt.read(text) for text in cast("list[str]", found)]

    def waiting(self, limit: int) -> list[Delivery]:
        """Deliveries that are to be sent, the next one first."""
        with redis_errors():
            ids = self._client.zrange(keys.DELIVERIES_DUE, 0, limit - 1)
        return self._rows(cast("list[str]", ids), forget=True)

    def dead(self, limit: int) -> list[Delivery]:
        """Deliveries that were given up, the newest first."""
        with redis_errors():
            ids = self._client.zrevrange(keys.DELIVERIES_DEAD, 0, limit - 1)
        return self._rows(cast("list[str]", ids), forget=True)

    def next_due(self, delivery_id: str) -> float | None:
        """The unix time of the next attempt, if there is to be one."""
        with redis_errors():
            score = self._client.zscore(keys.DELIVERIES_DUE, delivery_id)
        return None if score is None else float(score)

    def replay(self, delivery_id: str, now: float) -> bool:
        """Have it sent again, as if it were new; False if it is not known any more."""
        with redis_errors():
            return bool(self._scripts["replay_delivery"](args=[delivery_id, now]))

    def drop(self, delivery_id: str) -> bool:
        """Give it up on an operator's word; False if it was not waiting and not dead."""
        with redis_errors():
            return bool(self._scripts["drop_delivery"](args=[delivery_id]))

    def disable(self, delivery: Delivery, now: float) -> None:
        """Its target is not to be called again for this owner."""
        with redis_errors():
            self._client.hset(keys.DISABLED_TARGETS, _target(delivery), str(now))

    def enable(self, delivery: Delivery) -> None:
        """Its target took an event, so it is there again."""
        with redis_errors():
            self._client.hdel(keys.DISABLED_TARGETS, _target(delivery))

    def disabled(self, delivery: Delivery) -> bool:
        """Did its target say that it is gone?"""
        with redis_errors():
            return bool(self._client.hexists(keys.DISABLED_TARGETS, _target(delivery)))


def _read(record: Any) -> Delivery | None:  # noqa: ANN401 - what `ask_each` gives
    """A row; None if it is not what this version writes."""
    try:
        return Delivery.from_record(record)
    except (KeyError, TypeError, ValueError):
        return None


def _target(delivery: Delivery) -> str:
    # An address may hold a secret in its path: its hash will do.
    digest = hashlib.sha256(delivery.url.encode()).hexdigest()
    return f"{delivery.owner}|{digest}"
