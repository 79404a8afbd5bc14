"""An API that asks for keys, and a shop that has one; tests may override each part."""

import pytest

from api.services import Services
from tests.support.servers import Servers
from tests.support.tenants import Tenant, services_with_keys, tenant


@pytest.fixture(scope="module")
def services(servers: Servers, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return services_with_keys(servers.settings(servers.new_database()))


@pytest.fixture
def shop(services: Services) -> Tenant:
    return tenant(services, f"shop-{len(services.runtime.api_keys.list())}")
