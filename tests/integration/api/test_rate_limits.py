"""Token buckets in a real Redis."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from redis import Redis

from api.rate_limits import Rate, take_tokens

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


def test_what_costs_more_than_the_quota_waits_for_a_full_bucket(redis: Redis) -> None:
    rate = Rate(10, _SECONDS)
    assert take_tokens(redis, "o", rate, cost=50, policy="a").allowed
    later = take_tokens(redis, "o", rate, cost=50, policy="a")
    assert not later.allowed
    assert later.retry_after <= _SECONDS


def test_fifty_threads_share_one_bucket_exactly(redis: Redis) -> None:
    def take(_: int) -> bool:
        return take_tokens(redis, "o", Rate(20, _SECONDS), policy="a").allowed

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(take, range(50))) == 20
