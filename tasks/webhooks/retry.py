"""When to retry a delivery: the retry policy, and the circuit breaker of each receiving host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, cast

from redis import Redis

from tasks import redis_keys
from tasks.redis_client import redis_errors
from tasks.webhooks.delivery import Delivery, DeliveryState

#: Answers by which a receiver says that it has too much to do.
BUSY_STATUSES: Final = frozenset({429, 502, 503, 504})

GONE_STATUS: Final = 410

_SUCCESS_STATUSES: Final = range(200, 300)

#: A `Retry-After` beyond this is not believed.
_MAX_RETRY_AFTER_SECONDS: Final = 24 * 3600.0

_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What becomes of a delivery.

    Attributes:
        state: that follows.
        due: unix time of the next attempt; of the end if there is none.
        reason: why it is dead.
        pause_host: seconds for which its host is left alone.
        disable: its target is not to be called again.
    """

    state: DeliveryState
    due: float
    reason: str = ""
    pause_host: float = 0.0
    disable: bool = False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again.

    Attributes:
        pauses: seconds after the first, second, ... failure.
        random: from 0 up to 1, for the jitter.
    """

    pauses: Sequence[float]
    random: Callable[[], float]

    def decide(
        self, delivery: Delivery, status: int | None, retry_after: str | None, now: float
    ) -> RetryDecision:
        """What follows from one more attempt.

        Args:
            delivery: as it was before it.
            status: of the answer; None if there was none.
            retry_after: that header.
            now: unix time of the answer.
        """
        if status in _SUCCESS_STATUSES:
            return RetryDecision(DeliveryState.DELIVERED, now)
        if status == GONE_STATUS:
            return RetryDecision(
                DeliveryState.DEAD, now, "The receiver answered 410 Gone.", disable=True
            )
        asked = min(parse_retry_after(retry_after, now), _MAX_RETRY_AFTER_SECONDS)
        if delivery.tries >= len(self.pauses):
            return RetryDecision(DeliveryState.DEAD, now, f"{delivery.tries + 1} attempts failed.")
        due = now + max(self._jittered(self.pauses[delivery.tries]), asked)
        if due >= delivery.expires_at:
            return RetryDecision(
                DeliveryState.DEAD, now, "The pictures expire before the next attempt."
            )
        busy = status in BUSY_STATUSES
        return RetryDecision(
            DeliveryState.PENDING, due, pause_host=max(asked, self.pauses[0]) if busy else 0.0
        )

    def _jittered(self, seconds: float) -> float:
        """Up to a tenth more or less, lest all of an outage's events come at the same moment."""
        return seconds * (1 + _JITTER * (2 * self.random() - 1))


def parse_retry_after(text: str | None, now: float) -> float:
    """Seconds that a `Retry-After` asks for, in either of its forms; 0 if it cannot be read."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year or a zone of very many digits
        return 0.0
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(now, UTC)).total_seconds())


#: So many failures in a row open the breaker.
FAILURE_THRESHOLD: Final = 5

FIRST_OPEN_SECONDS: Final = 15.0

MAX_OPEN_SECONDS: Final = 900.0

_MEMORY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class BreakerState:
    """How a host has behaved.

    Attributes:
        failures: in a row.
        open_until: unix time until which it is left alone.
    """

    failures: int = 0
    open_until: float = 0.0

    @property
    def half_open(self) -> bool:
        """It has failed so often that one attempt at a time is enough."""
        return self.failures >= FAILURE_THRESHOLD


class HostBreaker:
    """One for each host, shared by all senders through Redis."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def state(self, host: str) -> BreakerState:
        """What is known of a host."""
        with redis_errors():
            values = self._client.hmget(redis_keys.webhook_host_key(host), ["failures", "until"])
        failures, until = cast("list[str | None]", values)
        return BreakerState(int(failures or 0), float(until or 0))

    def record_success(self, host: str) -> None:
        """It took an event: all is forgotten."""
        with redis_errors():
            self._client.delete(redis_keys.webhook_host_key(host))

    def record_failure(self, host: str, now: float) -> None:
        """It did not; after some failures in a row it is left alone, longer each time."""
        with redis_errors():
            failures = self._client.hincrby(redis_keys.webhook_host_key(host), "failures", 1)
            self._client.expire(redis_keys.webhook_host_key(host), _MEMORY_SECONDS)
        if failures >= FAILURE_THRESHOLD:
            self.pause(host, now, FIRST_OPEN_SECONDS * 2 ** min(failures - FAILURE_THRESHOLD, 10))

    def pause(self, host: str, now: float, seconds: float) -> None:
        """Leave it alone for a while."""
        until = now + min(seconds, MAX_OPEN_SECONDS)
        with redis_errors():
            self._client.hset(redis_keys.webhook_host_key(host), "until", str(until))
            self._client.expire(redis_keys.webhook_host_key(host), _MEMORY_SECONDS)
