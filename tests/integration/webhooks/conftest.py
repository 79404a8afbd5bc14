"""A real Valkey and real receivers for the sender."""

from collections.abc import Iterator

import pytest
from outbox import Post

from tasks.redis_client import connect
from tasks.storage.object_store import ObjectStore


@pytest.fixture
def post(redis_url: str, objects: ObjectStore) -> Iterator[Post]:
    client = connect(redis_url.removesuffix("/0") + "/9")
    client.flushdb()
    post = Post(client, objects)
    yield post
    post.sender.close()
    client.flushdb()
    client.close()
