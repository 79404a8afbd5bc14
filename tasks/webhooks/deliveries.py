"""A webhook delivery and its attempts: their records in Redis, and every change of them."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

import structlog
from redis import Redis
from redis.exceptions import ResponseError

from tasks import lua_scripts, redis_keys
from tasks.lua_scripts import Argument
from tasks.redis_client import pipeline_each, redis_errors

#: The events of a task.
TASK_EVENTS: Final = ("removal.succeeded", "removal.failed", "removal.canceled")
#: How long a delivery that cannot be read is kept from the due ones.
_QUARANTINE_SECONDS: Final = 60

#: What `DeliveryStore.dispatch` returns instead of a message's number.
NOT_DUE: Final = 0
HOST_BUSY: Final = -1
OWNER_BUSY: Final = -2
#: What Lua's `claim` returns for an attempt without its full time.
_SHORT_CLAIM: Final = 1

#: Targets of one owner that are remembered as gone, the latest ones, and for how long.
_MAX_GONE: Final = 1000
_GONE_SECONDS: Final = 30 * 24 * 3600
#: An owner of whose attempts one took longer than this counts as slow for so long after it.
_SLOW_MS: Final = 2000
_SLOW_SECONDS: Final = 300.0

_log = structlog.get_logger(__name__)


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
        request_id: of the request that its subject comes from.
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
    request_id: str = ""

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
            request_id=record.get("request_id", ""),
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


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What follows from an attempt.

    Attributes:
        state: the delivery's next state.
        due: unix time of the next attempt, or of the end.
        reason: why the delivery is dead.
        pause_host: seconds for which its host gets no deliveries.
        disable: its target gets no more events.
    """

    state: DeliveryState
    due: float
    reason: str = ""
    pause_host: float = 0.0
    disable: bool = False


def _slow_until(attempt: Attempt | None) -> float | None:
    """Return until when an attempt makes its owner one with slow receivers; None if it does not."""
    if attempt is None or attempt.ms <= _SLOW_MS:
        return None
    return attempt.at + attempt.ms / 1000 + _SLOW_SECONDS


class Claim(NamedTuple):
    """The right to one attempt at a delivery.

    Attributes:
        token: fences the outcome.
        delivery: as it was when it was claimed.
        short: it has not its full time, since too many threads wait for slow receivers.
    """

    token: str
    delivery: Delivery
    short: bool = False


class DeliveryStore:
    """The records. Every method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def _run(self, command: str, **arguments: Argument) -> Any:  # noqa: ANN401 - what Redis gives
        with redis_errors():
            return lua_scripts.DELIVERIES.run(self._client, command, **arguments)

    def _read(self, ids: Any, *, forget: bool = False) -> dict[str, Delivery | None]:  # noqa: ANN401 - ids as Redis gives them
        """Read the records that exist; None in place of a damaged one.

        Args:
            ids: of the deliveries.
            forget: remove those without a record from the due and the dead ones.
        """
        with redis_errors():
            records = pipeline_each(
                self._client, ids, lambda pipe, each: pipe.hgetall(redis_keys.delivery_key(each))
            )
            found = dict(zip(ids, records, strict=True))
            if forget:
                self._forget([each for each, record in found.items() if not record])
        return {each: _parse_delivery(record) for each, record in found.items() if record}

    def _forget(self, ids: Sequence[str]) -> None:
        """Take deliveries that have no record off the due and the dead ones."""
        if ids:
            self._client.zrem(redis_keys.DELIVERIES_DUE, *ids)
            self._client.zrem(redis_keys.DELIVERIES_DEAD, *ids)

    def forget_expired(self, ids: Sequence[str]) -> None:
        """Take those of the ids whose record has expired off the due and the dead ones."""
        with redis_errors():
            there = pipeline_each(
                self._client, ids, lambda pipe, each: pipe.exists(redis_keys.delivery_key(each))
            )
            self._forget([each for each, found in zip(ids, there, strict=True) if not found])

    def get(self, delivery_id: str) -> Delivery | None:
        """Return a delivery, or None."""
        return self._read([delivery_id]).get(delivery_id) if redis_keys.is_id(delivery_id) else None

    def of(self, subject: str) -> list[Delivery]:
        """Return all deliveries of a task or a batch, the oldest first."""
        with redis_errors():
            ids = self._client.lrange(redis_keys.deliveries_key(subject), 0, -1)
        return _readable(self._read(ids))

    def due(self, now: float, limit: int) -> list[Delivery]:
        """Return the next deliveries to attempt, the longest due first."""
        with redis_errors():
            ids = self._client.zrangebyscore(
                redis_keys.DELIVERIES_DUE, "-inf", now, start=0, num=limit
            )
        found = self._read(ids, forget=True)
        for each, delivery in found.items():
            if delivery is None:
                # The others do not wait behind it.
                self._quarantine(each, now)
        return _readable(found)

    def waiting(self, limit: int) -> list[Delivery]:
        """Return pending deliveries, the next one due first."""
        with redis_errors():
            ids = self._client.zrange(redis_keys.DELIVERIES_DUE, 0, limit - 1)
        return _readable(self._read(ids, forget=True))

    def dead(self, limit: int) -> list[Delivery]:
        """Return dead deliveries, the newest first."""
        with redis_errors():
            ids = self._client.zrevrange(redis_keys.DELIVERIES_DEAD, 0, limit - 1)
        return _readable(self._read(ids, forget=True))

    def counts(self) -> tuple[int, int]:
        """Return how many deliveries are pending, and how many are dead."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.zcard(redis_keys.DELIVERIES_DUE)
            pipe.zcard(redis_keys.DELIVERIES_DEAD)
            waiting, dead = pipe.execute()
        return int(waiting), int(dead)

    def attempts(self, delivery_id: str) -> list[Attempt]:
        """Return the latest 50 attempts, the oldest first."""
        with redis_errors():
            found = self._client.lrange(redis_keys.attempts_key(delivery_id), 0, -1)
        return [Attempt.read(text) for text in cast("list[str]", found)]

    def next_due(self, delivery_id: str) -> float | None:
        """Return the unix time of the next attempt, or None."""
        with redis_errors():
            return self._client.zscore(redis_keys.DELIVERIES_DUE, delivery_id)

    def due_times(self, delivery_ids: Sequence[str]) -> dict[str, float]:
        """Return the unix times of the next attempts, of the deliveries that have one."""
        if not delivery_ids:
            return {}
        with redis_errors():
            found = self._client.zmscore(redis_keys.DELIVERIES_DUE, list(delivery_ids))
        times = zip(delivery_ids, found, strict=True)
        return {each: at for each, at in times if at is not None}

    def dispatch(
        self, delivery: Delivery, now: float, *, seconds: float, limit: int, threads: int
    ) -> int:
        """Hand a due delivery over to the queue; the caller sends its message.

        If no worker claims it, it is due again after `seconds`. Of its owner's deliveries to its
        host at most `limit` may be with the queue or a worker at once, and of all its owner's at
        most as many as it leaves of `threads` to all others.

        Returns:
            The number of its message, from 1; `NOT_DUE`, `HOST_BUSY` or `OWNER_BUSY`.
        """
        with redis_errors():
            try:
                answer = lua_scripts.DELIVERIES.run(
                    self._client,
                    "dispatch",
                    id=delivery.id,
                    owner=delivery.owner,
                    host=delivery.host,
                    now=now,
                    lapse=now + seconds,
                    limit=limit,
                    threads=threads,
                )
            except ResponseError:
                self._quarantine(delivery.id, now)
                return NOT_DUE
        return int(answer)

    def postpone(self, due: Mapping[str, float], now: float) -> None:
        """Make deliveries that are still due later, each at its unix time."""
        if due:
            times = {delivery_id: str(time) for delivery_id, time in due.items()}
            self._run("postpone", now=now, due=times)

    def _quarantine(self, delivery_id: str, now: float) -> None:
        """Keep a damaged delivery back until an operator has repaired it, for a while at a time."""
        self.postpone({delivery_id: now + _QUARANTINE_SECONDS}, now)
        _log.error("webhook.unreadable", webhook_id=delivery_id)

    def claim(
        self,
        delivery: Delivery,
        now: float,
        *,
        seconds: float,
        short: float | None = None,
        threads: int | None = None,
    ) -> Claim | None:
        """Claim a dispatched delivery for one attempt; None if there is no attempt to make.

        If the worker dies, the delivery is due again after `seconds`, or after `short` if enough of
        `threads` make attempts with their full time.
        """
        token = secrets.token_hex(8)
        short = seconds if short is None else short
        answer = self._run(
            "claim",
            id=delivery.id,
            owner=delivery.owner,
            host=delivery.host,
            claim=token,
            now=now,
            lapse=now + seconds,
            short_lapse=now + short,
            threads=threads or 0,
        )
        if not answer:
            return None
        kind, *record = answer
        claimed = Delivery.from_record(dict(zip(record[::2], record[1::2], strict=True)))
        return Claim(token, claimed, short=kind == _SHORT_CLAIM and short < seconds)

    def may_expire(self, delivery: Delivery, now: float) -> bool:
        """Return whether the clock has not jumped between its event and `now`."""
        return bool(self._run("has_passed", since=delivery.created_at, now=now))

    def release(
        self, delivery: Delivery, claim: str, due: float, *, slow_at: float | None = None
    ) -> None:
        """Give a claim up without an outcome: the delivery is due at a unix time.

        Args:
            delivery: as it was claimed.
            claim: its token.
            due: when it is due again.
            slow_at: unix time at which its receiver was found to be slow, if it was.
        """
        self._run(
            "release",
            id=delivery.id,
            owner=delivery.owner,
            host=delivery.host,
            claim=claim,
            due=due,
            slow_until=None if slow_at is None else slow_at + _SLOW_SECONDS,
        )

    def record_attempt(
        self, delivery: Delivery, claim: str, attempt: Attempt | None, decision: RetryDecision
    ) -> str:
        """Record an attempt and the state that follows from it.

        Returns:
            The state; `late` if the claim was lost, or `missing`.
        """
        return str(
            self._run(
                "record_attempt",
                id=delivery.id,
                owner=delivery.owner,
                host=delivery.host,
                claim=claim,
                attempt=attempt.write() if attempt else None,
                state=decision.state.value,
                due=decision.due,
                reason=decision.reason,
                outcome=attempt_outcome(attempt),
                slow_until=_slow_until(attempt),
            )
        )

    def replay(self, delivery_id: str, now: float) -> bool:
        """Send it again as if it were new; False if there is no such delivery."""
        return bool(self._run("replay", id=delivery_id, now=now))

    def drop(self, delivery_id: str) -> bool:
        """Give it up for an operator; False if it was neither pending nor dead."""
        return bool(self._run("drop", id=delivery_id))

    def disable(self, delivery: Delivery, now: float) -> None:
        """Stop calling its target for this owner, who has the latest 1,000 of them for 30 days."""
        self._run(
            "disable_target",
            key=redis_keys.gone_targets_key(delivery.owner),
            target=_target_digest(delivery),
            now=now,
            most=_MAX_GONE,
            seconds=_GONE_SECONDS,
        )

    def enable(self, delivery: Delivery) -> None:
        """Call its target again, since it took an event."""
        digest = _target_digest(delivery)
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.zrem(redis_keys.gone_targets_key(delivery.owner), digest)
            pipe.hdel(redis_keys.DISABLED_TARGETS, f"{delivery.owner}|{digest}")
            pipe.execute()

    def disabled(self, delivery: Delivery, now: float) -> bool:
        """Return whether its target has answered 410 within 30 days before `now`."""
        digest = _target_digest(delivery)
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.zscore(redis_keys.gone_targets_key(delivery.owner), digest)
            pipe.hexists(redis_keys.DISABLED_TARGETS, f"{delivery.owner}|{digest}")
            since, noted_before = pipe.execute()
        return bool(noted_before) or (since is not None and since > now - _GONE_SECONDS)


def _readable(found: Mapping[str, Delivery | None]) -> list[Delivery]:
    return [delivery for delivery in found.values() if delivery]


def _parse_delivery(record: Any) -> Delivery | None:  # noqa: ANN401 - what `pipeline_each` gives
    """Parse a record; None if it is damaged."""
    try:
        return Delivery.from_record(record)
    except (KeyError, TypeError, ValueError):
        return None


def _target_digest(delivery: Delivery) -> str:
    # A URL may hold a secret in its path: only its hash is stored.
    return hashlib.sha256(delivery.url.encode()).hexdigest()
