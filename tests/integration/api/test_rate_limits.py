"""Token buckets in a real Redis, and the quota of pictures as its owner sees it."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from redis import Redis

from api.rate_limits import Rate, take_tokens
from tests.support.api import Api
from tests.support.submissions import refusal

SETTINGS = {"auth": "on"}

# So slow that nothing is refilled meanwhile.
_SECONDS = 100_000


def test_a_bucket_gives_what_it_holds_and_no_more(redis: Redis) -> None:
    take = partial(take_tokens, redis, "o", Rate(10, _SECONDS), policy="megapixels")
    first = take(cost=4)
    assert (first.allowed, first.left, first.retry_after) == (True, 6, 0)
    assert take(cost=6).allowed
    empty = take(cost=1)
    assert not empty.allowed
    assert empty.left < 0.1
    assert 9_000 < empty.retry_after <= 10_000
    assert 99_000 < empty.reset_after <= _SECONDS
    # Each owner and each policy has its own.
    for owner, policy in (("o", "pictures"), ("p", "megapixels")):
        assert take_tokens(redis, owner, Rate(1, _SECONDS), policy=policy).allowed


def test_a_bucket_refills_with_time(redis: Redis) -> None:
    rate = Rate(1000, 1)
    assert take_tokens(redis, "o", rate, cost=1000, policy="a").allowed
    done = threading.Event()
    for _ in range(200):
        if take_tokens(redis, "o", rate, cost=20, policy="a").allowed:
            break
        done.wait(0.02)
    else:
        pytest.fail("it never refilled")
    # Redis's clock has been set back since.
    redis.hset("rmbg:rate:a:o", mapping={"left": 1000, "at": time.time() + 3600})
    assert take_tokens(redis, "o", rate, cost=20, policy="a").allowed


@pytest.mark.parametrize("steps", [1, 50], ids=["at once", "one after another"])
def test_what_costs_more_than_the_quota_needs_a_full_bucket_and_leaves_a_debt(
    redis: Redis, steps: int
) -> None:
    take = partial(take_tokens, redis, "o", Rate(10, _SECONDS), policy="a")
    assert all(take(cost=50 // steps, spent=n * 50 // steps).allowed for n in range(steps))
    # 40 beyond the quota: one token is there when 41 have refilled.
    later = take(cost=1)
    assert (later.allowed, later.left) == (False, 0)
    assert 400_000 < later.retry_after <= 410_000
    assert redis.ttl("rmbg:rate:a:o") > 4 * _SECONDS
    # What is given back is there again, and not more than the quota.
    assert take(cost=-60).left == 10


def test_what_does_not_fit_one_after_another_does_not_fit_at_once(redis: Redis) -> None:
    take = partial(take_tokens, redis, "o", Rate(10, _SECONDS), policy="a")
    assert take(cost=5).allowed
    assert not take(cost=40).allowed
    assert [take(spent=n).allowed for n in range(6)] == [*[True] * 5, False]


def test_fifty_threads_share_one_bucket_exactly(redis: Redis) -> None:
    def take(_: int) -> bool:
        return take_tokens(redis, "o", Rate(20, _SECONDS), policy="a").allowed

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(take, range(50))) == 20


def test_a_quota_counts_pictures_and_is_stated(api: Api, studio: Api) -> None:
    shop = api.tenant("shop", rate_per_minute=2)
    first, again, second = shop.send(key="k"), shop.send(key="k"), shop.send()
    assert [each.status_code for each in (first, again, second)] == [202] * 3
    assert first.headers["RateLimit-Policy"] == '"pictures";q=2;w=60'
    assert re.fullmatch(r'"pictures";r=1;t=\d+', first.headers["RateLimit"])
    refused = shop.send()
    assert refusal(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["RateLimit"].startswith('"pictures";r=0;')
    # Looking costs nothing, and other keys have their own.
    assert shop.data("/api/v1/tasks")
    assert "RateLimit" not in studio.send().headers
