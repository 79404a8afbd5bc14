"""The queues on a database that is empty when the test begins."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tasks.app import create_celery
from tasks.settings import Settings
from tests.support.queues import Queues


@pytest.fixture
def queues(server_settings: dict[str, object], redis: Redis) -> Iterator[Queues]:
    with create_celery(Settings.load(**server_settings)) as app:
        yield Queues(redis, app)
