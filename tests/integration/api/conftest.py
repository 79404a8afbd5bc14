"""The API in this process, on a database that is empty when a test begins; tests override parts.

It is a module's, with its settings `SETTINGS` and its own bucket `BUCKET`, if it has these.
"""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.support.api import Api
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.submissions import PICTURE, png
from tests.support.websites import website


@pytest.fixture(scope="module")
def api(request: pytest.FixtureRequest, servers: Servers) -> Api:
    module = vars(request.module)
    bucket = f"{servers.bucket}{module.get('BUCKET', '')}"
    settings = servers.settings(servers.redis_url(), s3_bucket=bucket)
    api = Api.on(services_on(settings, **module.get("SETTINGS", {})))
    api.objects.ensure_bucket()
    return api


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
