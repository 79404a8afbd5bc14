"""The remove.bg API in this process, without a worker."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from tasks.redis_client import connect


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no worker here: what gets so far that it is waited for has been accepted."""
    monkeypatch.setattr("api.removebg.route.WAIT_SECONDS", 0.05)


@pytest.fixture
def services(server_settings: dict[str, object], objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    own = str(server_settings["redis_url"]).removesuffix("/0") + "/12"
    connect(own).flushdb()
    settings = ApiSettings.load(
        **{
            **server_settings,
            "redis_url": own,
            "max_image_mb": 2,
        }
    )
    return Services.from_settings(settings)


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client
