"""Charges a request to its caller's quota, and states the quota in the `RateLimit` headers."""

import math
from typing import Final

from flask import Flask, Response, g

from api.auth import current_owner, services
from api.errors import ApiError
from tasks.accounts.token_bucket import Rate, RateLimitResult

#: The policy of submissions, which cost 1 for each picture.
PICTURES: Final = "pictures"
_MINUTE: Final = 60


def charge(
    cost: float = 1, *, policy: str = PICTURES, rate: Rate | None = None
) -> RateLimitResult | None:
    """Charge the caller's quota, and state the rest in the response's headers.

    Args:
        cost: in the policy's unit; all of it is taken, or nothing.
        policy: name of the bucket; each has its own.
        rate: its quota; the key's own pictures a minute if None.

    Returns:
        What is left; None if the caller has no quota.

    Raises:
        ApiError: `rate_limited`: there is not enough left.
        QueueUnavailableError: Redis does not answer.
    """
    allowance = consume(cost, policy=policy, rate=rate)
    if allowance is not None and not allowance.allowed:
        raise ApiError(
            "rate_limited",
            f"Your key's quota of {allowance.rate.quota:g} {policy} in {allowance.rate.seconds} s "
            f"is used up; try again in {allowance.retry_after} s.",
            retry_after=allowance.retry_after,
        )
    return allowance


def consume(
    cost: float = 1, *, policy: str = PICTURES, rate: Rate | None = None
) -> RateLimitResult | None:
    """Charge the caller's quota as `charge` does, but return a refusal: see `allowed`."""
    owner = current_owner()
    if rate is None:
        if owner.rate_per_minute is None:
            return None
        rate = Rate(owner.rate_per_minute, _MINUTE)
    allowance = services().runtime.rate_limiter.take(owner.id, rate, cost=cost, policy=policy)
    g.allowance = allowance
    return allowance


def install_rate_headers(app: Flask) -> None:
    """State the rest of the quota in headers of draft-ietf-httpapi-ratelimit-headers."""

    @app.after_request
    def _tell(response: Response) -> Response:
        allowance: RateLimitResult | None = g.get("allowance")
        if allowance is not None:
            rate, name = allowance.rate, allowance.policy
            left = math.floor(allowance.left)
            response.headers["RateLimit-Policy"] = f'"{name}";q={rate.quota:.0f};w={rate.seconds}'
            response.headers["RateLimit"] = f'"{name}";r={left};t={allowance.reset_after}'
        return response
