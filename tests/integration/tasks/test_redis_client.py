"""Redis's clock, which all hosts share."""

import time
from unittest.mock import Mock

import pytest
from redis import Redis

from tasks.errors import QueueUnavailableError
from tasks.redis_client import RedisClock, connect
from tests.support.clock import Clock


def test_the_time_is_that_of_redis_however_this_hosts_clock_stands(redis: Redis) -> None:
    server, passed = Mock(**{"time.return_value": (1000, 500_000)}), Clock(0)
    clock = RedisClock(server, monotonic=passed)
    assert clock() == 1000.5
    passed.now += 4
    assert (clock(), server.time.call_count) == (1004.5, 1)
    passed.now += 2
    assert (clock(), server.time.call_count) == (1000.5, 2)
    assert RedisClock(redis)() == pytest.approx(time.time(), abs=5)
    with connect("redis://127.0.0.1:1") as away, pytest.raises(QueueUnavailableError):
        RedisClock(away)()
