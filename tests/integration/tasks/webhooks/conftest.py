"""A real Valkey and real receivers for the dispatcher."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from tasks.object_store import ObjectStore
from tests.support.outbox import Post


@pytest.fixture
def post(redis: Redis, redis_url: str, objects: ObjectStore) -> Iterator[Post]:
    with ThreadPoolExecutor(8) as threads:
        post = Post(redis, redis_url, objects, threads)
        yield post
        post.app.close()
