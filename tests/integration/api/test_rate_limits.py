"""Token buckets in a real Redis."""

import threading

import pytest
from redis import Redis

from api.rate_limits import Rate, take_tokens
from tasks.redis_client import connect


@pytest.fixture
def redis(redis_url: str) -> Redis:
    client = connect(redis_url)
    client.flushdb()
    return client


def test_a_bucket_gives_what_it_holds_and_no_more(redis: Redis) -> None:
    # So slow that nothing is refilled meanwhile.
    rate = Rate(10, 100_000)
    first = take_tokens(redis, "o", rate, cost=4, policy="megapixels")
    assert (first.allowed, first.left, first.retry_after) == (True, 6, 0)
    assert take_tokens(redis, "o", rate, cost=6, policy="megapixels").allowed
    empty = take_tokens(redis, "o", rate, cost=1, policy="megapixels")
    assert not empty.allowed
    assert empty.left < 0.1
    assert 9_000 < empty.retry_after <= 10_000
    assert 99_000 < empty.reset_after <= 100_000


def test_each_owner_and_each_policy_has_its_own(redis: Redis) -> None:
    rate = Rate(1, 100_000)
    assert take_tokens(redis, "o", rate, policy="a").allowed
    assert not take_tokens(redis, "o", rate, policy="a").allowed
    assert take_tokens(redis, "o", rate, policy="b").allowed
    assert take_tokens(redis, "p", rate, policy="a").allowed


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
    rate = Rate(10, 100_000)
    assert take_tokens(redis, "o", rate, cost=50, policy="a").allowed
    later = take_tokens(redis, "o", rate, cost=50, policy="a")
    assert not later.allowed
    assert later.retry_after <= 100_000


def test_fifty_threads_share_one_bucket_exactly(redis: Redis) -> None:
    rate = Rate(20, 100_000)
    taken = []
    threads = [
        threading.Thread(
            target=lambda: taken.append(take_tokens(redis, "o", rate, policy="a").allowed)
        )
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), sum(taken)) == (50, 20)
