"""Leaves a receiver alone that does not answer, so that it holds up nobody else's events."""

from dataclasses import dataclass
from typing import Final, cast

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors

#: So many failures in a row open the breaker.
THRESHOLD: Final = 5
FIRST_PAUSE_SECONDS: Final = 15.0
LAST_PAUSE_SECONDS: Final = 900.0
_MEMORY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Health:
    """How a host has behaved.

    Attributes:
        failures: in a row.
        until: unix time until which it is left alone.
    """

    failures: int = 0
    until: float = 0.0

    @property
    def suspect(self) -> bool:
        """It has failed so often that one attempt at a time is enough."""
        return self.failures >= THRESHOLD


class Breaker:
    """One for each host, shared by all senders through Redis."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def health(self, host: str) -> Health:
        """What is known of a host."""
        with redis_errors():
            values = self._client.hmget(keys.receiver_key(host), ["failures", "until"])
        failures, until = cast("list[str | None]", values)
        return Health(int(failures or 0), float(until or 0))

    def succeeded(self, host: str) -> None:
        """It took an event: all is forgotten."""
        with redis_errors():
            self._client.delete(keys.receiver_key(host))

    def failed(self, host: str, now: float) -> None:
        """It did not; after some failures in a row it is left alone, longer each time."""
        with redis_errors():
            failures = self._client.hincrby(keys.receiver_key(host), "failures", 1)
            self._client.expire(keys.receiver_key(host), _MEMORY_SECONDS)
        if failures >= THRESHOLD:
            self.pause(host, now, FIRST_PAUSE_SECONDS * 2 ** min(failures - THRESHOLD, 10))

    def pause(self, host: str, now: float, seconds: float) -> None:
        """Leave it alone for a while."""
        until = now + min(seconds, LAST_PAUSE_SECONDS)
        with redis_errors():
            self._client.hset(keys.receiver_key(host), "until", str(until))
            self._client.expire(keys.receiver_key(host), _MEMORY_SECONDS)
