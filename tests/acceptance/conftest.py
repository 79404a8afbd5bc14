"""The running service, and what its tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.settings import Settings
from tests.support.paths import DATA
from tests.support.servers import Servers
from tests.support.service import HOST, RunningService, running_service


@pytest.fixture(scope="session")
def service_environment(servers: Servers) -> dict[str, str]:
    settings = Settings.load()
    fetch_model(get_spec("u2netp"), settings.model_dir)
    return {
        "RMBG_REDIS_URL": servers.new_database(),
        "RMBG_S3_ENDPOINT": servers.s3.endpoint,
        "RMBG_S3_ACCESS_KEY": servers.s3.access_key,
        "RMBG_S3_SECRET_KEY": servers.s3.secret_key,
        "RMBG_S3_BUCKET": f"{servers.bucket}-acceptance",
        "RMBG_MODEL": "u2netp",
        "RMBG_MODEL_DIR": str(settings.model_dir),
        "RMBG_HOST": HOST,
        "RMBG_THREADS": "2",
        "RMBG_API_WORKERS": "1",
        # Tests of keys start an API of their own beside it, on the same Redis.
        "RMBG_AUTH": "off",
    }


@pytest.fixture(scope="session")
def service(
    service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    with running_service(service_environment, tmp_path_factory.mktemp("logs")) as service:
        yield service


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    return sorted(DATA.glob("*.jpg"))
