"""A real Valkey and real receivers for the dispatcher."""

from collections.abc import Iterator

import pytest

from tasks.object_store import ObjectStore
from tests.support.jobs import database_url, empty_database
from tests.support.outbox import Post


@pytest.fixture
def post(redis_url: str, objects: ObjectStore) -> Iterator[Post]:
    with empty_database(redis_url, 9) as client:
        post = Post(client, database_url(redis_url, 9), objects)
        yield post
        post.close()
        client.flushdb()
