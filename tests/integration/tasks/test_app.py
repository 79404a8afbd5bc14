"""Celery's settings, on a Redis that another application uses too."""

import pytest
from celery import Celery
from redis import Redis

from tasks import redis_keys
from tasks.app import create_celery
from tasks.settings import Settings


@pytest.mark.parametrize("own", [True, False])
def test_only_messages_of_the_service_are_given_back_early(
    redis: Redis, redis_url: str, *, own: bool
) -> None:
    """The other application's tasks may run for an hour before its own workers repeat them."""
    names = (redis_keys.UNACKED, redis_keys.UNACKED_INDEX) if own else redis_keys.FORMER_UNACKED
    settings = Settings.load(redis_url=redis_url)
    with (
        create_celery(settings) as service,
        Celery("shop", broker=redis_url) as shop,
        (service if own else shop).connection_for_write() as connection,
        service.connection_for_read() as other,
    ):
        queue = connection.SimpleQueue("q")
        queue.put("m")
        queue.get(timeout=5)
        [tag] = redis.hkeys(names[0])
        # It was taken a minute ago, longer than the service's visibility timeout.
        redis.zincrby(names[1], -60, str(tag))
        other.default_channel.qos.restore_visible(interval=1)
        assert redis.llen("q") == own


def test_messages_go_out_by_one_client_until_the_channel_connects_again(redis_url: str) -> None:
    with (
        create_celery(Settings.load(redis_url=redis_url)) as service,
        service.connection_for_write() as connection,
    ):
        channel = connection.default_channel
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()
