"""Token buckets in a real Redis."""

import threading

import pytest

from tasks.accounts.token_bucket import Rate, RateLimiter
from tasks.redis_client import connect


@pytest.fixture
def limiter(redis_url: str) -> RateLimiter:
    client = connect(redis_url.removesuffix("/0") + "/12")
    client.flushdb()
    return RateLimiter(client)


def test_a_bucket_gives_what_it_holds_and_no_more(limiter: RateLimiter) -> None:
    # So slow that nothing is refilled meanwhile.
    rate = Rate(10, 100_000)
    first = limiter.take("o", rate, cost=4, policy="megapixels")
    assert (first.allowed, first.left, first.retry_after) == (True, 6, 0)
    assert limiter.take("o", rate, cost=6, policy="megapixels").allowed
    empty = limiter.take("o", rate, cost=1, policy="megapixels")
    assert not empty.allowed
    assert empty.left < 0.1
    assert 9_000 < empty.retry_after <= 10_000
    assert 99_000 < empty.reset_after <= 100_000


def test_each_owner_and_each_policy_has_its_own(limiter: RateLimiter) -> None:
    rate = Rate(1, 100_000)
    assert limiter.take("o", rate, policy="a").allowed
    assert not limiter.take("o", rate, policy="a").allowed
    assert limiter.take("o", rate, policy="b").allowed
    assert limiter.take("p", rate, policy="a").allowed


def test_a_bucket_refills_with_time(limiter: RateLimiter) -> None:
    rate = Rate(1000, 1)
    assert limiter.take("o", rate, cost=1000, policy="a").allowed
    done = threading.Event()
    for _ in range(200):
        if limiter.take("o", rate, cost=20, policy="a").allowed:
            break
        done.wait(0.02)
    else:
        pytest.fail("it never refilled")


def test_what_costs_more_than_the_quota_waits_for_a_full_bucket(limiter: RateLimiter) -> None:
    rate = Rate(10, 100_000)
    assert limiter.take("o", rate, cost=50, policy="a").allowed
    later = limiter.take("o", rate, cost=50, policy="a")
    assert not later.allowed
    assert later.retry_after <= 100_000


def test_fifty_threads_share_one_bucket_exactly(limiter: RateLimiter) -> None:
    rate = Rate(20, 100_000)
    taken = []
    threads = [
        threading.Thread(target=lambda: taken.append(limiter.take("o", rate, policy="a").allowed))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), sum(taken)) == (50, 20)
