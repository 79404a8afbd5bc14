"""How much an owner may ask for in a time: token buckets in Redis."""

import math
from dataclasses import dataclass
from importlib.resources import files
from typing import cast

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors


@dataclass(frozen=True, slots=True)
class Rate:
    """A quota that refills evenly.

    Attributes:
        quota: what a full bucket holds.
        seconds: in which an empty one fills up.
    """

    quota: float
    seconds: int = 60


@dataclass(frozen=True, slots=True)
class Allowance:
    """What came of taking from a bucket.

    Attributes:
        policy: the bucket's name.
        rate: its quota.
        taken: was there enough?
        left: what it holds now.
        retry_after: whole seconds until what was asked for is there; 0 if it was taken.
        reset_after: whole seconds until the bucket is full.
    """

    policy: str
    rate: Rate
    taken: bool
    left: float
    retry_after: int
    reset_after: int


class RateLimiter:
    """The buckets; raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        script = files("tasks.lua").joinpath("take.lua").read_text()
        self._take = client.register_script(script)

    def take(self, owner_id: str, rate: Rate, *, cost: float = 1, policy: str) -> Allowance:
        """Take `cost` from an owner's bucket, all of it or nothing."""
        with redis_errors():
            answer = self._take(
                keys=[keys.rate_key(owner_id, policy)], args=[rate.quota, rate.seconds, cost]
            )
        taken, left, wait_ms, full_ms = cast("tuple[int, str, int, int]", answer)
        return Allowance(
            policy=policy,
            rate=rate,
            taken=bool(taken),
            left=float(left),
            retry_after=math.ceil(wait_ms / 1000),
            reset_after=math.ceil(full_ms / 1000),
        )
