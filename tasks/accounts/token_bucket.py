"""Rate limits: one token bucket for each owner and policy."""

import math
from dataclasses import dataclass
from typing import cast

from redis import Redis

from tasks import redis_client, redis_keys
from tasks.redis_client import redis_errors


@dataclass(frozen=True, slots=True)
class Rate:
    """A quota that refills evenly.

    Attributes:
        quota: tokens in a full bucket.
        seconds: time in which an empty bucket fills up.
    """

    quota: float
    seconds: int = 60


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """The outcome of a request for tokens.

    Attributes:
        policy: the bucket's name.
        rate: its quota.
        allowed: the tokens were taken.
        left: tokens in the bucket now.
        retry_after: whole seconds until the cost is there; 0 if the request was allowed.
        reset_after: whole seconds until the bucket is full.
    """

    policy: str
    rate: Rate
    allowed: bool
    left: float
    retry_after: int
    reset_after: int


class RateLimiter:
    """Takes from the buckets; raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def take(self, owner_id: str, rate: Rate, *, cost: float = 1, policy: str) -> RateLimitResult:
        """Take `cost` tokens from an owner's bucket, all of them or none."""
        with redis_errors():
            answer = redis_client.PRIMITIVES.run(
                self._client,
                "token_bucket",
                key=redis_keys.rate_key(owner_id, policy),
                quota=rate.quota,
                seconds=rate.seconds,
                cost=cost,
            )
        allowed, left, wait_ms, full_ms = cast("tuple[int, str, int, int]", answer)
        return RateLimitResult(
            policy=policy,
            rate=rate,
            allowed=bool(allowed),
            left=float(left),
            retry_after=math.ceil(wait_ms / 1000),
            reset_after=math.ceil(full_ms / 1000),
        )
