"""When to retry a delivery: the retry policy, and an owner's circuit breaker of each host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, cast

from redis import Redis

from tasks import lua_scripts, redis_keys
from tasks.lua_scripts import Argument
from tasks.redis_client import redis_errors
from tasks.webhooks.deliveries import Delivery, DeliveryState, RetryDecision

#: Statuses of a receiver that is overloaded.
BUSY_STATUSES: Final = frozenset({429, 502, 503, 504})
GONE_STATUS: Final = 410
SUCCESS_STATUSES: Final = range(200, 300)
#: A longer `Retry-After` is cut to this.
_MAX_RETRY_AFTER_SECONDS: Final = 24 * 3600.0
_JITTER: Final = 0.1
#: Consecutive failures that open the circuit breaker.
FAILURE_THRESHOLD: Final = 5
#: How long it is open at first; doubled at each further failure, up to `MAX_OPEN_SECONDS`.
FIRST_OPEN_SECONDS: Final = 15.0
MAX_OPEN_SECONDS: Final = 900.0
#: How long a breaker is remembered after the last failure.
_MEMORY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Decides whether and when a delivery is attempted again.

    Attributes:
        pauses: seconds after the first, second, ... failure.
        random: returns numbers from 0 up to 1, for the jitter.
    """

    pauses: Sequence[float]
    random: Callable[[], float]

    def decide(
        self, delivery: Delivery, status: int | None, retry_after: str | None, now: float
    ) -> RetryDecision:
        """Decide what follows from an attempt.

        Args:
            delivery: as it was before the attempt.
            status: of the answer; None if none came.
            retry_after: the header `Retry-After`.
            now: unix time of the answer.
        """
        if status in SUCCESS_STATUSES:
            return RetryDecision(DeliveryState.DELIVERED, now)
        if status == GONE_STATUS:
            return RetryDecision(
                DeliveryState.DEAD, now, "The receiver answered 410 Gone.", disable=True
            )
        asked = min(parse_retry_after(retry_after, now), _MAX_RETRY_AFTER_SECONDS)
        # Also after the last attempt: the pause is for the owner's other deliveries to that host.
        pause = max(asked, self.pauses[0]) if status in BUSY_STATUSES else 0.0
        if delivery.tries >= len(self.pauses):
            reason = f"{delivery.tries + 1} attempts failed."
            return RetryDecision(DeliveryState.DEAD, now, reason, pause_host=pause)
        due = now + max(self._jittered(self.pauses[delivery.tries]), asked)
        if due >= delivery.expires_at:
            reason = "The pictures expire before the next attempt."
            return RetryDecision(DeliveryState.DEAD, now, reason, pause_host=pause)
        return RetryDecision(DeliveryState.PENDING, due, pause_host=pause)

    def _jittered(self, seconds: float) -> float:
        """Add or take up to a tenth, so that the events of an outage do not come all at once."""
        return seconds * (1 + _JITTER * (2 * self.random() - 1))


def parse_retry_after(text: str | None, now: float) -> float:
    """Return the seconds that a `Retry-After` in either form asks for; 0 if it is malformed."""
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


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The circuit breaker of a host.

    Attributes:
        failures: consecutive ones.
        open_until: unix time until which the host gets no deliveries.
    """

    failures: int = 0
    open_until: float = 0.0

    @property
    def half_open(self) -> bool:
        """Return whether the host gets one delivery at a time, since it has failed repeatedly."""
        return self.failures >= FAILURE_THRESHOLD


class HostBreaker:
    """The circuit breakers of all hosts, shared by all workers through Redis.

    Each owner has its own breaker of a host: receivers of several owners may share a gateway, which
    answers for each of them.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    def state(self, owner: str, host: str) -> BreakerState:
        """Return the state of an owner's breaker of a host."""
        key = redis_keys.webhook_host_key(owner, host)
        with redis_errors():
            values = self._client.hmget(key, ["failures", "until"])
        failures, until = cast("list[str | None]", values)
        return BreakerState(int(failures or 0), float(until or 0))

    def record_success(self, owner: str, host: str) -> None:
        """Close a breaker, since the host accepted an event."""
        with redis_errors():
            self._client.delete(redis_keys.webhook_host_key(owner, host))

    def record_failure(self, owner: str, host: str, now: float) -> None:
        """Count a failure of a host; from the fifth on each opens the breaker for longer."""
        self._run(
            "record_failure",
            owner=owner,
            host=host,
            now=now,
            threshold=FAILURE_THRESHOLD,
            first=FIRST_OPEN_SECONDS,
            last=MAX_OPEN_SECONDS,
        )

    def pause(self, owner: str, host: str, now: float, seconds: float) -> None:
        """Open a breaker for some seconds, unless it stays open for longer anyway."""
        until = now + min(seconds, MAX_OPEN_SECONDS)
        self._run("pause_host", owner=owner, host=host, until=until)

    def _run(self, command: str, **arguments: Argument) -> None:
        with redis_errors():
            lua_scripts.DELIVERIES.run(self._client, command, memory=_MEMORY_SECONDS, **arguments)
