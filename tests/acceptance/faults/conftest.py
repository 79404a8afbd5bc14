"""A cluster for each file: its tests hurt it, and each finds it healed."""

from collections.abc import Iterator

import pytest

from api.services import Services
from tests.support.cluster import Cluster, cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {
        "RMBG_TIME_LIMIT": "6",
        "RMBG_MAX_MEMORY_MB": "300",
    }
    with cluster(tmp_path_factory.mktemp("cluster"), **settings) as made:
        made.start_io()
        for index in (0, 1):
            made.start_worker(index, wait=False)
        yield made


@pytest.fixture
def made(shared: Cluster) -> Cluster:
    """The file's cluster, by default two model workers and one I/O worker, all well."""
    shared.heal()
    return shared


@pytest.fixture
def services(made: Cluster) -> Services:
    return made.services()
