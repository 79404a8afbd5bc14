"""A clock that stands still, for stores and registries alike, and queues on an empty database."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tasks.app import create_celery
from tasks.settings import Settings
from tests.support.clock import Clock
from tests.support.queues import Queues


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queues(server_settings: dict[str, object], redis: Redis) -> Iterator[Queues]:
    with create_celery(Settings.load(**server_settings)) as app:
        yield Queues(redis, app)
