"""Redis's clock, which all hosts share."""

import time
from typing import cast

import pytest
from redis import Redis

from tasks.errors import QueueUnavailableError
from tasks.redis_client import RedisClock, connect

NOW = 1732652242


def test_the_time_is_that_of_redis_however_this_hosts_clock_stands(redis: Redis) -> None:
    asked, passed = 0, 0.0

    class Server:
        def time(self) -> tuple[int, int]:
            nonlocal asked
            asked += 1
            return NOW, 500_000

    clock = RedisClock(cast("Redis", Server()), monotonic=lambda: passed)
    assert clock() == NOW + 0.5
    passed += 4
    assert (clock(), asked) == (NOW + 4.5, 1)
    passed += 2
    assert (clock(), asked) == (NOW + 0.5, 2)
    assert RedisClock(redis)() == pytest.approx(time.time(), abs=5)
    with connect("redis://127.0.0.1:1") as away, pytest.raises(QueueUnavailableError):
        RedisClock(away)()
