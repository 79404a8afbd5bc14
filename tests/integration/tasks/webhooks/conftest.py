"""A real Valkey and real receivers for the dispatcher."""

from collections.abc import Iterator

import pytest

from tasks.object_store import ObjectStore
from tasks.redis_client import connect
from tests.support.outbox import Post


@pytest.fixture
def post(redis_url: str, objects: ObjectStore) -> Iterator[Post]:
    url = redis_url.removesuffix("/0") + "/9"
    client = connect(url)
    client.flushdb()
    post = Post(client, url, objects)
    yield post
    post.close()
    client.flushdb()
    client.close()
