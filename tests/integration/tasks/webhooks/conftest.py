"""A real Valkey and real receivers for the dispatcher."""

from collections.abc import Iterator

import pytest

from tasks.object_store import ObjectStore
from tasks.redis_client import connect
from tests.support.outbox import Post


@pytest.fixture
def post(redis_url: str, objects: ObjectStore) -> Iterator[Post]:
    with connect(redis_url) as client:
        post = Post(client, redis_url, objects)
        yield post
        post.close()
        client.flushdb()
