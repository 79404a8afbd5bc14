"""A service with a prefix, as a user of Redis that may touch no other keys."""

from urllib.parse import urlsplit

import pytest
from celery import Celery
from redis import Redis

from tasks.housekeeping.reconcile import Reconciler
from tests.support.api import Api
from tests.support.clock import until
from tests.support.models import FakeModel
from tests.support.redis_user import PREFIX, documented_user
from tests.support.services import services_on
from tests.support.workers import make_runner


@pytest.mark.usefixtures("objects")
def test_no_key_or_channel_is_without_the_prefix(
    redis: Redis, redis_url: str, server_settings: dict[str, object]
) -> None:
    """The whole service does the same in tests/acceptance/test_shared_redis.py."""
    with documented_user(redis_url) as url:
        given = {**server_settings, "redis_url": url, "redis_prefix": PREFIX, "auth": "on"}
        api = Api.on(services_on(given)).tenant("shop")
        runtime = api.runtime
        task_id = api.submit(key="once")
        queue, app = runtime.job_store.get(task_id).queue, runtime.celery_app
        with app.connection_for_read() as worker, runtime.watcher.watch(task_id) as wait:
            until(lambda: _subscribed(redis, str(urlsplit(url).username)))
            message = worker.SimpleQueue(queue).get(timeout=30)
            assert make_runner(runtime, FakeModel()).run(task_id)
            message.ack()
            assert wait(30)
            app.control.ping(timeout=0.01)
        Reconciler(
            runtime.redis, runtime.job_store, runtime.dispatcher, runtime.registry, runtime.router
        ).run_once()
        assert api.data(f"/api/v1/tasks/{task_id}")["status"] == "succeeded"
        assert {*redis.scan_iter()} == {*redis.scan_iter(f"{PREFIX}*")}
        # Without the prefix nothing of it is there, and another application's messages stay.
        with Celery("other", broker=redis_url) as other, other.connection_for_write() as connection:
            connection.SimpleQueue(queue).put("m")
        assert services_on(server_settings).runtime.job_store.get(task_id) is None
        assert runtime.redis.llen(queue) == 0


def _subscribed(redis: Redis, user: str) -> bool:
    """Return whether a connection of a Redis user has subscribed to a channel."""
    return any(each["user"] == user for each in redis.client_list(_type="pubsub"))
