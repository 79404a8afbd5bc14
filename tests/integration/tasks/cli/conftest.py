"""The celery commands in this process, on a Redis database of their own."""

from collections.abc import Iterator

import pytest
from click import Command
from redis import Redis

from tasks.app import create_celery
from tasks.cli.jobs import jobs
from tasks.settings import Settings
from tests.support.commands import Operator


@pytest.fixture
def command() -> Command:
    """The command that the operator gives."""
    return jobs


@pytest.fixture
def operator(
    command: Command, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operator]:
    monkeypatch.setenv("RMBG_REDIS_URL", redis_url)
    with create_celery(Settings.load()) as app:
        yield Operator(command, app, redis)
