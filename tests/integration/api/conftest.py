"""The API in this process, on a Redis database of its own; tests may override each part."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from tasks.redis_client import connect


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url.removesuffix("/0") + "/8") as client:
        client.flushdb()
        yield client


@pytest.fixture
def services(
    server_settings: dict[str, object],
    objects: object,  # noqa: ARG001 - makes the bucket
    redis: Redis,  # noqa: ARG001 - empties the database
) -> Services:
    own = str(server_settings["redis_url"]).removesuffix("/0") + "/8"
    return Services.from_settings(ApiSettings.load(**{**server_settings, "redis_url": own}))


@pytest.fixture
def app(services: Services) -> Flask:
    return create_app(services)


@pytest.fixture
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client
