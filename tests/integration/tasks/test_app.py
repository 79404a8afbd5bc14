"""Celery's settings, on a Redis that another application uses too."""

import time

import pytest
from celery import Celery
from redis import Redis

from tasks import redis_keys
from tasks.runtime import Runtime
from tasks.settings import Settings


@pytest.mark.parametrize("own", [True, False])
def test_only_messages_of_the_service_are_given_back_early(
    app: Celery, redis: Redis, redis_url: str, *, own: bool
) -> None:
    """The other application's tasks may run for an hour before its own workers repeat them."""
    names = (redis_keys.UNACKED, redis_keys.UNACKED_INDEX) if own else redis_keys.FORMER_UNACKED
    with (
        Celery("shop", broker=redis_url) as shop,
        (app if own else shop).connection_for_write() as connection,
        app.connection_for_read() as other,
    ):
        queue = connection.SimpleQueue("q")
        queue.put("m")
        queue.get(timeout=5)
        [tag] = redis.hkeys(names[0])
        # It was taken a minute ago, longer than the service's visibility timeout.
        redis.zincrby(names[1], -60, str(tag))
        other.default_channel.qos.restore_visible(interval=1)
        assert redis.llen("q") == own


def test_messages_go_out_by_one_client_until_the_channel_connects_again(app: Celery) -> None:
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()


def test_a_host_that_is_ahead_takes_no_message_from_a_living_worker(
    app: Celery, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that a worker holds come back by Redis's clock, and workers live by it."""
    with app.connection_for_read() as worker:
        queue = worker.SimpleQueue("q")
        queue.put("m")
        message = queue.get(timeout=5)
        with Runtime(settings) as runtime:
            runtime.registry.record_heartbeat("gpu0@h", queue="gpu.h.0", model="m")
            runtime.registry.mark_ready("gpu0@h", 30, pid=1)
        now = time.time()
        for place in ("time.time", "kombu.transport.redis.time"):
            monkeypatch.setattr(place, lambda: now + 600)
        with Runtime(settings) as elsewhere:
            assert elsewhere.registry.ready_names() == ["gpu0@h"]
            assert elsewhere.router.choose("m") == "gpu.h.0"
        with app.connection_for_read() as ahead:
            ahead.default_channel.qos.restore_visible(interval=1)
            assert redis.llen("q") == 0
            # 31 s later by the server's clock.
            redis.zadd(redis_keys.UNACKED_INDEX, {message.delivery_tag: now - 31})
            ahead.default_channel.qos.restore_visible(interval=1)
            assert redis.llen("q") == 1
