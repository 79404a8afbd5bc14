"""One cluster, which each test hurts and the next one finds healed."""

import pytest

from tasks.api_keys import new_webhook_secret
from tests.support.cluster import Cluster, cluster
from tests.support.sharing import stack_of


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    settings = {
        "RMBG_TIME_LIMIT": "6",
        "RMBG_MAX_MEMORY_MB": "300",
        "RMBG_WEBHOOK_SECRET": new_webhook_secret(),
        "RMBG_URL_ALLOW": "127.0.0.1",
    }
    running = cluster(tmp_path_factory.mktemp("cluster"), **settings)
    return stack_of(pytestconfig, "tests/acceptance/faults").enter_context(running)


@pytest.fixture
def made(shared: Cluster) -> Cluster:
    """The cluster: two model workers and one I/O worker, all well."""
    shared.heal()
    return shared
