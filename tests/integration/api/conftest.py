"""The API in this process, on a database that is empty when a test begins; tests override parts.

The services are a module's, with its settings: `SETTINGS`, if it has that.
"""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.services import Services
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.tenants import Tenant, tenant


@pytest.fixture(scope="module")
def services(request: pytest.FixtureRequest, servers: Servers, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    settings = servers.settings(servers.redis_url())
    return services_on(settings, **getattr(request.module, "SETTINGS", {}))


@pytest.fixture(autouse=True)
def redis(services: Services, redis_url: str) -> Redis:  # noqa: ARG001 - is emptied
    return services.runtime.redis


@pytest.fixture(scope="module")
def app(services: Services) -> Flask:
    return create_app(services)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def shop(client: FlaskClient, services: Services) -> Tenant:
    return tenant(services, "shop", client)


@pytest.fixture
def studio(client: FlaskClient, services: Services) -> Tenant:
    return tenant(services, "studio", client)
