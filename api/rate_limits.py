"""Rate limits: a token bucket for each caller and policy, and the `RateLimit` headers."""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from flask import Flask, Response, g
from redis import Redis

from api.auth import current_owner, services
from api.callers import current_caller
from api.errors import ApiError
from tasks import lua_scripts, redis_keys
from tasks.errors import QueueUnavailableError
from tasks.redis_client import redis_errors

#: The policy of submissions, which cost 1 for each picture.
PICTURES: Final = "pictures"
#: The policy of webhooks that are sent again, which cost 1 each.
REPLAYS: Final = "replays"


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: the size of a token bucket, and how fast it refills.

    Attributes:
        quota: tokens in a full bucket.
        seconds: time in which an empty bucket fills up.
    """

    quota: float
    seconds: int = 60


#: Webhooks that an owner may send again. Each one is up to seven requests to somebody's server.
_REPLAY_RATE: Final = Rate(60)


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """The outcome of a request for tokens.

    Attributes:
        policy: the bucket's name.
        rate: of the bucket.
        allowed: the tokens were taken.
        left: tokens in the bucket now; 0 in debt.
        retry_after: whole seconds until the cost is there; 0 if the request was allowed.
        reset_after: whole seconds until the bucket is full.
    """

    policy: str
    rate: Rate
    allowed: bool
    left: float
    retry_after: int
    reset_after: int


def charge_pictures(cost: float = 1, *, spent: float = 0) -> None:
    """Take tokens for pictures from the caller's bucket, and state the rest in headers.

    Args:
        cost: number of pictures.
        spent: those that this request has been charged before; see `take_tokens`.

    Raises:
        ApiError: `rate_limited`: there is not enough left.
        QueueUnavailableError: Redis does not answer.
    """
    _require(consume(cost, spent=spent))


def charge_replay() -> None:
    """Charge the caller for a webhook that is to be sent again.

    Raises:
        ApiError: `rate_limited`: there were too many.
        QueueUnavailableError: Redis does not answer.
    """
    _require(consume(policy=REPLAYS, rate=_REPLAY_RATE))


def _require(allowance: RateLimitResult | None) -> None:
    if allowance is not None and not allowance.allowed:
        raise ApiError(
            "rate_limited",
            f"Your key's quota of {allowance.rate.quota:g} {allowance.policy} in "
            f"{allowance.rate.seconds} s is used up; try again in {allowance.retry_after} s.",
            retry_after=allowance.retry_after,
        )


def refund_pictures(cost: float) -> None:
    """Give back the tokens of pictures of which nothing was kept."""
    if cost:
        with suppress(QueueUnavailableError):  # then the bucket refills with time
            consume(-cost)


def consume(
    cost: float = 1, *, policy: str = PICTURES, rate: Rate | None = None, spent: float = 0
) -> RateLimitResult | None:
    """Take tokens from the caller's bucket, and state the rest in the response's headers.

    Args:
        cost: in the policy's unit; all of it is taken, or nothing.
        policy: name of the bucket; each has its own.
        rate: of the bucket; the key's own pictures a minute if None.
        spent: what this request has taken before; see `take_tokens`.

    Returns:
        What is left, or a refusal: see `allowed`. None if the caller has no rate limit.

    Raises:
        QueueUnavailableError: Redis does not answer.
    """
    owner = current_owner()
    if rate is None:
        if owner.rate_per_minute is None:
            return None
        rate = Rate(owner.rate_per_minute)
    g.allowance = take_tokens(
        services().runtime.redis, current_caller(), rate, cost=cost, policy=policy, spent=spent
    )
    return cast("RateLimitResult", g.allowance)


def take_tokens(
    client: Redis, caller: str, rate: Rate, *, cost: float = 1, policy: str, spent: float = 0
) -> RateLimitResult:
    """Take `cost` tokens from a caller's bucket, all of them or none; below 0, give them back.

    A request that costs more than a bucket holds passes only with a full one, and leaves a debt: so
    many tokens have to refill before the next request passes. A request that takes its tokens one
    after another names in `spent` those that it has taken, and passes as if it took them at once.

    Raises:
        QueueUnavailableError: Redis does not answer.
    """
    with redis_errors():
        answer = lua_scripts.PRIMITIVES.run(
            client,
            "token_bucket",
            key=redis_keys.rate_key(caller, policy),
            quota=rate.quota,
            seconds=rate.seconds,
            cost=cost,
            spent=spent,
        )
    allowed, left, wait_ms, full_ms = cast("tuple[int, str, int, int]", answer)
    return RateLimitResult(
        policy=policy,
        rate=rate,
        allowed=bool(allowed),
        left=max(0.0, float(left)),
        retry_after=math.ceil(wait_ms / 1000),
        reset_after=math.ceil(full_ms / 1000),
    )


def install_rate_headers(app: Flask) -> None:
    """State the rest of the rate limit in headers of draft-ietf-httpapi-ratelimit-headers."""

    @app.after_request
    def _add_headers(response: Response) -> Response:
        allowance: RateLimitResult | None = g.get("allowance")
        if allowance is not None:
            rate, name = allowance.rate, allowance.policy
            left = math.floor(allowance.left)
            response.headers["RateLimit-Policy"] = f'"{name}";q={rate.quota:.0f};w={rate.seconds}'
            response.headers["RateLimit"] = f'"{name}";r={left};t={allowance.reset_after}'
        return response
