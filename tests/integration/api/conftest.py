"""The API in this process, on a database that is empty when a test begins; tests override parts.

It is a module's, with its settings: `SETTINGS`, if it has that.
"""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.services import Services
from tests.support.api import Api
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.submissions import PICTURE, png
from tests.support.websites import website


@pytest.fixture(scope="module")
def api(request: pytest.FixtureRequest, servers: Servers, objects: object) -> Api:  # noqa: ARG001 - makes the bucket
    settings = servers.settings(servers.redis_url())
    return Api.on(services_on(settings, **getattr(request.module, "SETTINGS", {})))


@pytest.fixture(autouse=True)
def redis(api: Api, redis_url: str) -> Redis:  # noqa: ARG001 - is emptied
    return api.redis


@pytest.fixture
def shop(api: Api) -> Api:
    return api.tenant("shop")


@pytest.fixture
def studio(api: Api) -> Api:
    return api.tenant("studio")


@pytest.fixture(scope="module")
def services(api: Api) -> Services:
    return api.services


@pytest.fixture(scope="module")
def client(api: Api) -> FlaskClient:
    return api


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server with a picture, and with what is none or too large."""
    files: dict[str, bytes | str] = {
        "/cup.png": PICTURE,
        "/moved": "/cup.png",
        "/page.html": b"<!doctype html><p>not found</p>" * 9,
        "/empty.png": b"",
        "/broken.png": png("teal", (600, 600))[:200],
        "/large.png": PICTURE + bytes(3 * 2**20),
    }
    with website(files) as address:
        yield address
